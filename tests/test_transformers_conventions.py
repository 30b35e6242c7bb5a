"""What people expect of any model of transformers, asked of all four systems: precision, offloading, threads, copies, compilers."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_parts
import torch
from accelerate import cpu_offload
from PIL import Image, ImageDraw
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map_only
from transformers import pipeline

import hf_ris


SYSTEMS = ("magnet", "cris", "global-local", "tas")
TRAINED = ("magnet", "cris")
TEXTS = ["the red mug", "a tree on the left"]
AUXILIARY = {"mask_grounding_loss_weight": 1.0, "mask_grounding_layers": 1, "alignment_loss_weight": 0.5}
SAM_OPTIONS = {"points_per_side": 2, "min_iou": -99.0, "min_stability": 0.0, "max_box_iou": 1.0, "min_region_area": 0}


@dataclass
class Case:
    """
    A system, saved as a user saves it.

    Attributes:
        folder (`Path`): The saved pipeline.
        task (`str`): What it is loaded for.
        ris (`Pipeline`): As it was saved.
    """

    folder: Path
    task: str
    ris: Any = field(repr=False)

    def load(self, folder: Path | None = None, **options: Any) -> Any:
        """The saved model, or one of another folder."""
        return type(self.ris.model).from_pretrained(folder or self.folder, **options)

    def pipeline(self, model: Any) -> Any:
        """The pipeline of such a model."""
        return pipeline(self.task, model=model, processor=self.ris.processor)

    def inputs(self, image: Any) -> dict[str, Any]:
        """What the model takes for both expressions."""
        return dict(self.ris.processor(images=[image], text=TEXTS, return_tensors="pt"))


@pytest.fixture(scope="module")
def build(tiny_config, tokenizer):
    """Makes a random model of a trained system, with changes to its configuration."""
    magnet = copy.deepcopy(tiny_config)
    magnet.backbone_config.use_absolute_embeddings = True
    systems = {
        "magnet": (hf_ris.MagNetForReferringSegmentation, magnet),
        "cris": (hf_ris.CRISForReferringSegmentation, tiny_parts.tiny_cris_config(tokenizer)),
    }

    def make(name: str, **changes: Any) -> nn.Module:
        model_class, config = systems[name]
        return tiny_parts.loud(model_class(type(config).from_dict({**config.to_dict(), **changes})))

    return make


@pytest.fixture(scope="module")
def cases(processor, tokenizer, build, tmp_path_factory):
    """Each system, made when it is first asked for."""
    made: dict[str, Case] = {}
    folder = tmp_path_factory.mktemp("systems")

    def make(name: str) -> Any:
        if name in TRAINED:
            images = hf_ris.CRISImageProcessor(size={"height": 64, "width": 64})
            chosen = processor if name == "magnet" else hf_ris.CRISProcessor(images, tokenizer)
            return pipeline("referring-segmentation", model=build(name), processor=chosen, device="cpu")
        if name == "global-local":
            clip, sam = tiny_parts.save_clip(folder / "clip"), tiny_parts.save_sam(folder / "sam")
            return hf_ris.zero_shot(name, image_text=clip, proposer=sam, proposer_options=SAM_OPTIONS, device="cpu")
        clip, blip = tiny_parts.save_clip_resnet(folder / "resnet"), tiny_parts.save_blip(folder / "blip", tokenizer)
        return hf_ris.zero_shot(name, image_text=clip, proposer="felzenszwalb", captioner=blip, device="cpu")

    def find(name: str) -> Case:
        if name not in made:
            ris = make(name)
            ris.save_pretrained(folder / name)
            task = "referring-segmentation" if name in TRAINED else "zero-shot-referring-segmentation"
            made[name] = Case(folder / name, task, ris)
        return made[name]

    return find


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    """Three images of different sizes, with three objects on each for proposers to find."""
    drawn = []
    for width, height in ((80, 60), (50, 70), (96, 64)):
        image = Image.new("RGB", (width, height), (120, 120, 120))
        pen = ImageDraw.Draw(image)
        pen.rectangle((5, 6, width // 3, height // 2), (220, 30, 30))
        pen.ellipse((width // 2, height // 3, width - 6, height - 5), (30, 60, 220))
        pen.rectangle((5, height * 2 // 3, width // 3, height - 4), (20, 180, 40))
        drawn.append(image)
    return drawn


@pytest.fixture(params=SYSTEMS)
def case(request, cases) -> Case:
    return cases(request.param)


def ask(ris: Any, image: Any, **options: Any) -> list[dict[str, Any]]:
    return ris(image, text=TEXTS, output_format="array", **options)


def assert_same(found: list[dict[str, Any]], expected: list[dict[str, Any]], exactly: bool = False) -> None:
    """The same scores, and the same masks but for a pixel on the threshold."""
    for one, other in zip(found, expected, strict=True):
        assert one["score"] == pytest.approx(other["score"], abs=1e-6 if exactly else 1e-4)
        assert (one["mask"] != other["mask"]).mean() <= (0 if exactly else 0.002)


@torch.no_grad()
def scores(model: nn.Module, inputs: dict[str, Any]) -> torch.Tensor:
    """What a model's masks follow from: log-odds, or the shares of regions."""
    outputs = model(**inputs)
    shares = outputs.get("region_scores")
    return torch.cat(shares) if shares is not None else outputs.logits


