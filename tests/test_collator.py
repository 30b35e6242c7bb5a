"""Rows become a batch: the right mask beside the right words, each picture once."""

import itertools

import numpy as np
import pytest
import torch

from hf_ris.data import RefShapesStream
from hf_ris.data.collator import ReferringSegmentationCollator, decode_mask


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
    chosen = {collator._choose(row["expressions"]) for _ in range(30)}

    assert chosen == {expression["sent"] for expression in row["expressions"]}


def test_masks_decode_to_their_area(rows):
    for row in rows:
        mask = decode_mask(row["mask"])
        assert mask.dtype == np.bool_ and mask.shape == (320, 320) and mask.sum() == row["area"]


@pytest.mark.parametrize("argument", ["expression", "text_column"])
def test_unknown_choices_are_named(processor, argument):
    with pytest.raises(ValueError, match=f"{argument}='longest'"):
        ReferringSegmentationCollator(processor, **{argument: "longest"})
