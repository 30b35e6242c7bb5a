"""Overlays can be read: every mask in its own colour, a legend, at any size of the image."""

import numpy as np
import pytest
from PIL import Image

from hf_ris import draw_overlay
from hf_ris.visualization import COLOURS, draw_explanation


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


def explained(boxes, scores, picked, **reasons):
    return {"label": "the mug", "explanation": {"boxes": boxes, "scores": scores, "picked": picked, **reasons}}


def test_the_chosen_box_is_strong():
    image = Image.new("RGB", (640, 480), "navy")
    boxes = [[100.0, 100.0, 200.0, 200.0], [300.0, 100.0, 500.0, 400.0], [-5.0, 0.0, 900.0, 900.0]]
    drawn = np.asarray(draw_explanation(image, [explained(boxes, [0.9, 0.6, 0.1], [1], candidates=[0, 1])]))
    strong, candidate = drawn[300, 298:310], drawn[150, 98:110]
    assert (strong == COLOURS[0]).all(axis=1).sum() >= 4 > (candidate == 255).all(axis=1).sum() > 0
    assert (drawn[300, 320:480] == drawn[300, 320]).all(), "what is in the box stays as it is"


def test_the_chosen_box_is_drawn_however_low_its_score():
    image = Image.new("RGB", (640, 480), "navy")
    boxes = [[20.0 * number, 10.0, 20.0 * number + 10, 200.0] for number in range(30)]
    scores = [0.9 - 0.01 * number for number in range(30)]
    drawn = draw_explanation(image, [explained(boxes, scores, [29])])
    assert (np.asarray(drawn)[100, 575:595] == COLOURS[0]).all(axis=1).any()
    few = draw_explanation(image, [explained(boxes[:7], scores[:7], [6])])
    assert drawn.size == few.size, "the table holds the best and the chosen"


def test_each_expression_has_its_boxes_and_nothing_found_is_said():
    image = Image.new("RGB", (640, 480), "navy")
    one = draw_explanation(image, [explained([], [], [])])
    both = draw_explanation(image, [explained([], [], []), explained([[1.0, 1.0, 9.0, 9.0]], [0.5], [0])])
    assert both.height > 2 * 480 and one.height > 480


def test_regions_that_differ_are_drawn_for_each_expression():
    image = Image.new("RGB", (640, 480))

    def chosen(regions):
        explanation = {"regions": regions, "shares": [1.0], "pick": 0, "terms": {}}
        return {"label": "the mug", "explanation": explanation}

    left, right = ([square(image.size, share, share + 0.2)] for share in (0.1, 0.6))
    same = draw_explanation(image, [chosen(left), chosen(left)])
    assert draw_explanation(image, [chosen(left), chosen(right)]).height == same.height + 480