def test_the_systems_tell_expressions_apart(case, images):
    """Otherwise what follows would compare nothing."""
    first, second = scores(case.ris.model, case.inputs(images[0])).float().chunk(2)
    assert first.std() > 1e-3
    assert (first - second).abs().max() > 1e-3


def test_saved_and_loaded_it_is_the_same(case, images):
    loaded = pipeline(case.task, model=str(case.folder), device="cpu")
    assert_same(ask(loaded, images[0]), ask(case.ris, images[0]), exactly=True)


PRECISIONS = (torch.float32, torch.bfloat16, torch.float16)


@pytest.mark.parametrize("saved", PRECISIONS, ids=str)
def test_any_precision_can_be_saved_and_asked_for(case, images, tmp_path, saved):
    case.load(dtype=saved).save_pretrained(tmp_path)
    for asked in PRECISIONS:
        model = case.load(tmp_path, dtype=asked)
        others = {name: each.dtype for name, each in model.named_parameters() if each.dtype != asked}
        assert not others, f"asked for {asked}"
        results = ask(case.pipeline(model), images[0])
        assert all(np.isfinite(result["score"]) for result in results)
        if saved == asked == torch.float32:
            assert_same(results, ask(case.ris, images[0]))


@pytest.mark.parametrize("way", ["cpu", "disk", "0.3 in memory", "0.6 in memory", "0.9 in memory"])
def test_weights_may_lie_elsewhere(case, images, tmp_path, way):
    """Where memory is too small for the model, weights come to the device for as long as they are needed."""
    expected = scores(case.ris.model, case.inputs(images[0]))
    if way == "cpu":
        model = cpu_offload(case.load(), execution_device="cpu")
    elif way == "disk":
        model = case.load(device_map={"": "disk"}, offload_folder=tmp_path)
    else:
        size = sum(each.nbytes for each in case.ris.model.parameters())
        memory = {"cpu": int(float(way.split()[0]) * size)}
        model = case.load(device_map="auto", max_memory=memory, offload_folder=tmp_path)
    assert any(each.is_meta for each in model.parameters()), "nothing was offloaded"
    torch.testing.assert_close(scores(model, case.inputs(images[0])), expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("name", TRAINED)
def test_what_only_training_needs_may_lie_elsewhere(build, lesson, name):
    model = build(name, **AUXILIARY)
    given = [lesson[key] for key in ("pixel_values", "masked_input_ids", "attention_mask", "labels")]
    expected = model.name_words(*given)
    cpu_offload(model, execution_device="cpu")
    torch.testing.assert_close(model.name_words(*given), expected, atol=1e-4, rtol=1e-4)


def test_the_pipeline_takes_a_device_map(case, images, tmp_path):
    expected = ask(case.ris, images[0])
    size = sum(each.nbytes for each in case.ris.model.parameters())
    memory = {"max_memory": {"cpu": int(0.8 * size)}, "offload_folder": tmp_path}
    loaded = pipeline(case.task, model=str(case.folder), device_map="auto", model_kwargs=memory)
    assert "disk" in loaded.model.hf_device_map.values()
    assert_same(ask(loaded, images[0]), expected)


def parts_of(module: nn.Module, no_split: set[str], name: str = "") -> list[str]:
    """The smallest parts that accelerate would put onto a device, in its order."""
    children = dict(module.named_children())
    if not children or type(module).__name__ in no_split:
        return [name]
    own = [f"{name}.{key}" for key, _ in module.named_parameters(recurse=False)]
    names = {key: f"{name}.{key}".lstrip(".") for key in children}
    return own + [part for key, child in children.items() for part in parts_of(child, no_split, names[key])]


def place(tensor: torch.Tensor, device: str) -> torch.Tensor:
    """A tensor on the other device; between the CPU and "meta" no numbers can be brought over."""
    return tensor if tensor.device.type == device else torch.ones_like(tensor, device=device)


def spread(model: nn.Module, device_map: dict[str, str]) -> None:
    """Does what accelerate does for two GPUs: weights go where the map says, and inputs go there before each call."""

    def device_of(name: str) -> str | None:
        while name and name not in device_map:
            name = name.rpartition(".")[0]
        return device_map.get(name)

    def bring(device: str, values: Any) -> Any:
        return tree_map_only(torch.Tensor, lambda tensor: place(tensor, device), values)

    for name, module in model.named_modules():
        for tensors in (module._parameters, module._buffers):
            for key, tensor in tensors.items():
                if tensor is not None:
                    moved = place(tensor.data, device_of(f"{name}.{key}"))
                    is_weight = isinstance(tensor, nn.Parameter)
                    tensors[key] = nn.Parameter(moved, tensor.requires_grad) if is_weight else moved
        device = device_of(name)
        if device is not None:
            module.register_forward_pre_hook(
                lambda _, args, options, device=device: bring(device, (args, options)), with_kwargs=True
            )


@pytest.fixture
def two_devices(monkeypatch):
    """Lets the CPU and torch's "meta" device stand for two GPUs: they refuse to compute together just as those do."""
    move, is_true = torch.Tensor.to, torch.Tensor.__bool__

    def to(tensor, *args, **options):
        if args and isinstance(args[0], torch.device):
            return place(tensor, args[0].type)
        return move(tensor, *args, **options)

    monkeypatch.setattr(torch.Tensor, "to", to)
    # Masks are asked whether they hide anything.
    monkeypatch.setattr(torch.Tensor, "__bool__", lambda tensor: not tensor.is_meta and is_true(tensor))


@pytest.mark.parametrize("run", [1, 2, 3])
@pytest.mark.parametrize("name", TRAINED)
def test_two_devices_can_share_a_model(build, two_devices, name, run):
    """Here every `run` parts change the device, which is harder than what accelerate does."""
    model = build(name, **AUXILIARY)
    parts = parts_of(model, model._no_split_modules)
    spread(model, {part: ("cpu", "meta")[number // run % 2] for number, part in enumerate(parts)})
    assert {each.device.type for each in model.parameters()} == {"cpu", "meta"}

    ids = torch.full((4, 6), 5)
    is_word = (torch.arange(6) < 4).expand(4, 6).long()
    batch = {"pixel_values": torch.randn(2, 3, 32, 32), "input_ids": ids, "attention_mask": is_word}
    with torch.no_grad():
        assert model(**batch).logits.shape == (4, 8, 8)
    hidden = torch.where(is_word > 0, ids, -100)
    learned = model.train()(**batch, labels=torch.ones(4, 32, 32), masked_input_ids=ids, hidden_words=hidden)
    assert learned.loss_dict.keys() >= {"bce", "mask_grounding", "pixel_to_pixel", "pixel_to_text"}


def test_outputs_may_be_tuples(case, images):
    inputs = case.inputs(images[0])
    with torch.no_grad():
        output = case.ris.model(**inputs)
        by_argument = case.ris.model(**inputs, return_dict=False)
        model = case.load()
        model.config.return_dict = False
        by_configuration = model(**inputs)
        again = model(**inputs, return_dict=True)
    for found in (by_argument, by_configuration):
        assert isinstance(found, tuple)
        torch.testing.assert_close(tree_leaves(found), tree_leaves(output.to_tuple()), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(again.logits, output.logits, atol=1e-5, rtol=1e-5)


def test_threads_may_share_a_pipeline(case, images):
    """Each question is asked by every thread, while others ask other ones."""
    expected = [ask(case.ris, image) for image in images]
    asked = case.pipeline(case.load())
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda image: ask(asked, image), images * 4))
    for one, other in zip(found, expected * 4, strict=True):
        assert_same(one, other)


@pytest.mark.parametrize("name", ["magnet", "global-local"])
def test_processes_may_prepare_the_images(cases, images, name):
    case = cases(name)
    expected = [ask(case.ris, image) for image in images]
    inputs = [{"image": image, "text": TEXTS} for image in images]
    found = case.ris(inputs, output_format="array", num_workers=2, batch_size=2)
    for one, other in zip(found, expected, strict=True):
        assert_same(one, other)


def test_a_batch_is_its_images_one_by_one(case, images):
    inputs = [{"image": image, "text": TEXTS[:number] * 2} for image, number in zip(images, (1, 2, 1), strict=True)]
    expected = [case.ris(each, output_format="array") for each in inputs]
    for batch_size in (2, 3):
        for one, other in zip(case.ris(inputs, output_format="array", batch_size=batch_size), expected, strict=True):
            assert_same(one, other)


@torch.no_grad()
@pytest.mark.parametrize("name", [pytest.param("magnet", marks=pytest.mark.slow), "cris"])
def test_a_compiler_takes_the_whole_graph(cases, images, name):
    case = cases(name)
    torch._dynamo.reset()
    inputs = case.inputs(images[0])
    compiled = torch.compile(case.ris.model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(**inputs).logits, case.ris.model(**inputs).logits, atol=1e-4, rtol=1e-4)


def test_a_copy_is_a_model_of_its_own(case, images):
    expected = ask(case.ris, images[0])
    model = case.load()
    twin = copy.deepcopy(model)
    assert_same(ask(case.pipeline(twin), images[0]), expected, exactly=True)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert_same(ask(case.pipeline(twin), images[0]), expected, exactly=True)
    assert twin.config is not model.config


def test_processors_can_be_pickled(case, images):
    """As a `DataLoader` does whose processes are spawned."""
    twin = pickle.loads(pickle.dumps(case.ris.processor))
    found, expected = (
        dict(each(images=[images[0]], text=TEXTS, return_tensors="pt")) for each in (twin, case.ris.processor)
    )
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(found[name], value)
        else:
            assert np.array_equal(np.asarray(found[name]), np.asarray(value))


def test_eager_attention_is_the_same_and_reaches_all(case, images, monkeypatch):
    models = [case.load(attn_implementation="eager")]
    if case.task == "referring-segmentation":  # SAM's attention is chosen once, when it is made
        models.append(case.load())
        models[1].set_attn_implementation("eager")
    expected = scores(case.ris.model, case.inputs(images[0]))

    def refuse(*args, **options):
        raise AssertionError("eager attention was asked for")

    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", refuse)
    for each in models:
        torch.testing.assert_close(scores(each, case.inputs(images[0])), expected, atol=1e-4, rtol=1e-4)


@pytest.fixture
def lesson(tokenizer) -> dict[str, torch.Tensor]:
    """Two images with two expressions each, and what both auxiliary losses want of them."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, len(tokenizer), (4, 6), generator=generator)
    labels = torch.zeros(4, 64, 64)
    labels[:, 8:40, 16:60] = 1
    return {
        "pixel_values": torch.randn(2, 3, 64, 64, generator=generator),
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "labels": labels,
        "masked_input_ids": torch.full_like(ids, 4),
        "hidden_words": ids,
    }


@pytest.mark.parametrize("name", TRAINED)
def test_gradient_checkpointing_gives_the_same_gradients(build, lesson, name):
    model = build(name, **AUXILIARY).train()
    plain = copy.deepcopy(model)
    model.gradient_checkpointing_enable()
    assert any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
    for each in (model, plain):
        torch.manual_seed(1)
        each(**lesson).loss.backward()
    for (weight, one), other in zip(model.named_parameters(), plain.parameters(), strict=True):
        if one.requires_grad:
            torch.testing.assert_close(one.grad, other.grad, atol=1e-5, rtol=1e-3, msg=weight)


@pytest.mark.parametrize("change", [3, -2])
@pytest.mark.parametrize("name", TRAINED)
def test_the_vocabulary_may_grow_and_shrink(build, lesson, name, change):
    model = build(name, **AUXILIARY)
    bias = model.auxiliary_losses.mask_grounding.word_bias
    with torch.no_grad():
        bias.copy_(torch.arange(len(bias)))
    bias.requires_grad_(False)
    words = model.config.text_config.vocab_size
    inputs = {key: lesson[key] for key in ("pixel_values", "input_ids", "attention_mask")}
    inputs["input_ids"] = inputs["input_ids"].clamp(max=words - 3)
    expected = scores(model, inputs)

    model.resize_token_embeddings(words + change)
    assert model.config.text_config.vocab_size == model.get_input_embeddings().num_embeddings == words + change
    torch.testing.assert_close(scores(model, inputs), expected)
    resized = model.auxiliary_losses.mask_grounding.word_bias
    assert resized is bias, "an optimizer that knows it still does"
    assert not resized.requires_grad, "what was frozen stays so"
    assert resized.tolist() == [*range(min(words, words + change)), *[0.0] * max(0, change)]
    named = model.name_words(lesson["pixel_values"], inputs["input_ids"], inputs["attention_mask"], lesson["labels"])
    assert named.shape == (4, 6, words + change)
