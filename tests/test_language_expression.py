"""An expression is read once, whoever asks; the mirrored image has mirrored words."""

import numpy as np
import tiny_parts
from transformers import pipeline

from hf_ris.modeling import language_expression
from hf_ris.modeling.language_expression import LOOK, PLACE, RELATION, Expression
from hf_ris.modeling.language_parsing import parse_by_rules


def test_one_reading_has_it_all():
    parsed = []
    expression = Expression("The red Mug on the left", lambda text: parsed.append(text) or parse_by_rules(text))
    assert parsed == []
    assert expression.noun_phrase == "the red mug"
    assert expression.noun_phrase_words == ["the", "red", "mug"]
    assert expression.head == "mug"
    assert expression.names_referent
    assert [place.axis for place in expression.places] == ["x"]
    assert parsed == ["The red Mug on the left"]


def test_kinds_need_no_parse():
    kinds = {"the mug on the left": PLACE, "the mug by far": PLACE, "mug next to the book": RELATION, "red mug": LOOK}
    assert {text: Expression(text, parser=None).kind for text in kinds} == kinds


def test_tas_reads_an_expression_once(monkeypatch):
    model = pipeline("zero-shot-referring-segmentation", device="cpu").model
    monkeypatch.setattr(model.config, "negative_weight", 0.7)
    monkeypatch.setattr(model.captioner, "caption", lambda images: ["a cat and a dog"] * len(images))
    parsed, read = [], []
    parse, read_places = model._parse, language_expression.read_places
    monkeypatch.setattr(model, "_parse", lambda text: parsed.append(text) or parse(text))
    monkeypatch.setattr(language_expression, "read_places", lambda text: read.append(text) or read_places(text))
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    regions = tiny_parts.boxes((64, 64), (0, 0, 30, 30), (40, 10, 60, 60), (10, 40, 40, 62))
    answer = model([image], ["the dog on the left"], [regions], explain=True)
    assert answer.explanations[0]["negatives"] == ["a photo of a cat"]
    assert sorted(parsed) == ["a cat and a dog", "the dog on the left"]
    assert read == ["the dog on the left"]
    model([image], ["the second mug from the right"], [regions])
    assert parsed[2:] == read[1:] == ["the second mug from the right"]
