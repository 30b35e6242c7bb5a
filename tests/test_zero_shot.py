"""The zero-shot systems as a user meets them: composed of parts, asked about pictures and regions, saved and loaded as one."""

import copy
import json
import pickle
import re
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import accelerate
import numpy as np
import pytest
import tiny_parts
import torch
from golden_states import read_tensors
from PIL import Image
from safetensors.torch import save_file
from transformers import pipeline
from typer.testing import CliRunner

import hf_ris
from hf_ris import composition
from hf_ris.cli import app
from hf_ris.conversion.files import Checkpoint, read_state_dict
from hf_ris.conversion.mapping_clip import convert_clip_state_dict
from hf_ris.conversion.torchscript import read_torchscript
from hf_ris.data import load_refshapes
from hf_ris.data.refshapes import EXAMPLES, draw_scene
from hf_ris.data.refshapes.rows import scene_targets
from hf_ris.evaluation import evaluate
from hf_ris.modeling.language_expression import Expression
from hf_ris.modeling.modeling_referring_segmentation import REGION_LOGIT
from hf_ris.modeling.tas_rectifier import Layout, rectify
from hf_ris.modeling.without_torch import rle_to_mask
from hf_ris.modeling.zero_shot_parts import IMAGE_TEXT
from hf_ris.output_folder import describe_model
from hf_ris.systems import BUNDLED_ZERO_SHOT


TASK = "zero-shot-referring-segmentation"
SAM_OPTIONS = {"points_per_side": 2, "min_iou": -99.0, "min_stability": 0.0, "max_box_iou": 1.0, "min_region_area": 0}


@pytest.fixture(scope="module")
def parts(tmp_path_factory, tokenizer):
    folder = tmp_path_factory.mktemp("parts")
    tiny_parts.save_clip(folder / "clip")
    tiny_parts.save_clip_resnet(folder / "clip-resnet")
    tiny_parts.save_siglip(folder / "siglip")
    tiny_parts.save_siglip2(folder / "siglip2")
    tiny_parts.save_metaclip2(folder / "metaclip2")
    tiny_parts.save_sam(folder / "sam")
    tiny_parts.save_mask2former(folder / "mask2former")
    tiny_parts.save_blip(folder / "blip", tokenizer)
    return folder


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    generator = np.random.default_rng(0)
    return Image.fromarray(generator.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((96, 72))


@pytest.fixture(scope="module")
def regions() -> np.ndarray:
    return tiny_parts.boxes((72, 96), (0, 0, 30, 30), (40, 10, 80, 60), (10, 40, 40, 70))


def compose(parts, system: str, **options):
    options = {"image_text": parts / "clip", "proposer": "none", **options}
    if system == "tas":
        options = {"captioner": parts / "blip", **options}
    return hf_ris.zero_shot(system, device="cpu", **options)


@pytest.fixture(scope="module", params=["global-local", "tas"])
def ris(request, parts):
    return compose(parts, request.param)


@pytest.fixture(scope="module")
def tas(parts):
    return compose(parts, "tas")


def test_the_answer_is_one_of_the_regions(ris, picture, regions):
    answers = ris(
        picture, text=["the red dog", "a house", "left"], regions=regions, output_format="array", explain=True
    )
    for answer in answers:
        pick = answer["explanation"]["pick"]
        assert np.array_equal(answer["mask"], regions[pick])
        assert answer["score"] == pytest.approx(answer["explanation"]["shares"][pick])
        assert sum(answer["explanation"]["shares"]) == pytest.approx(1)
        assert np.array_equal(np.stack(answer["explanation"]["regions"]), regions)


def test_outputs_keep_the_contract(tas, picture, regions):
    images = [np.asarray(picture), np.asarray(picture.resize((60, 80)))]
    other = tiny_parts.boxes((80, 60), (0, 0, 20, 20))
    outputs = tas.model(images, ["a dog", "a cat", "a dog", "a cat"], [regions, other])
    assert "logits" not in outputs, "they are made when they are asked for"
    assert torch.equal(outputs["logits"], outputs.logits)
    assert outputs.logits.shape == (4, 80, 96)
    assert set(outputs.logits.unique().tolist()) == {-REGION_LOGIT, REGION_LOGIT}
    assert [len(masks) for masks in outputs.region_masks] == [3, 1]
    assert [len(shares) for shares in outputs.region_scores] == [3, 3, 1, 1]
    assert all(set(terms) == {"V", "P", "N"} for terms in outputs.terms)
    assert outputs.loss is None
    assert outputs.explanations is None
    sizes = [(72, 96)] * 2 + [(80, 60)] * 2
    results = tas.processor.post_process_referring_segmentation(outputs, sizes)
    assert np.array_equal(results[3]["mask"].numpy(), other[0])


def test_labels_are_refused(ris, picture, regions):
    with pytest.raises(ValueError, match=r"labels.*does not train"):
        ris.model([np.asarray(picture)], ["a dog"], [regions], labels=torch.zeros(1, 72, 96))
    with pytest.raises(ValueError, match="segmentation_maps"):
        ris.processor(picture, "a dog", segmentation_maps=regions[0])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            np.ones((2, 10, 10), bool),
            "must be 96 pixels wide and 72 high, as their image, got masks 10 wide and 10 high",
        ),
        (np.zeros((1, 72, 96), bool), "no empty mask; number 0 is"),
        (np.ones((72, 96), bool), r"\(regions, height, width\), got \(72, 96\)"),
        (torch.zeros((1, 72, 96), dtype=torch.bfloat16), "no empty mask; number 0 is"),
        (torch.eye(96).to_sparse(), "`regions` must hold masks, got Tensor"),
        ([[1, 2], [3]], "`regions` must hold masks of one shape"),
        (np.full((1, 72, 96), "a"), "`regions` must hold numbers or booleans, got an array of dtype <U1"),
        ("mask.png", "got str"),
    ],
    ids=["size", "empty", "one mask", "bfloat16", "sparse", "ragged", "letters", "path"],
)
def test_unfit_regions_are_named(ris, picture, given, message):
    with pytest.raises(ValueError, match=message):
        ris(picture, text="a dog", regions=given)
    items = [{"image": picture, "text": "a dog", "regions": own} for own in (given, np.ones((1, 72, 96), bool))]
    bad, good = ris(items, on_error="report", batch_size=2)
    assert re.search(message, bad["error"])
    assert good["box"] is not None
    with pytest.raises(ValueError, match="`regions` were given twice"):
        ris(items[1], regions=given)


