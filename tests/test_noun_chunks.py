"""Without a parser, rules find what an expression is about, and what a caption speaks of."""

import pytest
from golden_states import read_json

from hf_ris.modeling.expression_parsing import target_phrase
from hf_ris.modeling.noun_chunks import parse_by_rules


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


@pytest.mark.parametrize("text", ["", "on the left", "...", "left", "ß 左"])
def test_what_has_no_noun_is_taken_whole(text):
    parse = parse_by_rules(text)
    assert target_phrase(parse) in (text, "left", "the left", "ß 左")


def test_captions_have_the_chunks_that_a_parser_finds():
    captions = [record for record in read_json("tas", "phrases.json")["captions"] if "three" not in record["caption"]]
    for record in captions:
        parse = parse_by_rules(record["caption"])
        found = [parse.text(chunk.start, chunk.end) for chunk in parse.chunks]
        assert found == [text for text, *_ in record["parse"]["chunks"]], record["caption"]
