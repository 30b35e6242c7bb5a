"""Where regions come from: suppression of boxes, small holes and islands, regions of like colour, and networks that find none."""

import subprocess
import sys

import numpy as np
import pytest
import tiny_parts
import torch
from scipy import ndimage
from skimage.segmentation import felzenszwalb
from transformers import AutoProcessor, Mask2FormerForUniversalSegmentation, SamModel

from hf_ris.data.refshapes import draw_scene
from hf_ris.data.refshapes.rows import scene_targets
from hf_ris.modeling.configuration_zero_shot import FelzenszwalbConfig
from hf_ris.modeling.masks import shared_areas
from hf_ris.modeling.zero_shot_regions import (
    FelzenszwalbProposer,
    InstanceSegmentationProposer,
    boxes_of,
    remove_small_parts,
    suppress_boxes,
)
from hf_ris.modeling.zero_shot_segmenters import SamSegmenter


def test_of_boxes_that_overlap_the_better_stays():
    boxes = torch.tensor([[0, 0, 10, 10], [1, 0, 11, 10], [20, 20, 30, 30], [0, 0, 10, 9]])
    assert suppress_boxes(boxes, torch.tensor([0.8, 0.9, 0.5, 0.9]), 0.75).tolist() == [1, 3, 2]
    assert suppress_boxes(boxes, torch.tensor([0.8, 0.9, 0.5, 0.9]), 0.5).tolist() == [1, 2]
    assert suppress_boxes(boxes[:0], torch.zeros(0), 0.5).tolist() == []


def test_suppression_is_what_its_definition_says():
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(60, 2, generator=generator) * 50
    boxes = torch.cat([corners, corners + 5 + torch.rand(60, 2, generator=generator) * 40], 1)
    scores = torch.rand(60, generator=generator)

    def iou(one, other):
        width, height = (
            max(0.0, min(one[2 + axis], other[2 + axis]) - max(one[axis], other[axis])) for axis in (0, 1)
        )
        areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
        return width * height / (sum(areas) - width * height)

    kept: list[int] = []
    for number in scores.argsort(descending=True).tolist():
        if all(iou(boxes[number].tolist(), boxes[other].tolist()) <= 0.4 for other in kept):
            kept.append(number)
    assert suppress_boxes(boxes, scores, 0.4).tolist() == kept


def test_boxes_are_the_masks_edges():
    masks = tiny_parts.boxes((20, 30), (3, 4, 10, 9), (0, 0, 30, 20), (29, 19, 30, 20))
    assert boxes_of(masks).tolist() == [[3, 4, 9, 8], [0, 0, 29, 19], [29, 19, 29, 19]]


def test_shared_areas_are_counts_of_pixels():
    generator = np.random.default_rng(0)
    masks = generator.random((5, 150, 270)) < 0.5
    masks[3] = False
    masks[4] = tiny_parts.boxes((150, 270), (120, 100, 140, 150))[0]
    counts = [[(one & other).sum() for other in masks] for one in masks]
    assert shared_areas(masks).tolist() == np.array(counts).tolist()
    assert shared_areas(masks[:0]).shape == (0, 0)


def test_small_holes_and_islands_go():
    mask = tiny_parts.boxes((30, 30), (2, 2, 20, 20))[0]
    mask[5:7, 5:7] = False
    mask[25:27, 25:27] = True
    cleaned = remove_small_parts(mask, 10)
    assert np.array_equal(cleaned, tiny_parts.boxes((30, 30), (2, 2, 20, 20))[0])
    small = tiny_parts.boxes((30, 30), (1, 1, 3, 3), (10, 10, 12, 13)).any(axis=0)
    assert remove_small_parts(small, 10).sum() == 6, "of small islands alone, the largest stays"


def test_regions_of_like_colour():
    image = np.full((60, 80, 3), 230, np.uint8)
    things = tiny_parts.boxes((60, 80), (5, 5, 30, 30), (45, 20, 75, 55))
    for thing, colour in zip(things, ((200, 30, 30), (20, 40, 180)), strict=True):
        image[thing] = colour
    regions = FelzenszwalbProposer(FelzenszwalbConfig()).propose(image)
    for thing in things:
        overlaps = [(thing & region).sum() / (thing | region).sum() for region in regions]
        assert max(overlaps) > 0.8
    assert FelzenszwalbProposer(FelzenszwalbConfig()).propose(np.zeros((40, 40, 3), np.uint8)).shape == (1, 40, 40)


