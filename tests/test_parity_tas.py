"""What TAS's released code decides is reproduced: noun phrases, mentions, quadrants, kept regions, images of regions."""

from typing import Any

import numpy as np
import pytest
import torch
from golden_states import GOLDEN, read_json
from safetensors.numpy import load_file

from hf_ris.modeling.as_published import (
    Mention,
    PublishedTASSteps,
    blur,
    centre_of,
    cut_out_as_published,
    negatives_as_published,
    read_mention,
    rectify_as_published,
    widen_chunks,
)
from hf_ris.modeling.configuration_zero_shot import TASConfig
from hf_ris.modeling.language_expression import Expression
from hf_ris.modeling.language_negatives import negative_phrases
from hf_ris.modeling.language_parsing import Chunk, Parse, Word, parse_by_rules
from hf_ris.modeling.modeling_tas import TASForReferringSegmentation
from hf_ris.modeling.modeling_zero_shot import unit
from hf_ris.modeling.zero_shot_regions import cut_out, filter_regions


EXPRESSIONS = read_json("tas", "spatial.json")
TINY_CLIP = {
    "model_type": "clip",
    "text_config": {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8},
    "vision_config": {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8},
}
IMAGES = load_file(GOLDEN / "tas" / "pictures.safetensors")


def recorded_parse(record: dict[str, Any]) -> Parse:
    words = [Word(text, tag, head) for text, _, tag, _, _, head in record["parse"]["tokens"]]
    chunks = [Chunk(start, end, root) for _, start, end, root in record["parse"]["chunks"]]
    return Parse(record["text"].lower(), tuple(words), tuple(chunks))


def as_recorded(mention: Mention | None) -> dict[str, Any] | None:
    if mention is None:
        return None
    return {
        "head": mention.phrase,
        "superlatives": sorted(sorted(chain) for chain in mention.superlatives),
        "relations": sorted(([sorted(chain), as_recorded(other)] for chain, other in mention.relations), key=str),
    }


def normalised(entity: dict[str, Any] | None) -> dict[str, Any] | None:
    """A recorded entity without what is not compared: spans, order, and how its tokens were spaced."""
    if entity is None:
        return None
    return {
        "head": entity["head"].replace(";", " ;").replace(".", " ."),
        "superlatives": sorted(sorted(chain) for chain in entity["superlatives"]),
        "relations": sorted(([sorted(chain), normalised(other)] for chain, other in entity["relations"]), key=str),
    }


@pytest.mark.parametrize("record", EXPRESSIONS, ids=lambda record: record["text"])
def test_expressions_are_read_and_rectified_as_published(record):
    parse = recorded_parse(record)
    expression = Expression(record["text"], lambda _: parse)
    assert expression.noun_phrase == record["local_sent"]
    if record["expanded"]:
        assert {str(word): list(span) for word, span in widen_chunks(parse).items()} == record["expanded"]
    assert as_recorded(read_mention(parse)) == normalised(record["entity"])
    for case in record["cases"]:
        chosen = rectify_as_published(expression, case["rowcol"], case["weights"])
        assert chosen == case["index"]


def test_the_noun_phrase_follows_global_locals_rule():
    for example in read_json("global_local", "noun_phrase.json")["examples"]:
        tokens = example["tokens"]
        chunks, start = [], 0
        for text in example["chunks"]:
            length = len(text.split())
            start = next(
                place for place in range(start, len(tokens)) if " ".join(tokens[place : place + length]) == text
            )
            chunks.append(Chunk(start, start + length, start))
            start += length
        words = (Word(text, "", head) for text, head in zip(tokens, example["heads"], strict=True))
        parse = Parse(example["joined"], tuple(words), tuple(chunks))
        phrase = Expression(example["sentence"], lambda _: parse).noun_phrase  # noqa: B023
        assert phrase == example["noun_phrase"], example["sentence"]


def test_nothing_is_the_referent_of_nothing():
    assert Expression("", lambda _: Parse("", (), ())).chunk is None
    assert read_mention(Parse("", (), ())) is None


