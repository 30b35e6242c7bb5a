"""A detector with a segmenter answers as transformers' own calls do, several expressions an image, and chooses among what it found."""

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import cpu_offload
from huggingface_hub.errors import StrictDataclassError
from local_hub import endpoint, local_hub
from PIL import Image
from tiny_grounded import SAVE_DETECTOR, SAVE_SEGMENTER
from transformers import AutoModelForMaskGeneration, AutoModelForZeroShotObjectDetection, AutoProcessor, pipeline
from typer.testing import CliRunner

import hf_ris
from hf_ris.cli import app
from hf_ris.modeling.grounded_detectors import as_caption
from hf_ris.modeling.instances import InstanceSegmentationOutput
from hf_ris.modeling.language_expression import Expression
from hf_ris.modeling.without_torch import rle_to_mask
from hf_ris.modeling.zero_shot_parts import pad_slender
from hf_ris.modeling.zero_shot_segmenters import Frame, Sam2ImageProcessorPil


TEXTS = ["the red mug", "the left cat", "the mug left of the tree"]
PAIRS = [("grounding-dino", "sam"), ("grounding-dino", "sam2"), ("mm-grounding-dino", "sam_hq"), ("owlv2", "sam2")]
LOW = 0.02  # random detectors are hardly sure of anything


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("parts")
    for name, save in {**SAVE_DETECTOR, **SAVE_SEGMENTER}.items():
        (root / name).mkdir()
        save(root / name)
    return {name: root / name for name in (*SAVE_DETECTOR, *SAVE_SEGMENTER)}


@pytest.fixture(scope="module")
def make(folders):
    made: dict = {}

    def make(detector="grounding-dino", segmenter="sam2", **options):
        key = (detector, segmenter, *options.items())
        if key not in made:
            made[key] = hf_ris.grounded(folders[detector], folders[segmenter], device="cpu", **options)
        made[key].model.forget()
        return made[key]

    return make


def masks(answers) -> np.ndarray:
    return np.stack([np.asarray(answer["mask"]) > 0 for answer in answers])