def test_regions_are_what_their_definition_says():
    config = FelzenszwalbConfig()
    for index in range(2):
        scene, _ = scene_targets("refshapes", "testA", index)
        image = np.asarray(draw_scene(scene)[0])
        found: list[np.ndarray] = []
        for scale in config.scales:
            labels = felzenszwalb(image, scale=scale, sigma=config.sigma, min_size=round(0.001 * image[..., 0].size))
            for label in range(labels.max() + 1):
                region = labels == label
                if sum(side.any() for side in (region[0], region[-1], region[:, 0], region[:, -1])) < 2:
                    region = ndimage.binary_fill_holes(region)
                if all((region & other).sum() <= config.max_overlap * (region | other).sum() for other in found):
                    found.append(region)
        assert np.array_equal(FelzenszwalbProposer(config).propose(image), np.stack(found))


def mosaic(side: int, tile: int) -> np.ndarray:
    """Tiles of different colours."""
    number = -(-side // tile)
    colours = np.random.default_rng(0).integers(0, 256, (number, number, 3), dtype=np.uint8)
    return colours.repeat(tile, 0).repeat(tile, 1)[:side, :side]


def test_of_many_regions_the_largest_stay():
    every = FelzenszwalbProposer(FelzenszwalbConfig()).propose(mosaic(128, 8))
    areas = every.sum(axis=(1, 2))
    some = FelzenszwalbProposer(FelzenszwalbConfig(max_mask_pixels=20 * 128**2)).propose(mosaic(128, 8))
    assert len(some) == 20 < len(every)
    assert np.array_equal(some, every[np.sort(np.argsort(-areas, kind="stable")[:20])])


def test_large_images_are_reduced_and_regions_are_not():
    image = np.full((60, 90, 3), 230, np.uint8)
    thing = tiny_parts.boxes((60, 90), (30, 15, 60, 45))[0]
    image[thing] = (200, 30, 30)
    regions = FelzenszwalbProposer(FelzenszwalbConfig(max_pixels=20 * 30, sigma=0)).propose(image)
    assert any(np.array_equal(region, thing) for region in regions)


LOOK_AT_MOSAIC = """
import resource
import numpy as np
import hf_ris
from transformers import pipeline

ris = pipeline("zero-shot-referring-segmentation", device="cpu")
ris(np.zeros((64, 64, 3), np.uint8), text="a mug")
tiles = np.random.default_rng(0).integers(0, 256, (43, 43, 3), dtype=np.uint8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
ris(tiles.repeat(24, 0).repeat(24, 1)[:1024, :1024], text=["the red mug", *map(str, range(49))])
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.slow
def test_an_image_of_a_thousand_regions_fits_in_memory():
    done = subprocess.run([sys.executable, "-c", LOOK_AT_MOSAIC], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 600, "megabytes"


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ({"scales": []}, "`scales` must be one or more numbers above 0"),
        ({"max_pixels": 0}, "`max_pixels` must be 1 or larger, got 0"),
        ({"sigma": -1}, "`sigma` must be 0 or larger, got -1"),
    ],
)
def test_unfit_options_are_named(field, message):
    with pytest.raises(Exception, match=message):
        FelzenszwalbConfig(**field)


def test_without_scikit_image_it_says_what_is_missing(monkeypatch):
    monkeypatch.setattr("hf_ris.modeling.zero_shot_regions.felzenszwalb", None)
    with pytest.raises(ImportError, match="scikit-image"):
        FelzenszwalbProposer(FelzenszwalbConfig()).propose(np.zeros((8, 8, 3), np.uint8))


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)


@torch.no_grad()
def test_sam_finds_what_it_believes_in(tmp_path, image):
    folder = tiny_parts.save_sam(tmp_path)
    network = SamModel.from_pretrained(folder)

    def propose(**options):
        proposer = SamSegmenter(network.config, points_per_side=3, **options).eval()
        proposer.network = network
        proposer.processor = AutoProcessor.from_pretrained(folder)
        return proposer.propose(image)

    everything = propose(min_iou=-99, min_stability=0, max_box_iou=1, min_region_area=0)
    assert 1 <= len(everything) <= 27
    assert everything.shape[1:] == image.shape[:2]
    assert everything.any(axis=(1, 2)).all()
    assert 1 <= len(propose(min_iou=-99, min_stability=0, max_box_iou=0.5)) <= len(everything)
    assert propose(min_iou=99).shape == (0, *image.shape[:2])


@torch.no_grad()
def test_instance_segmentation_finds_what_it_believes_in(tmp_path, image):
    folder = tiny_parts.save_mask2former(tmp_path)
    network = Mask2FormerForUniversalSegmentation.from_pretrained(folder)
    found = {}
    for score in (0.0, 1.0):
        proposer = InstanceSegmentationProposer(network.config, min_score=score)
        proposer.network, proposer.processor = network, AutoProcessor.from_pretrained(folder)
        found[score] = proposer.propose(image)
    assert len(found[0.0]) >= 1
    assert found[0.0].shape[1:] == image.shape[:2]
    assert found[1.0].shape == (0, *image.shape[:2])
