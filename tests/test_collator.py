"""Rows become a batch: the right mask beside the right words, each picture once."""

import itertools

import numpy as np
import pytest
import torch

from hf_ris.data import RefShapesStream, decode_mask
from hf_ris.data.collator import ReferringSegmentationCollator, swap_sides


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return list(itertools.islice(RefShapesStream(), 4))


def test_rows_of_one_picture_share_it(processor, rows):
    batch = ReferringSegmentationCollator(processor, expression="first")(rows)

    assert batch["pixel_values"].shape == (2, 3, 64, 96)
    assert batch["labels"].shape == (4, 64, 96)
    assert len(batch["input_ids"]) == len(batch["attention_mask"]) == 4


def test_expressions_may_be_padded_to_the_longest_only(processor, rows):
    batch = ReferringSegmentationCollator(processor, expression="first", padding="longest")(rows)
    assert batch["attention_mask"].sum(dim=1).max() == batch["input_ids"].shape[1] < processor.text_length


def test_uneven_pictures_come_once_per_row(processor, rows):
    batch = ReferringSegmentationCollator(processor, expression="first")(rows[:3])

    assert batch["pixel_values"].shape == (3, 3, 64, 96)
    assert torch.equal(batch["pixel_values"][0], batch["pixel_values"][1])


def test_masks_and_words_belong_together(processor, rows):
    batch = ReferringSegmentationCollator(processor, expression="first")(rows)
    for row, labels, input_ids in zip(rows, batch["labels"], batch["input_ids"], strict=True):
        expected = processor(text=[row["expressions"][0]["sent"]], return_tensors="pt")["input_ids"][0]
        assert torch.equal(input_ids, expected)
        assert labels.mean().item() == pytest.approx(row["area"] / 320**2, abs=0.01)


def test_a_random_expression_is_one_of_the_referents(processor, rows):
    row = next(row for row in rows if len(row["expressions"]) > 1)
    collator = ReferringSegmentationCollator(processor)
    torch.manual_seed(0)
    chosen = {collator._choose(row["expressions"])[0] for _ in range(30)}

    assert chosen == {expression["sent"] for expression in row["expressions"]}


def test_masks_decode_to_their_area(rows):
    for row in rows:
        mask = decode_mask(row["mask"])
        assert mask.dtype == np.bool_ and mask.shape == (320, 320) and mask.sum() == row["area"]


def test_all_expressions_of_a_referent(processor, rows):
    row = next(row for row in rows if len(row["expressions"]) > 1)
    batch = ReferringSegmentationCollator(processor, expression="all")([row])

    assert len(batch["input_ids"]) == len(batch["labels"]) == len(row["expressions"])
    assert len(batch["pixel_values"]) == 1 and torch.equal(batch["labels"][0], batch["labels"][1])


@pytest.mark.parametrize(
    "text, mirrored",
    [
        ("the left mug", "the right mug"),
        ("Right of the LEFT one", "Left of the RIGHT one"),
        ("leftmost, right-hand side", "rightmost, left-hand side"),
        ("the bright leftover copyright", "the bright leftover copyright"),
    ],
)
def test_sides_are_swapped_as_whole_words(text, mirrored):
    assert swap_sides(text) == mirrored and swap_sides(mirrored) == text


def test_a_flip_mirrors_picture_mask_and_words(processor, rows):
    said = [{"sent": "left one", "raw": "left one"}]
    rows = [{**row, "expressions": said} for row in rows]
    straight = ReferringSegmentationCollator(processor)(rows)
    flipped = ReferringSegmentationCollator(processor, flip_probability=1.0)(rows)

    torch.testing.assert_close(flipped["pixel_values"], straight["pixel_values"].flip(-1), atol=0.02, rtol=0)
    assert (
        flipped["labels"] - straight["labels"].flip(-1)
    ).abs().mean() < 0.01  # nearest neighbours round the other way
    assert torch.equal(flipped["input_ids"][0], processor(text="right one", return_tensors="pt")["input_ids"][0])


def test_a_flip_probability_out_of_range_is_named(processor):
    with pytest.raises(ValueError, match=r"flip_probability=1\.5"):
        ReferringSegmentationCollator(processor, flip_probability=1.5)


@pytest.mark.parametrize("argument", ["expression", "text_column"])
def test_unknown_choices_are_named(processor, argument):
    with pytest.raises(ValueError, match=f"{argument}='longest'"):
        ReferringSegmentationCollator(processor, **{argument: "longest"})