def test_unfit_regions_are_named_by_the_model(ris, picture, regions):
    """The processor makes them boolean and finds empty ones; the model, where it is called alone, takes nothing else."""
    for given in (regions.astype(np.uint8), regions[:, :10], regions[0]):
        with pytest.raises(ValueError, match=r"`region_masks\[0\]` must be boolean, \(regions, 72, 96\), got"):
            ris.model([np.asarray(picture)], ["a dog"], [given])


def test_masks_are_their_owners(ris, picture, regions):
    """Two expressions that chose one region, and a second call, do not see what is done to the mask of the first."""
    first, second = ris(picture, text=["a dog", "a  dog"], regions=regions[:1], output_format="array")
    first["mask"][:] = False
    assert np.array_equal(second["mask"], regions[0])
    assert np.array_equal(ris(picture, text="a dog", regions=regions[:1], output_format="array")["mask"], regions[0])


def test_one_unfit_set_of_regions_is_reported(ris, picture, regions):
    inputs = [{"image": picture, "text": "a dog", "regions": masks} for masks in (regions, regions[:, :5])]
    good, bad = ris(inputs, on_error="report")
    assert good["box"] is not None
    assert "5 high" in bad["error"]
    plain = pipeline("referring-segmentation", model=ris.model, processor=ris.processor, device="cpu")
    with pytest.raises(ValueError, match="zero-shot-referring-segmentation"):
        plain(inputs[0])


def test_without_a_proposer_regions_are_needed(ris, picture):
    with pytest.raises(ValueError, match=r"`regions` are missing.*no proposer"):
        ris(picture, text="a dog")


def test_no_region_is_an_empty_mask(ris, picture):
    answer = ris(picture, text=["a dog", "a cat"], regions=np.zeros((0, 72, 96), bool), explain=True)[1]
    assert answer["box"] is None
    assert answer["score"] == 0.0
    assert answer["explanation"]["regions"] == []


@pytest.mark.parametrize("mode", ["default", "paper"])
def test_any_regions_have_an_answer(parts, picture, mode):
    ris = compose(parts, "tas", mode=mode, negative_weight=0.0)
    everything = np.ones((1, 72, 96), bool)
    twice = np.concatenate([everything, everything])
    for regions in (everything, twice):
        answer = ris(picture, text="the left dog", regions=regions)
        assert answer["box"] == {"xmin": 0, "ymin": 0, "xmax": 96, "ymax": 72}