@torch.no_grad()
def ask_transformers(
    detector: Path, segmenter: Path, image: Image.Image, text: str
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Boxes, scores and masks by transformers' own models and processors."""
    model = AutoModelForZeroShotObjectDetection.from_pretrained(detector).eval()
    processor = AutoProcessor.from_pretrained(detector)
    inputs = processor(
        images=image, text=[[text]] if "owl" in detector.name else as_caption(text), return_tensors="pt"
    )
    outputs = model(**inputs)
    size = (image.height, image.width)
    (found,) = processor.post_process_grounded_object_detection(outputs, threshold=LOW, target_sizes=[size])
    boxes = found["boxes"]
    sam = AutoModelForMaskGeneration.from_pretrained(segmenter).eval()
    if "sam2" in segmenter.name:  # its processor needs torchvision
        images = Sam2ImageProcessorPil.from_pretrained(segmenter)
        pixels = torch.from_numpy(np.stack(images([image])["pixel_values"]))
        scale = torch.tensor([pixels.shape[3] / size[1], pixels.shape[2] / size[0]] * 2)
        made = sam(pixel_values=pixels, input_boxes=(boxes * scale)[None], multimask_output=False)
        logits = torch.nn.functional.interpolate(made.pred_masks[0], size, mode="bilinear")
        return boxes, found["scores"], logits[:, 0] > 0
    images = AutoProcessor.from_pretrained(segmenter)
    inputs = images(image, input_boxes=[boxes.tolist()], return_tensors="pt")
    made = sam(pixel_values=inputs["pixel_values"], input_boxes=inputs["input_boxes"], multimask_output=False)
    (found_masks,) = images.image_processor.post_process_masks(
        made.pred_masks, inputs["original_sizes"], inputs["reshaped_input_sizes"]
    )
    return boxes, found["scores"], found_masks[:, 0]


@pytest.mark.parametrize(("detector", "segmenter"), PAIRS)
def test_it_equals_transformers(folders, make, images, detector, segmenter):
    ris = make(detector, segmenter)
    for image, text in zip(images, ["the red mug", "a left cat", "a mug to the"], strict=True):
        boxes, scores, true = ask_transformers(folders[detector], folders[segmenter], image, text)
        assert len(scores), "this test needs a detector that finds something"
        options = {"instance_threshold": LOW, "explain": True, "output_format": "array"}
        best = ris(image, text=text, **options)
        assert torch.allclose(torch.tensor(best["explanation"]["boxes"]), boxes, atol=1e-3)
        assert torch.allclose(torch.tensor(best["explanation"]["scores"]), scores, atol=1e-6)
        pick = int(scores.argmax())
        assert best["explanation"]["picked"] == [pick]
        assert np.array_equal(best["mask"], true[pick].numpy())
        everything = ris(image, text=text, select="all", **options)
        assert np.array_equal(everything["mask"], true.any(0).numpy())


@pytest.mark.parametrize(("detector", "segmenter"), PAIRS)
def test_together_and_alone(make, images, detector, segmenter):
    ris = make(detector, segmenter, max_instances=6)
    texts = [*TEXTS, "a tree and a very long expression that says much more than the others do"]
    for select in ("best", "place", "all"):
        options = {"instance_threshold": LOW, "select": select}
        alone = [masks([ris(image, text=text, **options)])[0] for image in images for text in texts]
        ris.model.forget()
        together = ris([{"image": image, "text": texts} for image in images], batch_size=3, **options)
        for one, answer in zip(alone, [answer for answers in together for answer in answers], strict=True):
            assert np.array_equal(one, np.asarray(answer["mask"]) > 0)


def test_an_image_is_encoded_once(make, images):
    ris = make()
    counts = {"detector": 0, "segmenter": 0}
    hooks = [
        module.register_forward_hook(lambda *_, name=name: counts.update({name: counts[name] + 1}))
        for name, module in (
            ("detector", ris.model.detector.network.model.backbone.conv_encoder),
            ("segmenter", ris.model.segmenter.network.vision_encoder),
        )
    ]
    ris(images[0], text=TEXTS)
    ris(images[0], text="a dog")
    for hook in hooks:
        hook.remove()
    assert counts == {"detector": 1, "segmenter": 1}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_precision_and_formats(make, images, dtype):
    ris = make(dtype=dtype)
    assert {parameter.dtype for parameter in ris.model.parameters()} == {dtype}
    found = {
        name: ris(images[0], text=TEXTS, output_format=name, instance_threshold=LOW)
        for name in ("pil", "array", "rle")
    }
    for pil, array, rle in zip(*found.values(), strict=True):
        assert np.array_equal(np.asarray(pil["mask"]) > 0, array["mask"])
        assert np.array_equal(rle_to_mask(rle["mask"]), array["mask"])


def test_saved_and_loaded(make, images, tmp_path):
    ris = make("mm-grounding-dino", "sam_hq")
    options = {"instance_threshold": LOW, "text": TEXTS}
    before = masks(ris(images[0], **options))
    ris.save_pretrained(tmp_path / "saved")
    again = pipeline("referring-segmentation", model=str(tmp_path / "saved"))
    assert np.array_equal(masks(again(images[0], **options)), before)
    assert again.processor.instance_threshold == 0.25
    assert "| detector | mm-grounding-dino |" in (tmp_path / "saved" / "README.md").read_text()
    assert "magnet" not in json.dumps(sorted(path.name for path in (tmp_path / "saved").iterdir()))
    remote = pipeline("referring-segmentation", model=str(tmp_path / "saved"), trust_remote_code=True)
    assert np.array_equal(masks(remote(images[0], **options)), before)


PUSH = """
import hf_ris
from transformers import pipeline

hf_ris.grounded("someone/owl", "someone/sam", device="cpu").push_to_hub("me/pair", private=True)
ris = pipeline("referring-segmentation", model="me/pair", device="cpu")
answer = ris("image.png", text="the red mug", instance_threshold=0.02, explain=True, output_format="array")
print(len(answer["explanation"]["boxes"]), answer["mask"].sum())
"""


def test_pushed_as_one_repository(folders, make, images, tmp_path):
    answer = make("owlv2", "sam")(images[0], text="the red mug", instance_threshold=LOW, explain=True)
    for name, folder in (("owl", "owlv2"), ("sam", "sam")):
        shutil.copytree(folders[folder], tmp_path / "hub" / "someone" / name)
    images[0].save(tmp_path / "image.png")
    with local_hub(tmp_path / "hub") as hub:
        environment = {**os.environ, **endpoint(hub, tmp_path / "home"), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-W", "ignore", "-c", PUSH]
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(len(answer["explanation"]["boxes"])), str(masks([answer]).sum())]
    card = (tmp_path / "hub" / "me" / "pair" / "README.md").read_text()
    assert "| detector | someone/owl |" in card and "| segmenter | someone/sam |" in card


@pytest.mark.parametrize(("detector", "segmenter"), PAIRS)
def test_offloaded(folders, images, make, detector, segmenter):
    before = masks(make(detector, segmenter)(images[0], text=TEXTS, instance_threshold=LOW))
    ris = hf_ris.grounded(folders[detector], folders[segmenter], device="cpu")
    cpu_offload(ris.model, execution_device=torch.device("cpu"))
    assert np.array_equal(masks(ris(images[0], text=TEXTS, instance_threshold=LOW)), before)


def test_threads(make, images):
    ris = make()
    before = [masks(ris(image, text=TEXTS, instance_threshold=LOW)) for image in images]
    ris.model.forget()
    found: dict[int, np.ndarray] = {}

    def ask(number: int) -> None:
        found[number] = masks(ris(images[number % 3], text=TEXTS, instance_threshold=LOW))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(found[number], before[number % 3]) for number in range(6))


