"""Without a parser, rules find what an expression is about, and what a caption speaks of."""

import json

import pytest
from golden_states import read_json

from hf_ris.modeling.language_expression import Expression
from hf_ris.modeling.language_negatives import negative_phrases
from hf_ris.modeling.language_parsing import parse_by_rules


@pytest.mark.parametrize(
    ("expression", "phrase"),
    [
        ("the mug", "the mug"),
        ("left guy in the blue shirt", "left guy"),
        ("the bear closest to us", "the bear"),
        ("standing giraffe", "standing giraffe"),
        ("man standing on the left", "man"),
        ("black and white striped shirt", "black and white striped shirt"),
        ("cup left", "cup"),
        ("top row second from left", "top row"),
        ("the woman holding a phone", "the woman"),
        ("half of the pizza", "half"),
        ("white building", "white building"),
        ("the sitting one", "the sitting one"),
        ("the man's left hand", "the man 's left hand"),
        ("the man\u2019s", "the man"),
        ("giraffe #2 from the left", "giraffe"),
        ("cat immediately to the right of the bowl", "cat"),
        ("guy way in the back", "guy"),
        ("dog - left", "dog"),
        ("the left - most man", "the left most man"),
        ("the one that's red", "the one"),
        ("t-shirt", "t-shirt"),
        ("the near zebra", "the near zebra"),
    ],
)
def test_the_referent_comes_first(expression, phrase):
    assert Expression(expression).noun_phrase == phrase


@pytest.mark.parametrize(
    "text",
    [
        "where is the dog?",
        "where's the dog?",
        "the dog!",
        '"the dog"',
        "'the dog'",
        "\u201cthe dog\u201d",
        "(the dog)",
        "the dog (brown)",
        "the dog: left",
        "the (red) dog",
        "the dog's left ear",
    ],
)
def test_marks_are_no_part_of_a_word(text):
    caption = parse_by_rules("a dog and a cat on a sofa")
    assert negative_phrases(caption, Expression(text)) == ["a photo of a cat", "a photo of a sofa"]


@pytest.mark.parametrize(
    ("text", "phrase"), [("", ""), ("on the left", "the left"), ("...", "..."), ("left", "left"), ("ß 左", "ß 左")]
)
def test_what_names_no_thing_has_a_phrase_too(text, phrase):
    assert Expression(text).noun_phrase == phrase


def test_captions_have_the_chunks_that_a_parser_finds():
    captions = [record for record in read_json("tas", "phrases.json")["captions"] if "three" not in record["caption"]]
    for record in captions:
        parse = parse_by_rules(record["caption"])
        found = [parse.text(chunk.start, chunk.end) for chunk in parse.chunks]
        assert found == [text for text, *_ in record["parse"]["chunks"]], record["caption"]


def test_real_expressions_have_a_parsers_phrases(real_data):
    path = real_data / "expressions" / "refcoco_val_noun_phrases.jsonl"
    rows = [row for row in map(json.loads, path.read_text(encoding="utf-8").splitlines()) if row["found"]]
    phrases = heads = 0
    for row in rows:
        expression = Expression(row["text"])
        phrases += expression.noun_phrase == row["noun_phrase"]
        heads += expression.head == row["head"]
    assert phrases / len(rows) >= 0.85
    assert heads / len(rows) >= 0.92