@pytest.mark.parametrize("text", ["left", "7!", "el perro rojo", "红色的狗", "the", "a" * 500])
def test_any_expression_has_an_answer(ris, picture, regions, text):
    answer = ris(picture, text=text, regions=regions)
    assert answer["box"] is not None
    assert 0 < answer["score"] <= 1


def test_empty_captions_do_no_harm(parts, picture, regions, monkeypatch):
    ris = compose(parts, "tas")
    monkeypatch.setattr(ris.model.captioner, "_caption", lambda images: [" "] * len(images))
    answer = ris(picture, text="a dog", regions=regions, explain=True)
    assert answer["explanation"]["captions"] == ["", "", ""]
    assert answer["explanation"]["negatives"] == []
    assert answer["explanation"]["terms"]["N"] == [0.0, 0.0, 0.0]
    assert np.isfinite(answer["score"])


def test_regions_come_in_every_shape(ris, picture, regions):
    expected = ris(picture, text="a dog", regions=regions)["box"]
    assert ris(picture, text="a dog", regions=list(regions))["box"] == expected
    assert ris(picture, text="a dog", regions=torch.from_numpy(regions))["box"] == expected
    assert ris({"image": picture, "text": "a dog", "regions": regions})["box"] == expected
    assert ris([picture, picture], text="a dog", regions=[regions, regions[:1]])[0]["box"] == expected
    with pytest.raises(ValueError, match="regions"):
        ris([picture, picture], text="a dog", regions=regions)


def test_large_pictures_are_reduced_and_masks_are_not(parts, picture, regions):
    ris = compose(parts, "tas", max_size=48)
    outputs = ris.model(**ris.processor(picture, "a dog", regions))
    assert outputs.logits.shape == (1, 36, 48)
    answer = ris(picture, text="a dog", regions=regions, output_format="array")
    assert answer["mask"].shape == (72, 96)
    assert any(np.mean(answer["mask"] != region) < 0.01 for region in regions)


def test_a_picture_is_looked_at_once(parts, picture, regions, monkeypatch):
    ris = compose(parts, "tas", proposer=parts / "sam", proposer_options=SAM_OPTIONS, cache_size=2)
    calls = {"propose": 0, "encode": 0, "caption": 0}

    def count(owner, method, name):
        original = getattr(owner, method)

        def counted(*arguments, **options):
            calls[name] += 1
            return original(*arguments, **options)

        monkeypatch.setattr(owner, method, counted)

    count(ris.model.proposer, "propose", "propose")
    count(ris.model.image_text, "encode_images", "encode")
    count(ris.model.captioner, "caption", "caption")
    ris(picture, text=["a dog", "a cat"])
    ris(picture.copy(), text="the house")
    assert calls == {"propose": 1, "encode": 1, "caption": 2}  # the picture's own caption is one of them
    ris(picture.resize((64, 64)), text="a dog")
    ris(picture.resize((50, 50)), text="a dog")
    ris(picture, text="a dog")  # the two after it have taken its place
    assert calls["propose"] == 4
    with torch.no_grad():
        next(ris.model.image_text.parameters()).add_(1.0)
    ris(picture, text="a dog")
    assert calls["propose"] == 5, "what other weights saw is no longer true"


