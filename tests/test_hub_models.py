"""Models that transformers has itself answer by their ids and folders, as transformers' own calls do, and several expressions an image."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from local_hub import TOKEN, endpoint, local_hub
from PIL import Image, ImageDraw
from safetensors.torch import save_file
from tiny_parts import FLORENCE2_CELLS, TEXT, VISION, florence2_config, letters, loud, special_ids
from transformers import (
    AutoModel,
    AutoProcessor,
    BertTokenizer,
    CLIPImageProcessorPil,
    CLIPSegConfig,
    CLIPSegForImageSegmentation,
    CLIPSegModel,
    CLIPSegProcessor,
    Florence2ForConditionalGeneration,
    Florence2Model,
    Florence2Processor,
    Sam3Config,
    Sam3LiteTextConfig,
    Sam3LiteTextModel,
    Sam3Model,
    Sam3VideoConfig,
    ViTImageProcessorPil,
    pipeline,
)
from typer.testing import CliRunner

import hf_ris
from hf_ris.cli import app
from hf_ris.modeling.hub_florence2 import PolygonSegmentationOutput
from hf_ris.modeling.without_torch import rle_to_mask


TEXTS = ["the red mug", "a tree", "the second cup from the left"]


def save_clipseg(folder: Path) -> Path:
    tokenizer = letters()
    config = CLIPSegConfig(
        text_config={**TEXT, "vocab_size": len(tokenizer), **special_ids(tokenizer)},
        vision_config=VISION,
        projection_dim=8,
        reduce_dim=8,
        extract_layers=[0, 1, 2],
        decoder_num_attention_heads=2,
        decoder_intermediate_size=16,
        use_complex_transposed_convolution=True,
    )
    loud(CLIPSegForImageSegmentation(config)).save_pretrained(folder)
    size = {"height": 32, "width": 32}
    CLIPSegProcessor(ViTImageProcessorPil(size=size), tokenizer).save_pretrained(folder)
    return folder


def sam3_config(tokenizer: Any, **text: Any) -> dict[str, Any]:
    small = {"hidden_size": 32, "num_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "dropout": 0.0}
    backbone = {
        "model_type": "sam3_vit_model",
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 112,
        "window_size": 4,
        "global_attn_indexes": [1],
        "pretrain_image_size": 56,
    }
    return {
        "vision_config": {"backbone_config": backbone, "fpn_hidden_size": 32},
        "text_config": {**TEXT, "vocab_size": len(tokenizer), **text},
        "geometry_encoder_config": small,
        "detr_encoder_config": small,
        "detr_decoder_config": {**small, "num_queries": 6},
        "mask_decoder_config": {"hidden_size": 32, "num_attention_heads": 2},
    }


SAM3_IMAGES = {
    "image_processor_type": "Sam3ImageProcessorFast",
    **dict.fromkeys(("crop_size", "device", "disable_grouping", "do_center_crop", "pad_size", "return_tensors")),
    "data_format": "channels_first",
    "do_rescale": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "mask_size": {"height": 32, "width": 32},
    "resample": 2,
    "size": {"height": 112, "width": 112},
}


def save_sam3(folder: Path) -> Path:
    tokenizer = letters()
    config = Sam3Config(**sam3_config(tokenizer, max_position_embeddings=32, **special_ids(tokenizer)))
    loud(Sam3Model(config)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"processor_class": "Sam3Processor", **SAM3_IMAGES}))
    return folder


def save_sam3_lite_text(folder: Path) -> Path:
    tokenizer = letters()
    loud(Sam3LiteTextModel(Sam3LiteTextConfig(**sam3_config(tokenizer)))).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"processor_class": "Sam3Processor", **SAM3_IMAGES}))
    return folder


def save_sam3_video(folder: Path) -> Path:
    """A folder laid out as `facebook/sam3` is: the weights of a detector and a tracker, and a video processor's files."""
    tokenizer = letters()
    detector = sam3_config(tokenizer, max_position_embeddings=32, **special_ids(tokenizer))
    config = Sam3VideoConfig(detector_config={"model_type": "sam3", **detector}, architectures=["Sam3VideoModel"])
    config.save_pretrained(folder)
    weights = loud(Sam3Model(Sam3Config(**detector))).state_dict()
    weights = {f"detector_model.{key}": value.contiguous() for key, value in weights.items()}
    save_file(
        {**weights, "tracker_model.mask_downsample.bias": torch.zeros(1)},
        folder / "model.safetensors",
        {"format": "pt"},
    )
    tokenizer.save_pretrained(folder)
    parts = {"image_processor": SAM3_IMAGES, "video_processor": {"video_processor_type": "Sam3VideoVideoProcessor"}}
    (folder / "processor_config.json").write_text(
        json.dumps({"processor_class": "Sam3VideoProcessor", "target_size": 112, **parts})
    )
    return folder


