"""Overlays can be read: every mask in its own colour, a legend, at any size of the image."""

import numpy as np
import pytest
from PIL import Image

from hf_ris import draw_overlay


def result(mask: np.ndarray, label: str = "the mug") -> dict:
    return {"label": label, "score": 0.9 * mask.any(), "mask": mask, "box": {} if mask.any() else None}


def square(size: tuple[int, int], left: float, right: float) -> np.ndarray:
    width, height = size
    mask = np.zeros((height, width), bool)
    mask[height // 4 : -height // 4, int(left * width) : int(right * width)] = True
    return mask


@pytest.mark.parametrize("shade", [0, 128, 255])
def test_masks_stand_out_in_different_colours(shade):
    image = Image.new("RGB", (640, 480), (shade,) * 3)
    overlay = draw_overlay(image, [result(square(image.size, 0.1, 0.4)), result(square(image.size, 0.6, 0.9))])
    first, second, outside = (np.array(overlay.getpixel((x, 240)), int) for x in (160, 480, 320))
    assert outside.tolist() == [shade] * 3, "what was not found stays as it is"
    for one, other in [(first, second), (first, outside), (second, outside)]:
        assert np.abs(one - other).max() > 30
    row = np.asarray(overlay.crop((0, 240, 640, 241)), int)[0]
    border = np.abs(row[55:75] - row[30]).sum(axis=1)
    assert border.max() > np.abs(first - row[30]).sum(), "the outline is stronger than the fill"


@pytest.mark.parametrize("size", [(8, 8), (30, 20), (20, 900), (640, 480), (4000, 1000)])
def test_any_size(size):
    overlay = draw_overlay(Image.new("RGB", size, "navy"), result(square(size, 0.2, 0.7)))
    assert overlay.mode == "RGB"
    assert 400 <= overlay.width <= 1600 and overlay.height <= 2000


def test_legend_names_every_expression():
    image = Image.new("RGB", (640, 480))
    mask = square(image.size, 0.1, 0.4)
    heights = [draw_overlay(image, [result(mask)] * count).height for count in (1, 2, 4)]
    assert heights[1] - heights[0] > 15
    assert heights[2] - heights[1] == 2 * (heights[1] - heights[0])
    long = draw_overlay(image, result(mask, "the mug " * 40 + "x" * 300))
    assert long.height > heights[2], "long expressions are wrapped, not cut"


def test_nothing_found_leaves_the_image_alone():
    image = Image.new("RGB", (640, 480), "navy")
    overlay = draw_overlay(image, result(np.zeros((480, 640), bool)))
    np.testing.assert_array_equal(np.asarray(overlay.crop((0, 0, 640, 480))), np.asarray(image))
    assert overlay.height > 480


def test_masks_as_the_pipeline_gives_them(ris, images):
    first, *others = (
        draw_overlay(images[0], ris(images[0], text=["a tree", "the mug"], output_format=output_format))
        for output_format in ("pil", "array", "rle")
    )
    for other in others:
        np.testing.assert_array_equal(np.asarray(first), np.asarray(other))


def test_a_mask_of_another_size_is_refused():
    with pytest.raises(ValueError, match="mask of 10 x 8 pixels for an image of 640 x 480"):
        draw_overlay(Image.new("RGB", (640, 480)), result(np.ones((8, 10), bool)))