SETTINGS = {
    "the proposer's options": lambda model: setattr(model.proposer, "points_per_side", 1),
    "an option of the system": lambda model: setattr(model.config, "max_region_overlap", 0.9),
    "the parser": lambda model: setattr(model.config, "parser", "rules"),
    "a part's attribute": lambda model: setattr(model.captioner, "max_new_tokens", 3),
    "a part's configuration": lambda model: setattr(model.proposer.config.vision_config, "layer_norm_eps", 0.1),
    "a processor": lambda model: setattr(model.image_text.processor.image_processor, "image_mean", [0.1, 0.2, 0.3]),
    "generation": lambda model: setattr(model.captioner.network.generation_config, "num_beams", 2),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_what_was_seen_with_other_settings_is_not_kept(parts, picture, name, monkeypatch):
    ris = compose(parts, "tas", proposer=parts / "sam", proposer_options=SAM_OPTIONS)
    looks = []
    propose = ris.model.proposer.propose
    monkeypatch.setattr(ris.model.proposer, "propose", lambda image: looks.append(1) or propose(image))
    ris(picture, text="a dog")
    ris(picture, text="a cat")
    assert len(looks) == 1
    before = describe_model(ris)["configuration"]
    SETTINGS[name](ris.model)
    ris(picture, text="a dog")
    assert describe_model(ris)["configuration"] != before
    assert len(looks) == 2
    ris.model.config.cache_size, ris.model.config.cache_bytes = 3, 2**20
    ris(picture, text="a dog")
    assert len(looks) == 2, "how much is kept changes no answer"


def test_settings_are_the_same_in_every_process(parts, monkeypatch):
    """Or a stopped evaluation would be refused when it goes on. Python's hashes of text differ between processes."""
    captioner = compose(parts, "tas").model.captioner
    before = captioner.describe_settings()
    monkeypatch.setattr(captioner.network.generation_config, "_original_object_hash", 1, raising=False)
    assert captioner.describe_settings() == before


def test_a_changed_proposer_finds_other_regions(bundled):
    image = EXAMPLES[0].draw()
    min_share = bundled.model.proposer.config.min_share
    numbers = []
    for share in (min_share, 0.2, min_share):
        bundled.model.proposer.config.min_share = share
        numbers.append(len(bundled(image, text="a mug", explain=True)["explanation"]["regions"]))
    assert numbers[0] == numbers[2] > numbers[1] >= 1


def test_the_last_pictures_are_kept_within_a_number_of_bytes(parts, picture, regions):
    ris = compose(parts, "global-local")
    sizes = [(96, 72), (48, 36), (24, 18)]
    for size in sizes:
        shrunk = tiny_parts.boxes(size[::-1], (0, 0, 9, 9), (3, 3, 12, 12))
        ris(picture.resize(size), text="a dog", regions=shrunk)
    kept = ris.model._images
    assert len(kept) == 3
    needed = sum(
        5 * width * height for width, height in sizes[1:]
    )  # three bytes a pixel, and one for each of two regions
    ris.model.config.cache_bytes = needed + 1000  # features are small
    ris(picture.resize((24, 18)), text="a cat", regions=shrunk)
    assert len(kept) == 2
    ris(picture, text="a dog", regions=regions)
    assert len(kept) == 2, "one that is too large alone takes no other's place"
    ris.model.forget()
    ris.model.config.cache_bytes = 2**29
    ris(picture, text="a dog", regions=regions)
    for copied in (copy.deepcopy(ris.model), pickle.loads(pickle.dumps(ris.model))):
        assert len(copied._images) == 0
        assert len(kept) == 1
        again = pipeline(TASK, model=copied, processor=ris.processor, device="cpu")
        assert again(picture, text="a dog", regions=regions)["box"] is not None


@pytest.mark.parametrize("cache_size", [*(pytest.param(size, marks=pytest.mark.slow) for size in (0, 1)), 2])
def test_threads_share_what_was_seen(parts, picture, regions, cache_size):
    ris = compose(parts, "tas", cache_size=cache_size)
    pictures = [picture, picture.rotate(180), picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
    expected = [ris(each, text="the left dog", regions=regions)["score"] for each in pictures]

    def ask(number: int) -> bool:
        answer = ris(pictures[number % 3], text="the left dog", regions=regions)
        return answer["score"] == pytest.approx(expected[number % 3], abs=1e-5)

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(ask, range(48)))
    assert len(ris.model._images) == cache_size


def test_a_rank_that_does_not_exist_has_an_answer(bundled):
    image = EXAMPLES[0].draw()
    regions = tiny_parts.boxes((320, 320), (0, 0, 320, 320), (20, 20, 60, 60))
    for text in ("the second to last mug from the left", "the eighth mug from the right"):
        assert bundled(image, text=text, regions=regions)["box"]["xmax"] == 60


def test_expressions_asked_together_or_alone_have_one_answer(ris, picture, regions):
    texts = ["a dog", "the man on the left", "a cat"]
    together = ris(picture, text=texts, regions=regions)
    for text, answer in zip(texts, together, strict=True):
        alone = ris(picture, text=text, regions=regions)
        assert alone["box"] == answer["box"]
        assert alone["score"] == pytest.approx(answer["score"], abs=1e-5)


def test_batches_of_one_region_change_nothing(parts, picture, regions):
    answers = [
        compose(parts, "global-local", batch_size=size)(picture, text="a dog", regions=regions, explain=True)
        for size in (1, 16)
    ]
    scores = [answer["explanation"]["terms"]["score"] for answer in answers]
    assert scores[0] == pytest.approx(scores[1], abs=1e-5)


COMPOSITIONS = {
    "global-local, CLIP ViT": ("global-local", {"proposer": "felzenszwalb"}),
    "global-local, CLIP ResNet": ("global-local", {"image_text": "clip-resnet", "proposer": "felzenszwalb"}),
    "global-local, as published": ("global-local", {"proposer": "felzenszwalb", "mode": "paper"}),
    "global-local, SigLIP": ("global-local", {"image_text": "siglip", "proposer": "felzenszwalb"}),
    "global-local, SigLIP 2": ("global-local", {"image_text": "siglip2", "proposer": "felzenszwalb"}),
    "global-local, MetaCLIP 2": ("global-local", {"image_text": "metaclip2", "proposer": "felzenszwalb"}),
    "tas, SAM": ("tas", {"proposer": "sam", "proposer_options": SAM_OPTIONS}),
    "tas, Mask2Former": ("tas", {"proposer": "mask2former", "proposer_options": {"min_score": 0.0}}),
    "tas, no captioner": ("tas", {"proposer": "felzenszwalb", "captioner": "none"}),
}


def compose_named(parts, name: str, **options):
    system, choices = COMPOSITIONS[name]
    folders = {
        key: parts / value for key, value in choices.items() if isinstance(value, str) and (parts / value).is_dir()
    }
    return compose(parts, system, **{**choices, **folders, **options})


@pytest.mark.parametrize("name", COMPOSITIONS)
def test_saved_as_one_and_loaded_by_either_task(parts, picture, tmp_path, name):
    ris = compose_named(parts, name)
    expected = ris(picture, text="the red dog", output_format="array")
    ris.model.save_pretrained(tmp_path)
    for task in ("referring-segmentation", "zero-shot-referring-segmentation"):
        again = pipeline(task, model=str(tmp_path), device="cpu")
        answer = again(picture, text="the red dog", output_format="array")
        assert np.array_equal(answer["mask"], expected["mask"])
        assert answer["score"] == pytest.approx(expected["score"], abs=1e-6)
        assert again.model.config.mode == ris.model.config.mode


PRECISIONS = (torch.float32, torch.float16, torch.bfloat16)


@pytest.mark.parametrize("name", COMPOSITIONS)
def test_saved_and_loaded_in_any_precision(parts, picture, regions, tmp_path, name):
    all_shares = []
    for saved in PRECISIONS:
        ris = compose_named(parts, name, dtype=saved)
        ris.model.save_pretrained(tmp_path / str(saved))
        for loaded in PRECISIONS:
            again = pipeline(TASK, model=str(tmp_path / str(saved)), dtype=loaded, device="cpu")
            assert {weight.dtype for weight in again.model.parameters()} == {loaded}
            assert again.model.config.image_text_config.text_config.dtype == loaded
            assert again(picture, text="the red dog")["box"] is not None
            shares = again(picture, text="the red dog", regions=regions, explain=True)["explanation"]["shares"]
            all_shares.append(shares)
    assert np.abs(np.array(all_shares) - all_shares[0]).max() < 0.05
    for changed in (again.model.half(), again.model.to(torch.bfloat16), again.model.float()):
        assert again(picture, text="the red dog", regions=regions)["box"] is not None
        assert len({weight.dtype for weight in changed.parameters()}) == 1
    automatic = pipeline(TASK, model=str(tmp_path / str(torch.float16)), dtype="auto", device="cpu")
    assert {weight.dtype for weight in automatic.model.parameters()} == {torch.float16}
    for named, dtype in (("bfloat16", torch.bfloat16), ("auto", torch.float32)):
        composed = compose_named(parts, name, dtype=named)
        assert {weight.dtype for weight in composed.model.parameters()} == {dtype}
        assert composed(picture, text="the red dog", regions=regions)["box"] is not None


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_the_bundled_one_loads_in_any_precision(dtype):
    ris = pipeline(TASK, dtype=dtype, device="cpu")
    assert {weight.dtype for weight in ris.model.parameters()} == {dtype}
    answer = ris(EXAMPLES[0].draw(), text=EXAMPLES[0].expressions[0])
    assert answer["box"] == pipeline(TASK, device="cpu")(EXAMPLES[0].draw(), text=EXAMPLES[0].expressions[0])["box"]


@pytest.mark.parametrize("name", COMPOSITIONS)
def test_weights_may_lie_elsewhere(parts, picture, tmp_path, name):
    """On the CPU's other side, or on disk: accelerate brings them when they are needed."""
    ris = compose_named(parts, name)
    ris.save_pretrained(tmp_path / "saved")
    texts = ["the red dog", "a house"]
    expected = ris(picture, text=texts, output_format="array")
    total = sum(weight.nbytes for weight in ris.model.parameters())
    parts_on_disk = {name: "cpu" if name == "proposer" else "disk" for name, _ in ris.model.named_children()}

    def load(**options):
        return ris.model.from_pretrained(tmp_path / "saved", offload_folder=tmp_path / "off", **options)

    offloaded = {
        "cpu_offload": accelerate.cpu_offload(load(), execution_device="cpu"),
        "with buffers": accelerate.cpu_offload(load(), execution_device="cpu", offload_buffers=True),
        "disk": load(device_map=dict(sorted(parts_on_disk.items(), key=lambda pair: pair[1]))),
        "little memory": load(device_map="auto", max_memory={"cpu": total // 2}),
    }
    for way, model in offloaded.items():
        assert "meta" in {weight.device.type for weight in model.parameters()}, way
        outputs = model(**ris.processor(picture, texts))
        results = ris.processor.post_process_referring_segmentation(outputs, [(72, 96)] * 2)
        for result, answer in zip(results, expected, strict=True):
            assert np.array_equal(result["mask"].numpy(), answer["mask"]), way
            assert result["score"] == pytest.approx(answer["score"], abs=1e-5), way
    again = pipeline(TASK, model=offloaded["little memory"], processor=ris.processor)
    assert again(picture, text="the red dog")["box"] == expected[0]["box"]


def test_the_card_names_parts_and_licences(parts, tmp_path):
    (parts / "clip" / "README.md").write_text("---\nlicense: mit\n---\n", encoding="utf-8")
    ris = compose(parts, "tas")
    (parts / "clip" / "README.md").unlink()
    ris.model.save_pretrained(tmp_path)
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "| image_text | clip | mit |" in card
    assert "| captioner | blip | not stated: ask its authors |" in card
    (tmp_path / "README.md").write_text("my own", encoding="utf-8")
    ris.model.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == "my own"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"system": "lavt"}, "`system` must be one of"),
        ({"system": "global-local", "captioner": "blip"}, "`captioner` must be left out"),
        ({"system": "tas", "image_text": "none"}, "`image_text` must be a folder"),
        ({"system": "tas", "proposer": "clip"}, r"`proposer` must be one of \['sam'.*got the 'clip'"),
        ({"system": "tas", "alpha": 0.2}, "TASConfig has no field 'alpha'"),
        ({"system": "tas", "mode": "papers"}, "`mode` must be one of"),
        ({"system": "tas", "dtype": "half-full"}, "`dtype` must be a dtype of torch, its name or 'auto'"),
        (
            {"system": "tas", "proposer": "sam", "proposer_options": {"points_per_side": 0}},
            "`points_per_side` must be a whole number of at least 1",
        ),
        ({"system": "tas", "proposer_options": {"points": 3}, "proposer": "sam"}, "does not take .*points"),
    ],
    ids=lambda value: str(value) if isinstance(value, str) else None,
)
def test_unfit_compositions_are_named(parts, arguments, message):
    arguments = {name: parts / value if (parts / str(value)).is_dir() else value for name, value in arguments.items()}
    options = {"image_text": parts / "clip", "proposer": "none", **arguments}
    if arguments["system"] == "tas":
        options.setdefault("captioner", "none")
    with pytest.raises(Exception, match=message):
        hf_ris.zero_shot(**options, device="cpu")