def test_nothing_detected_is_an_answer(make, images):
    ris = make()
    for select in ("best", "all", "place"):
        answer = ris(images[0], text="the left unicorn", select=select, instance_threshold=1, explain=True)
        assert answer["score"] == 0 and answer["box"] is None and not np.asarray(answer["mask"]).any()
        assert answer["explanation"]["boxes"] == [] and answer["explanation"]["picked"] == []


@pytest.mark.parametrize(("detector", "segmenter"), PAIRS)
@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (8, 3000)])
def test_slender_and_tiny_images(make, detector, segmenter, size):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    answer = make(detector, segmenter)(
        image, text="the left mug", select="all", instance_threshold=LOW, explain=True, output_format="array"
    )
    assert answer["mask"].shape == size
    assert np.isfinite(answer["explanation"]["boxes"]).all()


def test_padding_of_slender_images_is_cut_off():
    image = np.full((2, 100, 3), 7, np.uint8)
    padded = pad_slender(image)
    assert padded.shape == (5, 100, 3) and (padded == 7).all()
    assert pad_slender(padded) is padded
    frame = Frame(1000, (50, 1000), is_padded=True).within(padded.shape[:2], image.shape[:2])
    assert frame == Frame(1000, (20, 1000), is_padded=True)
    squeezed = Frame(1000, (1000, 1000), is_padded=False)
    assert squeezed.within(padded.shape[:2], image.shape[:2]) == Frame(1000, (400, 1000), is_padded=True)
    assert squeezed.within((9, 9), (9, 9)) is squeezed


def outputs_of(
    boxes: list[tuple[int, int, int, int]], scores: list[float], text: str, **phrases
) -> InstanceSegmentationOutput:
    """Outputs for one expression about an image of 32 x 32 pixels, whose instances fill their boxes."""
    logits = torch.full((len(boxes), 32, 32), -10.0)
    for mask, (left, top, right, bottom) in zip(logits, boxes, strict=True):
        mask[top:bottom, left:right] = 10
    return InstanceSegmentationOutput(
        instance_masks=(logits,),
        instance_scores=(torch.tensor(scores),),
        instance_boxes=(torch.tensor(boxes) / 32,),
        phrase_scores=({name: torch.tensor(values) for name, values in phrases.items()},),
        expressions=(Expression(text),),
        frames=(Frame(32, (32, 32), is_padded=False),),
    )


def picked(outputs: InstanceSegmentationOutput, **options) -> list[int]:
    processor = hf_ris.GroundedProcessor()
    (segment,) = processor.iterate_segments(outputs, [(32, 32)], explain=True, **options)
    return segment["explanation"]["picked"]


def test_places_choose_among_instances():
    boxes, scores = [(2, 10, 8, 16), (20, 10, 26, 16), (11, 10, 17, 16)], [0.5, 0.9, 0.7]
    assert picked(outputs_of(boxes, scores, "the left mug")) == [1]
    assert picked(outputs_of(boxes, scores, "the left mug"), select="place") == [0]
    assert picked(outputs_of(boxes, scores, "the middle mug"), select="place") == [2]
    assert picked(outputs_of(boxes, scores, "second mug from the right"), select="place") == [2]
    assert picked(outputs_of(boxes, scores, "the blue mug"), select="place") == [1]  # says nothing of places
    assert picked(outputs_of(boxes, scores, "the left mug"), select="all") == [0, 1, 2]
    assert picked(outputs_of(boxes, scores, "the left mug"), select="place", instance_threshold=0.6) == [1]


