"""Rows become a batch: the right mask beside the right words, each picture once."""

import copy
import itertools

import datasets
import numpy as np
import pytest
import torch

from hf_ris.data import FEATURES, RefShapesStream, decode_mask
from hf_ris.data.collator import ReferringSegmentationCollator, hide_words, swap_sides
from hf_ris.data.segmentation import encode_mask
from hf_ris.modeling.grounding_losses import NOT_HIDDEN
from hf_ris.training.rows import EvaluationRows


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
    chosen = {tuple(collator([row])["input_ids"][0].tolist()) for _ in range(30)}

    said = processor(text=[expression["sent"] for expression in row["expressions"]], return_tensors="pt")
    assert chosen == {tuple(ids) for ids in said["input_ids"].tolist()}


def test_labels_may_keep_the_images_size(processor, rows):
    batch = ReferringSegmentationCollator(processor, full_size_labels=True)(rows)

    for row, labels in zip(rows, batch["labels"], strict=True):
        np.testing.assert_array_equal(labels.numpy(), decode_mask(row["mask"]))
    other = {**rows[2], "image": rows[2]["image"].resize((80, 60)), "mask": encode_mask(np.ones((60, 80), bool))}
    with pytest.raises(ValueError, match=r"one size in a batch, got .*\[\(60, 80\), \(320, 320\)\]"):
        ReferringSegmentationCollator(processor, full_size_labels=True)([rows[0], other])
    processor = copy.copy(processor)
    processor.keeps_aspect_ratio = True
    with pytest.raises(ValueError, match="full_size_labels"):
        ReferringSegmentationCollator(processor, full_size_labels=True)


def test_labels_of_one_of_several_candidates_are_probabilities(processor, rows):
    unclear = [{**row, "candidates": number} for number, row in enumerate(rows, 1)]
    unclear[0]["candidates"] = None  # as in a dataset where other rows have the column
    plain, shared = (ReferringSegmentationCollator(processor, expression="first")(each) for each in (rows, unclear))

    for number, (one, other) in enumerate(zip(plain["labels"], shared["labels"], strict=True), 1):
        torch.testing.assert_close(other, one / number)


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


def test_words_are_hidden_at_random_but_one_at_least(tokenizer):
    ids = torch.tensor(tokenizer("the small red mug on the left")["input_ids"] + [tokenizer.pad_token_id] * 3)
    special = torch.isin(ids, torch.tensor(tokenizer.all_special_ids))
    torch.manual_seed(0)
    drawn = [hide_words(ids, tokenizer, 0.15) for _ in range(4000)]
    chosen = torch.stack([hidden != NOT_HIDDEN for _, hidden in drawn])
    masked = torch.stack([ids == tokenizer.mask_token_id for ids, _ in drawn])

    assert not chosen[:, special].any(), "no special token"
    assert chosen.any(dim=1).all(), "one word at least"
    none, words = 0.85**7, 7
    assert chosen[:, ~special].float().mean().item() == pytest.approx(0.15 + none / words, abs=0.01)
    assert (masked.sum() / chosen.sum()).item() == pytest.approx(0.9, abs=0.01)
    for hidden_ids, hidden in drawn[:50]:
        torch.testing.assert_close(hidden[hidden != NOT_HIDDEN], ids[hidden != NOT_HIDDEN])
        torch.testing.assert_close(hidden_ids[hidden == NOT_HIDDEN], ids[hidden == NOT_HIDDEN])


def test_padding_changes_no_hidden_word(tokenizer):
    ids = torch.tensor(tokenizer("the small red mug on the left")["input_ids"])
    padded = torch.nn.functional.pad(ids, (0, 9), value=tokenizer.pad_token_id)
    for seed in range(50):
        short, long = (
            hide_words(each, tokenizer, 0.3, generator=torch.Generator().manual_seed(seed)) for each in (ids, padded)
        )
        assert all(torch.equal(one, other[: len(ids)]) for one, other in zip(short, long, strict=True))


