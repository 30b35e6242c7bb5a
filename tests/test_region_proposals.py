"""Where regions come from: suppression of boxes, small holes and islands, regions of like colour, and networks that find none."""

import numpy as np
import pytest
import tiny_parts
import torch
from transformers import AutoProcessor, Mask2FormerForUniversalSegmentation, SamModel

from hf_ris.modeling.configuration_zero_shot import FelzenszwalbConfig
from hf_ris.modeling.region_proposals import (
    FelzenszwalbProposer,
    InstanceSegmentationProposer,
    SamProposer,
    boxes_of,
    remove_small_parts,
    suppress_boxes,
)


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
    masks = torch.from_numpy(tiny_parts.boxes((20, 30), (3, 4, 10, 9), (0, 0, 30, 20), (29, 19, 30, 20)))
    assert boxes_of(masks).tolist() == [[3, 4, 9, 8], [0, 0, 29, 19], [29, 19, 29, 19]]


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


def test_without_scikit_image_it_says_what_is_missing(monkeypatch):
    monkeypatch.setattr("hf_ris.modeling.region_proposals.felzenszwalb", None)
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
        proposer = SamProposer(network.config, points_per_side=3, **options).eval()
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