def save_florence2(folder: Path) -> Path:
    tokenizer = letters(image_token="<image>")
    tokenizer.add_tokens([f"<loc_{number}>" for number in range(1000)] + ["<poly>", "</poly>", "<sep>"])
    config = florence2_config(tokenizer, max_position_embeddings=96)
    model = loud(Florence2ForConditionalGeneration(config))
    model.generation_config.num_beams = 3
    model.generation_config.no_repeat_ngram_size = 3
    model.save_pretrained(folder)
    images = CLIPImageProcessorPil(size={"height": 64, "width": 64}, do_center_crop=False)
    images.image_seq_length = FLORENCE2_CELLS
    Florence2Processor(images, tokenizer, post_processor_config={"polygons": {}}).save_pretrained(folder)
    return folder


SAVERS = {
    "clipseg": save_clipseg,
    "florence2": save_florence2,
    "sam3": save_sam3,
    "sam3_lite_text": save_sam3_lite_text,
    "sam3_video": save_sam3_video,
}
SAM3 = ("sam3", "sam3_lite_text", "sam3_video")


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """A folder of each model, as transformers writes it."""
    return {name: save(tmp_path_factory.mktemp(name)) for name, save in SAVERS.items()}


@pytest.fixture(params=list(SAVERS))
def name(request) -> str:
    return request.param


@pytest.fixture
def ask(folders, name) -> Any:
    return make(folders, name)


def make(folders: dict[str, Path], name: str, **options: Any) -> Any:
    """A pipeline whose masks are neither empty nor full."""
    if name in SAM3:
        options = {"instance_threshold": 0.1, **options}
    return pipeline("referring-segmentation", model=str(folders[name]), device="cpu", **options)


def assert_same(one: dict[str, Any], other: dict[str, Any], tolerance: float = 1e-4) -> None:
    """The same answer; with a tolerance, up to rounding: a pixel on the threshold may fall either way."""
    assert one["label"] == other["label"]
    assert (np.asarray(one["mask"]) != np.asarray(other["mask"])).mean() <= (0.002 if tolerance else 0)
    assert one["score"] == pytest.approx(other["score"], abs=tolerance)


# All models


def test_a_folder_answers_by_its_path(ask, folders, name, images):
    assert ask.model.name_or_path == str(folders[name])
    answer = ask(images[0], text=TEXTS[0])
    assert set(answer) == {"label", "score", "mask", "box"} and 0 <= answer["score"] <= 1
    assert answer["mask"].size == images[0].size and answer["mask"].mode == "L"
    many = ask([{"image": image, "text": TEXTS} for image in images], batch_size=3)
    assert [[each["label"] for each in answers] for answers in many] == [TEXTS] * 3
    assert len({np.asarray(each["mask"]).tobytes() for each in many[0]}) > 1, "expressions matter"


def test_expressions_together_answer_as_each_alone(ask, images):
    together = ask([{"image": image, "text": TEXTS} for image in images], batch_size=3)
    for image, answers in zip(images, together, strict=True):
        for text, answer in zip(TEXTS, answers, strict=True):
            assert_same(answer, ask(image, text=text))