def test_the_zero_shot_task_explains_only_when_asked(tas, picture, regions):
    assert "explanation" not in tas(picture, text="a dog", regions=regions)
    with pytest.raises(ValueError, match="explain"):
        tas(picture, text="a dog", regions=regions, explain="yes")


def test_what_is_said_of_places_decides(parts, picture, regions):
    ris = compose(parts, "tas", captioner="none")
    left = ris(picture, text="the thing on the far left", regions=regions, explain=True)
    right = ris(picture, text="the thing on the far right", regions=regions, explain=True)
    assert left["explanation"]["pick"] == 0
    assert right["explanation"]["pick"] == 1
    assert right["explanation"]["directions"] == ["side: far right"]


def test_evaluated_like_any_model(parts, tmp_path):
    ris = compose(parts, "global-local", proposer="felzenszwalb")
    rows = load_refshapes("refshapes", "val", num_rows=3, cache_dir=tmp_path / "cache")
    figures = evaluate(ris, rows, output=tmp_path / "results")
    assert figures["mIoU"] == pytest.approx(np.mean(tiny_parts.ious_by_hand(ris, rows)), abs=1e-4)
    assert figures["mIoU"] > 0
    assert figures["expressions"] == sum(len(row["expressions"]) for row in rows)


def test_a_picture_without_regions_counts_as_missed(parts, tmp_path, monkeypatch):
    ris = compose(parts, "tas", proposer="felzenszwalb", captioner="none")
    rows = load_refshapes("refshapes", "val", num_rows=2, cache_dir=tmp_path / "cache")
    monkeypatch.setattr(ris.model.proposer, "propose", lambda image: np.zeros((0, *image.shape[:2]), bool))
    assert evaluate(ris, rows)["mIoU"] == 0.0