def test_an_expression_without_words_hides_none(tokenizer):
    ids = torch.tensor(tokenizer("zebra")["input_ids"])  # unknown
    masked, hidden = hide_words(ids, tokenizer, 0.9)
    assert torch.equal(masked, ids) and (hidden == NOT_HIDDEN).all()


def test_chance_follows_from_the_draw(processor, rows):
    collator = ReferringSegmentationCollator(processor, flip_probability=0.5, mask_probability=0.3)
    numbered = [{**row, "seed": 100 + number} for number, row in enumerate(rows)]
    first = collator(numbered)
    torch.rand(7)  # what torch drew in between does not matter
    alone = collator(numbered[2:])
    assert all(torch.equal(first[key], collator(numbered)[key]) for key in first)
    for key in ("input_ids", "masked_input_ids", "hidden_words"):
        assert torch.equal(first[key][2:], alone[key]), key
    other = collator([{**row, "seed": 200 + number} for number, row in enumerate(rows)])
    assert not torch.equal(first["hidden_words"], other["hidden_words"])


def test_nothing_is_random_about_rows_that_are_evaluated(processor, rows):
    collator = ReferringSegmentationCollator(processor, flip_probability=1.0, mask_probability=0.5)
    wrapped = EvaluationRows(datasets.Dataset.from_list(rows, features=FEATURES))
    still = collator([wrapped[number] for number in range(len(wrapped))])
    plain = ReferringSegmentationCollator(processor, expression="first")(rows)
    assert still.keys() == plain.keys()
    assert all(torch.equal(still[key], plain[key]) for key in plain)


@pytest.mark.parametrize("name", ["flip_probability", "mask_probability"])
def test_a_probability_out_of_range_is_named(processor, name):
    with pytest.raises(ValueError, match=rf"`{name}` must be .* got 1\.5"):
        ReferringSegmentationCollator(processor, **{name: 1.5})


def test_a_tokenizer_that_cannot_hide_words_is_named(processor):
    mute = copy.deepcopy(processor)
    mute.tokenizer.mask_token = None
    with pytest.raises(ValueError, match=r"`mask_probability` .*mask token, got 0\.15"):
        ReferringSegmentationCollator(mute, mask_probability=0.15)


@pytest.mark.parametrize("argument", ["expression", "text_column"])
def test_unknown_choices_are_named(processor, argument):
    with pytest.raises(ValueError, match=f"`{argument}` must be .* got 'longest'"):
        ReferringSegmentationCollator(processor, **{argument: "longest"})


@pytest.mark.parametrize(
    "change, message",
    [
        ({"counts": "b'PZ4'"}, "how Python shows bytes"),
        ({"counts": "1"}, "its mask has"),
        ({"size": [3, 4], "counts": "<"}, r"its mask is 3 x 4, its image \d+ x \d+"),
    ],
)
def test_unfit_masks_are_named(processor, rows, change, message):
    unfit = {**rows[1], "mask": {**rows[1]["mask"], **change}}
    where = f"referent {unfit['ref_id']} of image {unfit['image_id']}"
    with pytest.raises(ValueError, match=f"{where}: .*{message}"):
        ReferringSegmentationCollator(processor)([rows[0], unfit])


@pytest.mark.parametrize(
    "change, message",
    [
        ({"mask": None}, "its mask must be run-length code, size and counts, got None"),
        ({"expressions": []}, "it has no expression"),
        ({"image": np.zeros((320, 320, 3), np.uint8)}, "its image must be a PIL image, got ndarray"),
    ],
)
@pytest.mark.parametrize("expression", ["random", "all"])
def test_unfit_rows_are_named(processor, rows, change, message, expression):
    with pytest.raises(ValueError, match=rf"referent {rows[1]['ref_id']} of image \d+: {message}"):
        ReferringSegmentationCollator(processor, expression=expression)([rows[0], {**rows[1], **change}])