def test_an_image_is_encoded_once(ask, images):
    rows = []
    encoders = {
        "clipseg": "clip.vision_model",
        "florence2": "model.vision_tower",
        "sam3": "vision_encoder",
        "sam3_lite_text": "vision_encoder",
    }
    encoder = ask.model.get_submodule(encoders[ask.model.config.model_type])
    encoder.register_forward_hook(
        lambda module, args, options, output: rows.append(len(options.get("pixel_values", args[0] if args else None))),
        with_kwargs=True,
    )
    ask(images[0], text=TEXTS)
    assert rows == [1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("output_format", ["pil", "array", "rle"])
def test_any_precision_in_any_format(folders, name, images, dtype, output_format):
    half = make(folders, name, dtype=dtype)
    assert half.model.dtype == dtype
    for answer in half(images[0], text=TEXTS, output_format=output_format):
        mask = {"pil": np.asarray, "array": np.asarray, "rle": rle_to_mask}[output_format](answer["mask"])
        assert mask.shape == (60, 80)


def test_labels_are_refused(ask, images):
    features = ask.processor(images[0], TEXTS[0])
    with pytest.raises(ValueError, match=r"`labels` must be left out: .*ForReferringSegmentation does not train"):
        ask.model(**features, labels=torch.zeros(1, 8, 8))
    with pytest.raises(ValueError, match="`segmentation_maps` must be left out"):
        ask.processor(images[0], TEXTS[0], segmentation_maps=np.zeros((60, 80)))


def test_long_expressions_are_cut_with_a_warning(ask, images, caplog):
    long = " ".join(["mug"] * 90)
    answer = ask(images[0], text=[long, "a mug"])[0]
    assert answer["label"] == long
    assert f"tokens; only {ask.processor.text_length} are read" in caplog.text


def test_a_saved_pipeline_loads_here_and_in_transformers(ask, folders, name, images, tmp_path):
    ask.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*.py"))
    saved = json.loads((tmp_path / "config.json").read_text())
    network_class = ask.model.saved_class
    assert saved["architectures"] == [network_class.__name__]
    assert saved["model_type"] == network_class.config_class.model_type
    if name in SAM3:
        images_settings = json.loads((tmp_path / "processor_config.json").read_text())["image_processor"]
        assert images_settings["image_processor_type"] == "Sam3ImageProcessor"
        assert images_settings["mask_size"] == {"height": 32, "width": 32}
    again = make({name: tmp_path}, name)
    assert_same(again(images[0], text="a tree"), ask(images[0], text="a tree"), 1e-6)
    network = network_class.from_pretrained(tmp_path)
    assert type(network) is network_class
    for key, value in network.state_dict().items():
        assert torch.equal(value, ask.model.state_dict()[key]), key


def test_a_model_and_a_processor_as_objects(ask, folders, name, images):
    expected = ask(images[0], text=TEXTS)
    transformers_own = ask.processor.unwrap()
    for processor in (ask.processor, transformers_own):
        options = ask._postprocess_params
        other = pipeline("referring-segmentation", model=ask.model, processor=processor, device="cpu", **options)
        for one, two in zip(expected, other(images[0], text=TEXTS), strict=True):
            assert_same(one, two, 0)
    with pytest.raises(ValueError, match=r"`processor` must be a .*Processor.*got BertTokenizer"):
        pipeline("referring-segmentation", model=ask.model, processor=bert_tokenizer(), device="cpu")


def bert_tokenizer() -> Any:
    return BertTokenizer(vocab={"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4})


def test_cards_settings_and_evaluation(ask, tmp_path):
    card = ask.model.card()
    assert (
        ask.model.licence in card and 'pipeline("referring-segmentation"' in card and "trust_remote_code" not in card
    )
    rows = hf_ris.data.load_refshapes(split="val", num_rows=6)
    figures = hf_ris.evaluation.evaluate(ask, rows, output=tmp_path, batch_size=4)
    assert figures["errors"] == 0 and 0 <= figures["mIoU"] <= 1
    assert hf_ris.evaluation.evaluate(ask, rows, output=tmp_path, batch_size=4) == figures
    square = hf_ris.evaluation.evaluate(ask, rows.select(range(1)), protocol="lavt")
    size = ask.processor.image_processor.size
    assert square["mask_size"] == [size["height"], size["width"]]


def test_the_command_line_asks_it(ask, folders, name, images, tmp_path):
    image = tmp_path / "photo.png"
    images[0].save(image)
    ask._postprocess_params = {}  # the command has no option for them
    arguments = ["segment", str(image), "a tree", "--model", str(folders[name]), "--device", "cpu", "--json"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    (answer,) = json.loads(done.stdout)
    assert np.array_equal(rle_to_mask(answer["mask"]), ask(images[0], text="a tree", output_format="array")["mask"])


def test_other_users_keep_their_classes(folders, name):
    folder = folders[name]
    make(folders, name)
    classes = {
        "clipseg": CLIPSegModel,
        "florence2": Florence2Model,
        "sam3": Sam3Model,
        "sam3_lite_text": Sam3LiteTextModel,
    }
    if name in classes:  # a video model has no whole network here
        assert type(AutoModel.from_pretrained(folder)) is classes[name]
    processors = {"clipseg": CLIPSegProcessor, "florence2": Florence2Processor}
    if name in processors:
        assert type(AutoProcessor.from_pretrained(folder)) is processors[name]
    else:  # transformers' own needs torchvision, with this library as without it
        with pytest.raises((ImportError, ValueError), match="orchvision"):
            AutoProcessor.from_pretrained(folder)


# CLIPSeg


def test_clipseg_equals_transformers(folders, images):
    ris = pipeline("referring-segmentation", model=str(folders["clipseg"]), device="cpu")
    model = CLIPSegForImageSegmentation.from_pretrained(folders["clipseg"]).eval()
    processor = CLIPSegProcessor.from_pretrained(folders["clipseg"])
    for image in images:
        inputs = processor(text=[TEXTS[0]], images=[image], padding="max_length", return_tensors="pt")
        ours = ris.processor(image, TEXTS[0])
        for key, value in inputs.items():
            assert torch.equal(value, ours[key]), key
        with torch.no_grad():
            logits = model(**inputs).logits
        assert torch.equal(ris.model(**ours).logits, logits)
        size = image.size[::-1]
        enlarged = torch.nn.functional.interpolate(logits.sigmoid()[:, None], size, mode="bilinear")[0, 0]
        answer = ris(image, text=TEXTS[0], output_format="array")
        assert np.array_equal(answer["mask"], (enlarged > 0.5).numpy())
        assert answer["score"] == pytest.approx(float(enlarged[enlarged > 0.5].mean()), abs=1e-6)


# SAM 3


def sam3_segments(outputs: Any, size: tuple[int, int], threshold: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The masks and scores of all instances, by the formulas of transformers' `post_process_instance_segmentation`."""
    scores = outputs.pred_logits.sigmoid() * outputs.presence_logits.sigmoid()
    kept = scores[0] > threshold
    masks = torch.nn.functional.interpolate(outputs.pred_masks.sigmoid()[0][kept][None], size, mode="bilinear")[0]
    return masks > 0.5, scores[0][kept]


@pytest.mark.parametrize("sam3", SAM3)
def test_sam3_equals_transformers(folders, images, sam3):
    ris = make(folders, sam3)
    network_class = Sam3LiteTextModel if sam3 == "sam3_lite_text" else Sam3Model
    model = network_class.from_pretrained(folders[sam3]).eval()
    for image in images:
        features = ris.processor(image, TEXTS[0])
        words = letters()(TEXTS[0], padding="max_length", max_length=32, return_tensors="pt")
        assert torch.equal(features["input_ids"], words["input_ids"])
        assert torch.equal(features["attention_mask"], words["attention_mask"])
        pixels = np.asarray(image.resize((112, 112), Image.Resampling.BILINEAR)).transpose(2, 0, 1) / 127.5 - 1
        np.testing.assert_allclose(features["pixel_values"][0], pixels, atol=1e-6)
        with torch.no_grad():
            masks, scores = sam3_segments(model(**features), image.size[::-1], 0.1)
        answer = ris(image, text=TEXTS[0], output_format="array")
        assert np.array_equal(answer["mask"], masks[scores.argmax()].numpy())
        assert answer["score"] == float(scores.max())
        everything = ris(image, text=TEXTS[0], output_format="array", select="all")
        assert np.array_equal(everything["mask"], masks.any(0).numpy()) and everything["score"] == answer["score"]


def test_sam3_that_finds_nothing_says_so(folders, images):
    ris = make(folders, "sam3", instance_threshold=0.99)
    for options in ({}, {"select": "all"}, {"output_format": "rle"}):
        answer = ris(images[0], text="a unicorn", **options)
        assert answer["score"] == 0 and answer["box"] is None
    assert not np.asarray(ris(images[0], text="a unicorn")["mask"]).any()
    outputs = hf_ris.modeling.instances.InstanceSegmentationOutput(
        instance_masks=(torch.zeros(0, 8, 8),), instance_scores=(torch.zeros(0),)
    )
    (segment,) = ris.processor.post_process_referring_segmentation(outputs, [(4, 6)])
    assert segment["score"] == 0 and segment["mask"].shape == (4, 6)


def test_sam3_options_are_checked_and_its_alone(folders, images):
    ris = make(folders, "sam3")
    with pytest.raises(ValueError, match=r"`select` must be one of \['best', 'all', 'place'\], got 'first'"):
        ris(images[0], text="a tree", select="first")
    with pytest.raises(ValueError, match=r"`instance_threshold` must be between 0.01 and 1, got 0"):
        ris(images[0], text="a tree", instance_threshold=0)
    with pytest.raises(TypeError, match="'select' is no option of this pipeline"):
        make(folders, "clipseg")(images[0], text="a tree", select="all")
    assert "instance_threshold" in hf_ris.evaluation.describe_model(ris)


# Florence-2

TASK = "<REFERRING_EXPRESSION_SEGMENTATION>"


def test_florence2_equals_transformers(folders, images):
    ris = make(folders, "florence2")
    model = Florence2ForConditionalGeneration.from_pretrained(folders["florence2"]).eval()
    processor = Florence2Processor.from_pretrained(folders["florence2"])
    areas = []
    for image, text in zip(images, TEXTS, strict=True):
        inputs = processor(text=f"{TASK}{text}", images=image, return_tensors="pt")
        ours = ris.processor(image, text)
        for key, value in inputs.items():
            assert torch.equal(value, ours[key]), key
        written = model.generate(**inputs, max_new_tokens=95, do_sample=False)
        assert torch.equal(ris.model(**ours).sequences[0], written[0, 1:])
        sentence = processor.batch_decode(written, skip_special_tokens=False)[0]
        parsed = processor.post_process_generation(sentence, task=TASK, image_size=image.size)[TASK]
        reference = Image.new("L", image.size)
        for polygon in (polygon for each in parsed["polygons"] for polygon in each):
            if len(polygon) > 4:
                ImageDraw.Draw(reference).polygon(polygon, fill=255)
        with torch.no_grad():
            chances = model(**inputs, decoder_input_ids=written[:, :-1]).logits.softmax(-1)
        answer = ris(image, text=text)
        assert np.array_equal(np.asarray(answer["mask"]), np.asarray(reference))
        areas.append(np.asarray(reference).sum())
        mean = float(chances[0].gather(1, written[0, 1:, None]).mean()) if areas[-1] else 0
        assert answer["score"] == pytest.approx(mean, abs=1e-6)
    assert any(areas)


@pytest.mark.parametrize(
    "text",
    [
        "<OD>",
        f"{TASK} a mug",
        "the mug <loc_5></s> on <image> left",
        "a St. Bernard. The left one.",
        "50% {input} & \\n",
    ],
)
def test_florence2_takes_any_expression_for_words(folders, images, text):
    ris = make(folders, "florence2")
    answers = ris(images[0], text=[text, "a tree"])
    assert answers[0]["label"] == text
    assert_same(answers[1], ris(images[0], text="a tree"))
    (ids, _) = ris.processor(images[0], [text, "a tree"])["input_ids"].tolist()
    assert ids.count(ris.processor.tokenizer.image_token_id) == 5


def written(ris: Any, text: str) -> Any:
    tokens = torch.tensor(ris.processor.tokenizer(text, add_special_tokens=False)["input_ids"])
    return PolygonSegmentationOutput(sequences=(tokens,), probabilities=(torch.full((len(tokens),), 0.5),))


@pytest.mark.parametrize(
    ("text", "pixels"),
    [
        ("", 0),
        ("a mug", 0),
        ("<loc_100><loc_100><loc_900><loc_900>", 0),  # two points
        ("<loc_100><loc_100><loc_900><loc_100><loc_900>", 0),  # cut in the third
        ("<loc_0><loc_0><loc_999><loc_0><loc_999><loc_999><loc_0>", 55),  # cut in the fourth: a triangle of 10 x 10
        ("<loc_0><loc_0><loc_499><loc_0><loc_499><loc_499><loc_0><loc_499><sep><loc_999><loc_999>", 25),
        ("<poly><loc_0><loc_0><loc_499><loc_0><loc_499><loc_499><loc_0><loc_499></poly></s>", 25),
    ],
)
def test_florence2_draws_whole_polygons_alone(folders, text, pixels):
    ris = make(folders, "florence2")
    (segment,) = ris.processor.post_process_referring_segmentation(written(ris, text), [(10, 10)])
    assert int(segment["mask"].sum()) == pixels
    assert segment["score"] == (0.5 if pixels else 0)
    everything = ris.processor.post_process_referring_segmentation(written(ris, text), [(10, 10)], threshold=0)
    assert everything[0]["mask"].all()


def test_microsofts_own_florence2_names_the_native_one(folders, tmp_path):
    folder = shutil.copytree(folders["florence2"], tmp_path / "florence")
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "modeling_florence2.Florence2ForConditionalGeneration"}
    (folder / "config.json").write_text(json.dumps(config))
    save_file({"vision_tower.convs.0.proj.bias": torch.zeros(8)}, folder / "model.safetensors", {"format": "pt"})
    for load in (
        lambda: pipeline("referring-segmentation", model=str(folder), device="cpu"),
        lambda: hf_ris.AutoModelForReferringSegmentation.from_pretrained(folder),
    ):
        with pytest.raises(ValueError, match=r"lacks weights of Florence2.*florence-community/Florence-2-base-ft"):
            load()


# Models that cannot be asked


ASK = """
import sys
import hf_ris
from transformers import pipeline

for repository, token in (("nobody/nothing", None), ("facebook/sam3", None), ("facebook/sam3", sys.argv[1]), ("CIDAS/clipseg", None)):
    try:
        ris = pipeline("referring-segmentation", model=repository, device="cpu", token=token)
        print(ris.model.name_or_path, sys.argv[1] in repr(vars(ris.model)))
    except Exception as error:
        print(type(error).__name__, str(error).splitlines()[0])
ris.push_to_hub("me/mine", token=sys.argv[1])
print(type(pipeline("referring-segmentation", model="me/mine", device="cpu", token=sys.argv[1]).model).__name__)
"""


def test_ids_on_the_hub(folders, tmp_path):
    """A gated repository is loaded with a token, which is then forgotten, and named without, as one that is missing is."""
    for source, repository in (("clipseg", "CIDAS/clipseg"), ("sam3_video", "facebook/sam3")):
        shutil.copytree(folders[source], tmp_path / "hub" / repository)
    with local_hub(tmp_path / "hub") as hub:
        hub.gated.add("facebook/sam3")
        environment = {**os.environ, **endpoint(hub, tmp_path / "home", token="")}
        command = [sys.executable, "-c", ASK, TOKEN]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        card = (hub.folder("me/mine", "main") / "README.md").read_text()
    assert "base_model:\n- CIDAS/clipseg" in card and "# CLIPSeg" in card
    missing, gated, *loaded = done.stdout.splitlines()
    assert missing.startswith("OSError nobody/nothing is not")
    assert gated.startswith("OSError You are trying to access a gated repo")
    assert loaded == ["facebook/sam3 False", "CIDAS/clipseg False", "CLIPSegForReferringSegmentation"]


def test_commands_for_this_librarys_models_say_so(folders, name):
    with pytest.raises(ValueError, match="`source` must be a model whose code is this library's"):
        hf_ris.hub.push_model(folders[name], "me/mine", licence="mit", dry_run=True)
    with pytest.raises(ValueError, match="`model` must be a system that is trained"):
        hf_ris.training.building.load_checkpoint(0, {}, str(folders[name]))


def test_a_folder_without_a_processor_is_named(folders, name, tmp_path):
    for file in folders[name].iterdir():
        if file.suffix == ".safetensors" or file.name in ("config.json", "generation_config.json"):
            shutil.copy(file, tmp_path)
    with pytest.raises(OSError, match=rf"`model` .*{re.escape(str(tmp_path))}.* has no whole processor beside it"):
        pipeline("referring-segmentation", model=str(tmp_path), device="cpu")