@pytest.mark.parametrize("record", read_json("tas", "overlap.json"), ids=lambda record: record["name"])
def test_proposals_are_filtered_as_published(record):
    number, height, width = record["shape"]
    packed = np.load(GOLDEN / "tas" / "overlap_masks.npz")[f"{record['name']}.masks_packed"]
    masks = np.unpackbits(packed, axis=-1)[..., :width].astype(bool).reshape(number, height, width)
    assert filter_regions(masks).tolist() == record["kept"]
    assert filter_regions(masks[::-1]).tolist() == record["kept_reversed"]
    if "kept_area200_iou0.2" in record:
        assert filter_regions(masks, min_area=200, max_overlap=0.2).tolist() == record["kept_area200_iou0.2"]


@pytest.mark.parametrize("record", read_json("tas", "pictures.json"), ids=lambda record: record["key"])
def test_regions_are_cut_out_as_published(record):
    name, number, box = record["key"].split(".")
    image, mask = IMAGES[f"{name}.image"], IMAGES[f"{name}.{number}.mask"]
    blurred = blur(image)
    assert (blurred == IMAGES[f"{name}.gaussian75"]).all()
    assert [int(place) for place in centre_of(mask)] == record["centroid_row_col"]
    if box == "sam":
        assert np.array_equal(cut_out_as_published(image, mask), IMAGES[f"{record['key']}.crop"])
        assert np.array_equal(cut_out_as_published(image, mask, blurred), IMAGES[f"{record['key']}.blur"])


def test_cut_outs_hold_the_whole_region_and_are_square():
    image = np.full((20, 30, 3), 200, np.uint8)
    mask = np.zeros((20, 30), bool)
    mask[3:8, 10:22] = True
    crop = cut_out(image, mask)
    assert crop.shape == (12, 12, 3)
    assert (crop == 200).all(axis=2).sum() == mask.sum()


@pytest.mark.parametrize("record", read_json("tas", "fusion.json"), ids=lambda record: record["key"])
def test_scores_are_fused_as_published(record):
    tensors = {
        name.removeprefix(f"{record['key']}."): torch.from_numpy(tensor)
        for name, tensor in load_file(GOLDEN / "tas" / "fusion.safetensors").items()
        if name.startswith(f"{record['key']}.")
    }
    model = TASForReferringSegmentation(TASConfig(mode="paper", image_text_config=TINY_CLIP))
    with torch.no_grad():
        model.image_text.network.logit_scale.fill_(np.log(100.0))
        crops, captions, expression, negatives = (
            unit(tensors[name].view(-1, tensors[name].shape[-1]))
            for name in ("image_features", "text_captions", "text_expression", "text_negatives")
        )
        terms = {
            "V": model._compare(expression, crops)[0],
            "P": model._compare(expression, captions)[0],
            "N": model._compare(negatives, crops).mean(dim=0),
        }
    for name, values in terms.items():
        assert (values - tensors[name][:, 0]).abs().max() <= 1e-4
    shares = PublishedTASSteps.share_out(model.combine(**terms))
    assert torch.allclose(shares, tensors["similarity"][:, 0], atol=1e-6, equal_nan=True)
    assert int(shares.argmax()) == record["index"]


@pytest.mark.parametrize("caption", read_json("tas", "phrases.json")["captions"], ids=lambda each: each["caption"])
def test_negative_phrases_are_the_originals(caption):
    parse = recorded_parse({"text": caption["caption"], **caption})
    cases = [case for case in read_json("tas", "phrases.json")["cases"] if case["caption"] == caption["caption"]]
    assert cases
    for case in cases:
        nouns = {phrase: nouns for phrase, nouns, *_ in case["rows"]}
        nouns[case["local_sent"]] = case["rows"][0][2] if case["rows"] else []
        pairs = {words[0]: number for _, words, _, _, number, _ in case["rows"] if words}
        found = negatives_as_published(parse, case["local_sent"], nouns.__getitem__, lambda one, _: pairs[one])  # noqa: B023
        assert found == case["negatives"]


def test_a_referent_is_not_its_own_negative():
    caption = parse_by_rules("a zebra and two giraffes on top of a hill near a fence")
    assert negative_phrases(caption, Expression("the zebra")) == [
        "a photo of two giraffes",
        "a photo of a hill",
        "a photo of a fence",
    ]
    assert "a photo of two giraffes" not in negative_phrases(caption, Expression("left giraffe"))
