"""What TAS's released code decides is reproduced: target phrases, mentions, quadrants, kept proposals, pictures of regions."""

from typing import Any

import numpy as np
import pytest
from golden_states import GOLDEN, read_json
from safetensors.numpy import load_file

from hf_ris.modeling.expression_parsing import Chunk, Parse, Word, find_target, target_phrase
from hf_ris.modeling.published_rectifier import Mention, read_mention, rectify_as_published, widen_chunks
from hf_ris.modeling.region_pictures import blur, blur_around, centre_of, cut_out
from hf_ris.modeling.region_proposals import filter_regions


EXPRESSIONS = read_json("tas", "spatial.json")
PICTURES = load_file(GOLDEN / "tas" / "pictures.safetensors")


def recorded_parse(record: dict[str, Any]) -> Parse:
    words = [Word(text, tag, dependency, head) for text, _, tag, _, dependency, head in record["parse"]["tokens"]]
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
    assert target_phrase(parse) == record["local_sent"]
    if record["expanded"]:
        assert {str(word): list(span) for word, span in widen_chunks(parse).items()} == record["expanded"]
    assert as_recorded(read_mention(parse)) == normalised(record["entity"])
    for case in record["cases"]:
        chosen = rectify_as_published(parse, record["local_sent"], case["rowcol"], case["weights"])
        assert chosen == case["index"]


def test_the_target_phrase_follows_global_locals_rule():
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
        words = (
            Word(text, "", dependency, head)
            for text, dependency, head in zip(tokens, example["deps"], example["heads"], strict=True)
        )
        parse = Parse(example["joined"], tuple(words), tuple(chunks))
        assert target_phrase(parse) == example["noun_phrase"], example["sentence"]


def test_nothing_is_the_target_of_nothing():
    assert find_target(Parse("", (), ())) is None
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
    image, mask = PICTURES[f"{name}.image"], PICTURES[f"{name}.{number}.mask"]
    blurred = blur(image)
    assert (blurred == PICTURES[f"{name}.gaussian75"]).all()
    assert [int(place) for place in centre_of(mask)] == record["centroid_row_col"]
    if box == "sam":
        assert np.array_equal(cut_out(image, mask, as_published=True), PICTURES[f"{record['key']}.crop"])
        assert np.array_equal(blur_around(image, blurred, mask, as_published=True), PICTURES[f"{record['key']}.blur"])


def test_cut_outs_hold_the_whole_region_and_are_square():
    image = np.full((20, 30, 3), 200, np.uint8)
    mask = np.zeros((20, 30), bool)
    mask[3:8, 10:22] = True
    picture = cut_out(image, mask)
    assert picture.shape == (12, 12, 3)
    assert (picture == 200).all(axis=2).sum() == mask.sum()