def test_a_pair_keeps_how_it_selects(folders, images, tmp_path):
    ris = hf_ris.grounded(folders["owlv2"], folders["sam"], device="cpu", select="all")
    ris.save_pretrained(tmp_path)
    again = pipeline("referring-segmentation", model=str(tmp_path))
    for each in (ris, again):
        chosen = each(images[0], text="the red mug", instance_threshold=LOW, explain=True)["explanation"]
        assert chosen["select"] == "all" and len(chosen["picked"]) == len(chosen["boxes"])
    with pytest.raises(StrictDataclassError, match="`select` must be one of"):
        hf_ris.grounded(folders["owlv2"], folders["sam"], select="first")
    assert ris.model.name_or_path == "owlv2 + sam"


def test_relations_choose_among_instances():
    boxes = [(2, 10, 8, 16), (24, 10, 30, 16), (13, 10, 19, 16)]  # a mug, a mug, and the tree between them
    phrases = {"the mug": [0.8, 0.9, 0.1], "the tree": [0.1, 0.1, 0.9]}
    outputs = outputs_of(boxes, [0.8, 0.9, 0.9], "the mug left of the tree", **phrases)
    assert picked(outputs, select="place") == [0]
    assert picked(outputs) == [1]


def test_an_instance_without_pixels_is_no_candidate():
    outputs = outputs_of([(2, 10, 2, 16), (20, 10, 26, 16)], [0.9, 0.5], "the left mug")
    assert picked(outputs, select="place") == [1]
    assert picked(outputs_of([(2, 10, 2, 16)], [0.9], "the left mug"), select="place") == []


def test_of_a_padded_input_the_image_is_read():
    frame = Frame(64, (32, 64), is_padded=True)
    logits = torch.full((1, 16, 16), -9.0)
    logits[:, :8, :4] = 9
    assert frame.crop(logits).shape == (1, 8, 16)
    mask = frame.enlarge(logits, (20, 40))[0] > 0
    assert mask.shape == (20, 40) and mask[:, :9].all() and not mask[:, 11:].any()


def test_captions_are_closed_by_their_only_full_stop(make, images):
    assert as_caption(" The St. Bernard,  on the left. ") == "the st bernard, on the left."
    ris = make()
    one, other = ris(images[0], text=["the St. Bernard", "the st bernard"], instance_threshold=LOW)
    assert one["score"] == other["score"]


def test_long_expressions_are_cut_with_a_warning(make, images, caplog):
    for detector in ("grounding-dino", "owlv2"):
        answer = make(detector)(images[0], text=" ".join(["the left mug and"] * 30))
        assert 0 <= answer["score"] <= 1
    assert sum("is too long" in record.message or "tokens" in record.message for record in caplog.records) >= 2


def test_bad_input_is_named(folders, make, images):
    ris = make()
    with pytest.raises(ValueError, match="`labels` must be left out"):
        ris.model(images=[np.asarray(images[0])], text=["a dog"], labels=torch.zeros(1))
    with pytest.raises(ValueError, match="`segmentation_maps` must be left out"):
        ris.processor(images[0], "a dog", segmentation_maps=images[0])
    with pytest.raises(ValueError, match="'regions' is no part of an input"):
        ris({"image": images[0], "text": "a dog", "regions": []})
    with pytest.raises(ValueError, match=r"`detector` must be one of \['grounding-dino', .*, got the 'sam'"):
        hf_ris.grounded(detector=folders["sam"], segmenter=folders["sam"])
    with pytest.raises(ValueError, match=r"`segmenter` must be one of \['sam', .*, got the 'owlv2'"):
        hf_ris.grounded(detector=folders["owlv2"], segmenter=folders["owlv2"])
    with pytest.raises(StrictDataclassError, match="`max_instances` must be 1 or larger"):
        hf_ris.grounded(folders["owlv2"], folders["sam"], max_instances=0)
    with pytest.raises(ValueError, match="max_instance"):
        hf_ris.grounded(folders["owlv2"], folders["sam"], max_instance=3)
    with pytest.raises(ValueError, match="`explain` must be True or False, got 1"):
        ris(images[0], text="a dog", explain=1)
    with pytest.raises(ValueError, match='`select` must not be "place" for outputs without `expressions`'):
        found = outputs_of([(2, 10, 8, 16)], [0.9], "the left mug")
        names = ("instance_masks", "instance_scores", "instance_boxes", "frames")
        picked(InstanceSegmentationOutput(**{name: found[name] for name in names}), select="place")


def test_on_the_command_line(make, images, tmp_path):
    make().save_pretrained(tmp_path / "pair")
    images[0].save(tmp_path / "image.png")
    result = CliRunner().invoke(
        app, ["segment", str(tmp_path / "image.png"), *TEXTS, "--model", str(tmp_path / "pair"), "--json"]
    )
    assert result.exit_code == 0, result.output
    assert len(json.loads(result.stdout)) == len(TEXTS)