def test_the_command_line_explains(parts, picture, tmp_path):
    compose(parts, "tas", proposer="felzenszwalb").save_pretrained(tmp_path / "tas")
    picture.save(tmp_path / "picture.png")
    command = ["segment", str(tmp_path / "picture.png"), "the left dog", "a very long house " * 8]
    done = CliRunner().invoke(
        app, [*command, "--model", str(tmp_path / "tas"), "--explain", str(tmp_path / "why.png")]
    )
    assert done.exit_code == 0, done.output
    assert "explanation" not in done.stdout
    with Image.open(tmp_path / "why.png") as drawn:
        assert drawn.height > drawn.width * 72 // 96, "tables stand below the picture"
    done = CliRunner().invoke(app, [*command, "--model", "bundled", "--explain", str(tmp_path / "why.png")])
    assert done.exit_code == 2
    assert "does not choose among regions" in done.stderr
    done = CliRunner().invoke(app, [*command, "--explain", str(tmp_path / "why.png")])
    assert done.exit_code == 0, done.output
    assert "bundled-zero-shot" in done.stderr


def program_of(state: dict[str, torch.Tensor]) -> torch.nn.Module:
    """A module whose parameters have these names, however deep."""
    root = torch.nn.Module()
    for name, tensor in state.items():
        *path, last = name.split(".")
        module = root
        for step in path:
            if not hasattr(module, step):
                module.add_module(step, torch.nn.Module())
            module = getattr(module, step)
        module.register_buffer(last, tensor)
    return root


