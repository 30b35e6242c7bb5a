"""Without a parser, rules find what an expression is about, and what a caption speaks of."""

import json

import pytest
from golden_states import read_json

from hf_ris.modeling.language_parsing import find_target, parse_by_rules, target_phrase


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
    ],
)
def test_the_target_comes_first(expression, phrase):
    assert target_phrase(parse_by_rules(expression)) == phrase


@pytest.mark.parametrize(
    ("text", "phrase"), [("", ""), ("on the left", "the left"), ("...", "..."), ("left", "left"), ("ß 左", "ß 左")]
)
def test_what_names_no_thing_has_a_phrase_too(text, phrase):
    assert target_phrase(parse_by_rules(text)) == phrase


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
        parse = parse_by_rules(row["text"].lower())
        chunk = find_target(parse)
        phrases += target_phrase(parse) == row["noun_phrase"]
        heads += chunk is not None and parse.words[chunk.root].text == row["head"]
    assert phrases / len(rows) >= 0.85
    assert heads / len(rows) >= 0.92
