"""Masks are written down right, and those that pycocotools would crash on, or make pixels of chance from, are refused by name."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_ris.data.segmentation import (
    check_mask,
    compare_masks,
    decode_mask,
    encode_mask,
    encode_segmentations,
    mask_geometry,
)


HEIGHT, WIDTH = 60, 80
SQUARE = [10, 10, 30, 10, 30, 30, 10, 30]


def box_mask(left: int, top: int, right: int, bottom: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


def runs(*counts: object) -> dict:
    return {"size": [HEIGHT, WIDTH], "counts": list(counts)}


def text(counts: object) -> dict:
    return {"size": [HEIGHT, WIDTH], "counts": counts}


@pytest.mark.parametrize(
    "segmentation, expected",
    [
        ([SQUARE], box_mask(10, 10, 30, 30)),
        ([SQUARE, [1, 2, 3, 4], [5, 6], []], box_mask(10, 10, 30, 30)),
        ([[40, 40, 45, 45], SQUARE], box_mask(10, 10, 30, 30)),
        ([[10, 10, 1e2, 10, 100, 30, 10, 30]], box_mask(10, 10, 80, 30)),
        ([[-160, -120, 240, -120, 240, 180, -160, 180]], box_mask(0, 0, 80, 60)),
        (runs(600, 600, 3600), box_mask(10, 0, 20, 60)),
        (runs(0, 4800), box_mask(0, 0, 80, 60)),
        (runs(4800), box_mask(0, 0, 0, 0)),
        (encode_mask(box_mask(5, 6, 7, 8)), box_mask(5, 6, 7, 8)),
        ([encode_mask(box_mask(5, 6, 7, 8)), runs(600, 600, 3600)], box_mask(5, 6, 7, 8) | box_mask(10, 0, 20, 60)),
        ([encode_mask(box_mask(5, 6, 7, 8)), SQUARE], box_mask(5, 6, 7, 8) | box_mask(10, 10, 30, 30)),
        (text(encode_mask(box_mask(5, 6, 7, 8))["counts"].encode()), box_mask(5, 6, 7, 8)),
    ],
)
def test_what_is_whole_is_read(segmentation, expected):
    mask = encode_segmentations([segmentation], HEIGHT, WIDTH)
    assert mask["size"] == [HEIGHT, WIDTH] and isinstance(mask["counts"], str)
    np.testing.assert_array_equal(decode_mask(mask), expected)


@pytest.mark.parametrize(
    "segmentation, message",
    [
        (None, "its segmentation must be .* got None"),
        ("polygons", "its segmentation must be .* got 'polygons'"),
        (3.5, "its segmentation must be .* got 3.5"),
        ([], "its segmentation is empty"),
        ([[]], "a polygon must have .* got 0 numbers"),
        ([[1, 2, 3, 4]], "a polygon must have .* got 4 numbers"),
        ([[1, 2, 3, 4], [1, 2]], "a polygon must have .* got 4 numbers"),
        ([SQUARE, [1, 2, 3, 4, 5, 6, 7]], "a polygon must have .* got 7 numbers"),
        (SQUARE, "a polygon must be a list of numbers.* got 10"),
        ([[SQUARE]], r"a polygon must be .* got \[\[10, 10"),
        ([[[10, 10], [30, 10, 30]]], r"a polygon must be .* got \[\[10, 10"),
        ([[10, 10, None, 10, 30, 30]], r"a polygon must be .* got \[10, 10, None"),
        ([["10", "10", "30", "10", "30", "30"]], r"a polygon must be .* got \['10'"),
        ([[10, 10, 10**400, 10, 30, 30]], r"a polygon must be .* got \[10, 10, 1000"),
        ([SQUARE, None], "a polygon must be .* got None"),
        ([[10, 10, math.nan, 10, 30, 30]], "the coordinate nan; allowed are numbers at most 2 times .* 60 x 80"),
        ([[10, 10, math.inf, 10, 30, 30]], "the coordinate inf"),
        ([[10, 10, -math.inf, 10, 30, 30]], "the coordinate -inf"),
        ([[10, 10, 1e9, 10, 30, 30]], r"the coordinate 1e\+09"),
        ([SQUARE, [math.nan, 1]], "the coordinate nan"),
        ([[10, 10, 241, 10, 30, 30]], "the coordinate 241"),
        ([[10, 181, 20, 10, 30, 30]], "the coordinate 181"),
        ([[10, -121, 20, 10, 30, 30]], "the coordinate -121"),
        ([[0, 0, 80, 60] * 1000], "its polygons are 160000 pixels long; allowed are 100 times"),
        ([[0, 0, 80, 60, 0, 60]] * 100, "its polygons are 22000 pixels long"),
        ({}, "the size of its mask must be .* got None"),
        ({"size": [HEIGHT, WIDTH]}, "the counts of its mask must be .* got None"),
        ({"size": [WIDTH, HEIGHT], "counts": [4800]}, "its mask is 80 x 60, its image 60 x 80"),
        ({"size": [3, 4], "counts": [12]}, "its mask is 3 x 4, its image 60 x 80"),
        ({"size": [0, 0], "counts": []}, r"the size of its mask must be \[height, width\] .*got \[0, 0\]"),
        ({"size": [-60, -80], "counts": [4800]}, "the size of its mask must be"),
        ({"size": [60.0, 80], "counts": [4800]}, "the size of its mask must be"),
        ({"size": [60], "counts": [4800]}, "the size of its mask must be"),
        ({"size": "60x80", "counts": [4800]}, "the size of its mask must be"),
        ({"size": [10**6, 10**6], "counts": [10**12]}, "1000000 x 1000000, larger than any image"),
        (runs(), r"runs of 0 pixels, where 60 x 80 \(height x width\) need 4800"),
        (runs(5), "runs of 5 pixels, where"),
        (runs(5, 9999), "a run of 9999 pixels, where"),
        (runs(-5, 4805), "a run of -5 pixels"),
        (runs(4000, 801), "runs of 4801 pixels"),
        (runs(2**63 - 1, 2**63 - 1, 4802), "a run of"),
        (runs(10**30), "the counts of its mask must be"),
        (runs(4800.0), "the counts of its mask must be"),
        (runs(None), "the counts of its mask must be"),
        (runs("4800"), "the counts of its mask must be"),
        (runs([4800]), "the counts of its mask must be"),
        (runs(4800, [1, 2]), "the counts of its mask must be"),
        (runs(True), "the counts of its mask must be"),
        (text(None), "the counts of its mask must be .* got None"),
        (text(4800), "the counts of its mask must be .* got 4800"),
        (text(str(b"PZ4")), "how Python shows bytes"),
        (text(""), "no run-length code"),
        (text("PZ\u00ff4"), "no run-length code"),
        (text("PZ\x004"), "no run-length code"),
        (text("PZ 4"), "no run-length code"),
        (text("PZ4\n"), "no run-length code"),
        (text("oooooooo"), "no run-length code"),
        (text("P" * 40 + "0"), "a number that is larger than any image"),
        (text("PZ4"), "a run of|runs of"),
        ([runs(4800), text("1")], "runs of 1 pixels"),
    ],
)
def test_what_is_not_is_refused_by_name(segmentation, message):
    with pytest.raises(ValueError, match=message):
        encode_segmentations([[SQUARE], segmentation], HEIGHT, WIDTH)


@pytest.mark.parametrize("size", [(0, 80), (60, -1), (60.0, 80), (None, 80), (10**6, 10**6)])
def test_images_of_no_size_are_refused(size):
    with pytest.raises(ValueError, match="size of its mask"):
        encode_segmentations([[SQUARE]], *size)


def test_damaged_codes_are_neither_decoded_nor_measured_nor_compared():
    whole = encode_mask(box_mask(10, 10, 30, 30))
    for counts in ("", "1", whole["counts"][:-2], whole["counts"] + "1", "b'" + whole["counts"] + "'", None):
        damaged = {**whole, "counts": counts}
        for use in (decode_mask, mask_geometry, lambda code: check_mask(code, HEIGHT, WIDTH)):
            with pytest.raises(ValueError, match="its mask"):
                use(damaged)
        for pair in ((whole, damaged), (damaged, whole)):
            with pytest.raises(ValueError, match="its mask"):
                compare_masks(*pair)
    with pytest.raises(ValueError, match=r"predicted mask is \[80, 60\], the true one \[60, 80\]"):
        compare_masks(encode_mask(box_mask(10, 10, 30, 30).T), whole)
    assert compare_masks(whole, encode_mask(box_mask(20, 20, 60, 30))) == [100, 400, 400]


@settings(max_examples=200, deadline=None)
@given(st.data(), st.integers(1, 40), st.integers(1, 40))
def test_any_mask_comes_back(data, height, width):
    share = data.draw(st.sampled_from([0, 0.01, 0.5, 0.99, 1]))
    mask = np.random.default_rng(height * 41 + width).random((height, width)) < share
    code = encode_mask(mask)
    check_mask(code, height, width)
    np.testing.assert_array_equal(decode_mask(code), mask)


NUMBERS = (
    st.integers(-300, 300) | st.floats(-300, 300) | st.sampled_from([math.nan, math.inf, 1e300, -(2**63), 10**30])
)
COUNTS = (
    st.lists(st.integers(-10, 4810) | NUMBERS, max_size=6)
    | st.text(st.characters(min_codepoint=40, max_codepoint=115), max_size=12)
    | st.binary(max_size=12)
    | st.none()
)
CODES = st.fixed_dictionaries(
    {}, optional={"size": st.just([HEIGHT, WIDTH]) | st.lists(NUMBERS, max_size=3), "counts": COUNTS}
)
JSON = st.recursive(st.none() | st.booleans() | NUMBERS | st.text(max_size=3), st.lists, max_leaves=8)


@settings(max_examples=500, deadline=None)
@given(CODES | JSON | st.lists(st.lists(NUMBERS, max_size=9) | CODES, max_size=4))
def test_whatever_a_file_says_gives_a_mask_or_an_error(segmentation):
    try:
        mask = encode_segmentations([segmentation], HEIGHT, WIDTH)
    except ValueError:
        return
    assert decode_mask(mask).shape == (HEIGHT, WIDTH)