@pytest.mark.parametrize("packing", ["open_clip", "TorchScript"])
@pytest.mark.parametrize("prefix", ["vit.", "rn."])
def test_released_clips_are_read(prefix, packing, tmp_path, picture, regions):
    """Sixty-four channels a head, as released ones have: the golden ViT has four heads, but any will do here."""
    state = read_tensors("global_local", "state.safetensors")
    state = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    tokenizer = tiny_parts.letters()
    if packing == "open_clip":
        save_file(state, tmp_path / "open_clip_model.safetensors")
        (tmp_path / "config.json").write_text('{"architecture": "of timm"}')
        tokenizer.save_pretrained(tmp_path)
        found = composition.load_part("image_text", str(tmp_path), IMAGE_TEXT, torch.float32)
    else:
        torch.jit.script(program_of(state)).save(tmp_path / "CLIP.pt")
        tokenizer.save_pretrained(tmp_path / "tokenizer")
        found = composition.load_released_clip(str(tmp_path / "CLIP.pt"), torch.float32, str(tmp_path / "tokenizer"))
    expected = convert_clip_state_dict(state)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.network.state_dict().items())
    assert found.processor.image_processor.crop_size["height"] == (56 if prefix == "vit." else 96)
    with pytest.raises(ValueError, match="no CLIP under OpenAI's names"):
        save_file({"weight": torch.zeros(1)}, tmp_path / "other.safetensors")
        composition.load_part("image_text", str(tmp_path / "other.safetensors"), IMAGE_TEXT, torch.float32)


