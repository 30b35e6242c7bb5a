"""Models that transformers has itself answer by their ids and folders, as transformers' own calls do, and several expressions an image."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_parts import TEXT, VISION, letters, loud, special_ids
from transformers import (
    AutoModel,
    AutoProcessor,
    CLIPSegConfig,
    CLIPSegForImageSegmentation,
    CLIPSegModel,
    CLIPSegProcessor,
    ViTImageProcessorPil,
    pipeline,
)
from typer.testing import CliRunner

import hf_ris
from hf_ris.cli import app
from hf_ris.modeling.masks import rle_to_mask


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


SAVERS = {"clipseg": save_clipseg}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """A folder of each model, as transformers writes it."""
    return {name: save(tmp_path_factory.mktemp(name)) for name, save in SAVERS.items()}


@pytest.fixture(params=list(SAVERS))
def name(request) -> str:
    return request.param


@pytest.fixture
def ask(folders, name) -> Any:
    return pipeline("referring-segmentation", model=str(folders[name]), device="cpu")


def assert_same(one: dict[str, Any], other: dict[str, Any], tolerance: float = 1e-5) -> None:
    assert one["label"] == other["label"] and one["box"] == other["box"]
    assert np.array_equal(np.asarray(one["mask"]), np.asarray(other["mask"]))
    assert one["score"] == pytest.approx(other["score"], abs=tolerance)


# All models


def test_a_folder_answers_by_its_path(ask, images):
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
    encoders = {"clipseg": lambda model: model.clip.vision_model}
    encoder = encoders[ask.model.config.model_type](ask.model)
    encoder.register_forward_hook(
        lambda module, args, options, output: rows.append(len(options.get("pixel_values", args[0] if args else None))),
        with_kwargs=True,
    )
    ask(images[0], text=TEXTS)
    assert rows == [1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("output_format", ["pil", "array", "rle"])
def test_any_precision_in_any_format(folders, name, images, dtype, output_format):
    half = pipeline("referring-segmentation", model=str(folders[name]), dtype=dtype, device="cpu")
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
    saved, original = (json.loads((each / "config.json").read_text()) for each in (tmp_path, folders[name]))
    assert saved["architectures"] == original["architectures"] and saved["model_type"] == original["model_type"]
    again = pipeline("referring-segmentation", model=str(tmp_path), device="cpu")
    assert_same(again(images[0], text="a tree"), ask(images[0], text="a tree"), 0)
    network = ask.model.saved_class.from_pretrained(tmp_path)
    assert type(network) is ask.model.saved_class
    for key, value in network.state_dict().items():
        assert torch.equal(value, ask.model.state_dict()[key]), key


def test_a_model_and_a_processor_as_objects(ask, folders, name, images):
    expected = ask(images[0], text=TEXTS)
    transformers_own = ask.processor.unwrap()
    for processor in (ask.processor, transformers_own):
        other = pipeline("referring-segmentation", model=ask.model, processor=processor, device="cpu")
        for one, two in zip(expected, other(images[0], text=TEXTS), strict=True):
            assert_same(one, two, 0)
    with pytest.raises(ValueError, match=r"`processor` must be a .*Processor.*got BertTokenizer"):
        pipeline("referring-segmentation", model=ask.model, processor=letters_of_bert(), device="cpu")


def letters_of_bert() -> Any:
    from transformers import BertTokenizer

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


def test_the_command_line_asks_it(ask, folders, name, images, tmp_path):
    image = tmp_path / "photo.png"
    images[0].save(image)
    arguments = ["segment", str(image), "a tree", "--model", str(folders[name]), "--device", "cpu", "--json"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    (answer,) = json.loads(done.stdout)
    assert np.array_equal(rle_to_mask(answer["mask"]), ask(images[0], text="a tree", output_format="array")["mask"])


def test_other_users_keep_their_classes(folders, name):
    folder = folders[name]
    pipeline("referring-segmentation", model=str(folder), device="cpu")
    expected = {"clipseg": (CLIPSegModel, CLIPSegProcessor)}[name]
    assert type(AutoModel.from_pretrained(folder)) is expected[0]
    assert type(AutoProcessor.from_pretrained(folder)) is expected[1]


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
