"""Zero-shot systems choose among a detector's boxes, and among regions that SAM-HQ and SAM 2 propose."""

from pathlib import Path

import numpy as np
import pytest
import tiny_parts
import torch
from huggingface_hub.errors import StrictDataclassError
from tiny_grounded import SAVE_DETECTOR, SAVE_SEGMENTER
from transformers import pipeline

import hf_ris


TEXTS = ["the red mug", "the left cat", "the mug left of the tree"]
LOW = {"detector_threshold": 0.02}  # random detectors are hardly sure of anything
EVERYWHERE = {"proposer_options": {"points_per_side": 2, "min_iou": -99.0, "min_stability": 0.0, "min_region_area": 0}}


@pytest.fixture(scope="module")
def folders(tmp_path_factory, tokenizer) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("parts")
    for name, save in {**SAVE_DETECTOR, **SAVE_SEGMENTER}.items():
        (root / name).mkdir()
        save(root / name)
    tiny_parts.save_clip(root / "clip")
    tiny_parts.save_blip(root / "blip", tokenizer)
    return {path.name: path for path in root.iterdir()}


def compose(folders, system, proposer, **options):
    captioner = {"captioner": folders["blip"]} if system == "tas" else {}
    return hf_ris.zero_shot(
        system, image_text=folders["clip"], proposer=proposer, device="cpu", **captioner, **options
    )


def masks(answers) -> np.ndarray:
    return np.stack([np.asarray(answer["mask"]) > 0 for answer in answers])


@pytest.mark.parametrize("system", ["global-local", "tas"])
@pytest.mark.parametrize("segmenter", ["sam", "sam_hq", "sam2"])
def test_regions_of_every_segmenter(folders, images, tmp_path, system, segmenter):
    ris = compose(folders, system, folders[segmenter], **EVERYWHERE)
    answers = ris(images[0], text=TEXTS, explain=True, output_format="array")
    assert all(len(answer["explanation"]["regions"]) >= 1 and answer["mask"].any() for answer in answers)
    ris.save_pretrained(tmp_path)
    again = pipeline("zero-shot-referring-segmentation", model=str(tmp_path))
    assert np.array_equal(masks(again(images[0], text=TEXTS)), masks(answers))


@pytest.mark.parametrize("system", ["global-local", "tas"])
@pytest.mark.parametrize("detector", SAVE_DETECTOR)
def test_a_detector_proposes_regions_for_each_expression(folders, images, tmp_path, system, detector):
    ris = compose(folders, system, (folders[detector], folders["sam2"]), **LOW)
    answers = ris(images[0], text=TEXTS, explain=True)
    for answer in answers:
        explanation = answer["explanation"]
        assert len(explanation["terms"]["D"]) == len(explanation["regions"]) >= 1
        assert all(0.02 < score <= 1 for score in explanation["terms"]["D"])
    without = ris(images[0], text=TEXTS)
    assert np.array_equal(masks(without), masks(answers))
    assert [answer["score"] for answer in without] == [answer["score"] for answer in answers]
    ris.model.forget()
    assert np.array_equal(masks([ris(images[0], text=text) for text in TEXTS]), masks(answers))
    ris.save_pretrained(tmp_path)
    again = pipeline("referring-segmentation", model=str(tmp_path))
    assert np.array_equal(masks(again(images[0], text=TEXTS)), masks(answers))


def test_the_detectors_score_counts(folders, images):
    pair = (folders["grounding-dino"], folders["sam2"])
    ris = compose(folders, "tas", pair, detector_weight=1e6, spatial_rectifier=False, **LOW)
    explanation = ris(images[0], text="the red mug", explain=True)["explanation"]
    assert explanation["pick"] == int(np.argmax(explanation["terms"]["D"]))
    ignored = compose(folders, "tas", pair, detector_weight=0, spatial_rectifier=False, **LOW)
    plain = ignored(images[0], text="the red mug", explain=True)["explanation"]
    assert plain["pick"] == int(np.argmax(plain["shares"]))
    assert not np.allclose(plain["shares"], explanation["shares"])


def test_an_image_is_seen_once_by_either_network(folders, images):
    ris = compose(folders, "tas", (folders["grounding-dino"], folders["sam2"]), **LOW)
    counts = {"detector": 0, "proposer": 0, "captions": 0}
    modules = {
        "detector": ris.model.detector.network.model.backbone.conv_encoder,
        "proposer": ris.model.proposer.network.vision_encoder,
    }
    for name, module in modules.items():
        module.register_forward_hook(lambda *_, name=name: counts.update({name: counts[name] + 1}))
    ris(images[0], text=TEXTS)
    ris(images[0], text="a dog")
    assert counts["detector"] == counts["proposer"] == 1


def test_given_regions_need_no_detector(folders, images):
    ris = compose(folders, "global-local", (folders["grounding-dino"], folders["sam2"]), **LOW)
    regions = np.zeros((2, images[0].height, images[0].width), bool)
    regions[0, :20], regions[1, 30:] = True, True
    explanation = ris({"image": images[0], "text": "a dog", "regions": regions}, explain=True)["explanation"]
    assert len(explanation["regions"]) == 2 and "D" not in explanation["terms"]


@pytest.mark.parametrize("explain", [False, True])
def test_given_regions_may_lie_beside_detected_ones(folders, images, explain):
    ris = compose(folders, "global-local", (folders["grounding-dino"], folders["sam2"]), **LOW)
    regions = np.zeros((2, images[0].height, images[0].width), bool)
    regions[0, :20], regions[1, 30:] = True, True
    detected, given = {"image": images[0], "text": TEXTS}, {"image": images[0], "text": TEXTS, "regions": regions}
    alone = [ris(each) for each in (detected, given, detected)]
    together = ris([detected, given, detected], batch_size=3, explain=explain)
    for answers, expected in zip(together, alone, strict=True):
        assert np.array_equal(masks(answers), masks(expected))


def test_nothing_detected_is_an_answer(folders, images):
    for system in ("global-local", "tas"):
        ris = compose(folders, system, (folders["grounding-dino"], folders["sam2"]), detector_threshold=1.0)
        for explain in (True, False):
            answer = ris(images[0], text="the left unicorn", explain=explain)
            assert answer["score"] == 0 and answer["box"] is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_precision(folders, images, dtype):
    ris = compose(folders, "tas", (folders["owlv2"], folders["sam2"]), dtype=dtype, **LOW)
    assert {parameter.dtype for parameter in ris.model.parameters()} == {dtype}
    assert len(ris(images[0], text=TEXTS, output_format="rle")) == len(TEXTS)


def test_bad_input_is_named(folders):
    with pytest.raises(
        ValueError, match="`proposer` must be one source, or a detector and a segmenter, got 3 sources"
    ):
        compose(folders, "tas", ["a", "b", "c"])
    with pytest.raises(ValueError, match=r"`proposer` must be one of \['sam', .*, got the 'clip'"):
        compose(folders, "tas", (folders["owlv2"], folders["clip"]))
    with pytest.raises(ValueError, match=r"`detector` must be one of \['grounding-dino', .*, got the 'sam'"):
        compose(folders, "tas", (folders["sam"], folders["sam"]))
    with pytest.raises(StrictDataclassError, match="`detector_threshold` must be between 0 and 1, got 2"):
        hf_ris.TASConfig(detector_threshold=2)
    with pytest.raises(StrictDataclassError, match="`detector_config` must be left out without a proposer"):
        hf_ris.TASConfig(detector_config={"model_type": "owlv2"})