def test_a_program_is_never_run(tmp_path):
    """What a TorchScript archive holds beside weights is refused, whatever it is."""
    torch.jit.script(program_of({"a.b": torch.arange(6.0).view(2, 3).T})).save(tmp_path / "program.pt")
    assert torch.equal(read_torchscript(tmp_path / "program.pt")["a.b"], torch.arange(6.0).view(2, 3).T)
    with zipfile.ZipFile(tmp_path / "evil.pt", "w") as archive:
        archive.writestr("evil/constants.pkl", pickle.dumps(()))
        archive.writestr("evil/data.pkl", pickle.dumps(print))
    with pytest.raises(ValueError, match=r"builtins\.print.*not run"):
        read_state_dict(Checkpoint(tmp_path / "evil.pt", "evil.pt"))
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb/constants.pkl", pickle.dumps(()))
        archive.writestr("bomb/data.pkl", bytes(2**20))
    with pytest.raises(ValueError, match="is not a complete torch checkpoint"):
        read_state_dict(Checkpoint(tmp_path / "bomb.pt", "bomb.pt"))


def test_real_photos_with_recorded_regions(ris, real_data):
    """The whole of it on photos; with random weights, that says nothing of how right it is."""
    folder = real_data / "refcoco_micro"
    expressions: dict[str, list[str]] = {}
    for row in map(json.loads, (folder / "rows.jsonl").read_text(encoding="utf-8").splitlines()):
        expressions.setdefault(Path(row["image"]).name, []).append(row["expression"])
    assert len(expressions) == 12
    for name, texts in expressions.items():
        stored = np.load(folder / "proposals" / f"{Path(name).stem}.npz")
        masks = np.unpackbits(stored["masks"], axis=-1)[..., : stored["shape"][-1]].astype(bool)
        photo = next((folder / "refer").rglob(name))
        answers = ris(str(photo), text=texts, regions=masks, output_format="array")
        assert [answer["label"] for answer in answers] == texts
        assert all(any(np.array_equal(answer["mask"], mask) for mask in masks) for answer in answers)


def test_places_alone_beat_chance_on_real_photos(real_data):
    """A detector's regions, all taken to fit as well: what an expression says of places finds more than twice as many as chance."""
    folder = real_data / "refcoco_micro"
    chance, found = [], []
    for row in map(json.loads, (folder / "rows.jsonl").read_text(encoding="utf-8").splitlines()):
        expression = Expression(row["expression"])
        if not expression.places:
            continue
        stored = np.load(folder / "proposals" / f"{Path(row['image']).stem}.npz")
        masks = np.unpackbits(stored["masks"], axis=-1)[..., : stored["shape"][-1]].astype(bool)
        true = rle_to_mask(row["rle"])
        hits = [(mask & true).sum() / (mask | true).sum() >= 0.5 for mask in masks]
        chance.append(np.mean(hits))
        found.append(hits[rectify(expression, Layout.of(masks), np.ones(len(masks)))[0]])
    assert len(found) >= 20
    assert np.mean(found) > 2 * np.mean(chance)


@pytest.fixture(scope="module")
def bundled():
    return pipeline("zero-shot-referring-segmentation", device="cpu")


def test_the_bundled_one_chooses_by_looks_and_place(bundled):
    """Scenes of a split that its parts saw nothing of; by chance, one in five would be right."""
    right = []
    for index in range(10):
        scene, referents = scene_targets("refshapes", "testA", index)
        image, masks = draw_scene(scene)
        regions = masks[masks.any(axis=(1, 2))]
        answers = bundled(image, text=[texts[0] for _, texts in referents], regions=regions, output_format="array")
        right += [
            np.array_equal(answer["mask"], masks[target])
            for answer, (target, _) in zip(answers, referents, strict=True)
        ]
    assert np.mean(right) > 0.5


def test_the_bundled_one_finds_regions_and_explains_itself(bundled):
    assert bundled.model.name_or_path == str(BUNDLED_ZERO_SHOT)
    image = EXAMPLES[0].draw()
    answers = bundled(image, text=list(EXAMPLES[0].expressions), explain=True)
    assert len({answer["explanation"]["pick"] for answer in answers}) > 1, "another word, another thing"
    assert all(answer["explanation"]["captions"] for answer in answers)
    again = pipeline("referring-segmentation", model=str(BUNDLED_ZERO_SHOT), device="cpu")
    assert again(image, text=EXAMPLES[0].expressions[0])["box"] == answers[0]["box"]
