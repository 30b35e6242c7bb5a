"""CRIS as users and Trainer see it: the same contract as MagNet's, Mask Grounding by configuration, its own recipes and files."""

import copy
import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from golden_states import cris_config, draw_state, read_tensors
from safetensors.torch import load_file, save_file
from tiny_parts import CRIS_SIZES, ious_by_hand, letters, save_clip_resnet, tiny_cris_config
from torch import nn
from transformers import AutoProcessor, pipeline

import hf_ris
from hf_ris.conversion import convert
from hf_ris.conversion.mapping_clip import convert_clip_state_dict, read_clip_config, rename_timm
from hf_ris.conversion.mapping_cris import read_cris_config
from hf_ris.data import ReferringSegmentationCollator, load_refshapes
from hf_ris.evaluation import evaluate
from hf_ris.hub import push_model
from hf_ris.modeling import modeling_trainable_segmentation, without_torch
from hf_ris.modeling.clip_resnet import CLIPResNetModel
from hf_ris.training import train
from hf_ris.training.building import build_cris, load_checkpoint
from hf_ris.training.optimizer import MuonWithAdamW, cris_schedule


BOTH = {"mask_grounding_loss_weight": 1.0, "mask_grounding_layers": 1, "alignment_loss_weight": 0.5}


@pytest.fixture(scope="module")
def config(tokenizer) -> hf_ris.CRISConfig:
    return tiny_cris_config(tokenizer)


def make(config: hf_ris.CRISConfig, **changes) -> hf_ris.CRISForReferringSegmentation:
    """A random model whose masks differ between expressions."""
    torch.manual_seed(1)
    model = hf_ris.CRISForReferringSegmentation(hf_ris.CRISConfig.from_dict({**config.to_dict(), **changes}))
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    return model.eval()


@pytest.fixture(scope="module")
def model(config) -> hf_ris.CRISForReferringSegmentation:
    return make(config)


@pytest.fixture(scope="module")
def processor(tokenizer) -> hf_ris.CRISProcessor:
    return hf_ris.CRISProcessor(hf_ris.CRISImageProcessor(size={"height": 64, "width": 64}), tokenizer)


@pytest.fixture(scope="module")
def ris(model, processor):
    return pipeline("referring-segmentation", model=model, processor=processor, device="cpu")


@pytest.fixture(scope="module")
def folder(ris, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cris")
    ris.save_pretrained(folder)
    return folder


@pytest.fixture
def inputs(tokenizer) -> dict[str, torch.Tensor]:
    """Two images with two expressions each, of different lengths."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor([[9], [4], [6], [3]])
    ids = torch.randint(5, len(tokenizer), (4, 9), generator=generator)
    ids[torch.arange(4), lengths[:, 0] - 1] = tokenizer.sep_token_id
    is_word = (torch.arange(9) < lengths).long()
    pixels = torch.randn(2, 3, 64, 96, generator=generator)
    return {"pixel_values": pixels, "input_ids": ids * is_word, "attention_mask": is_word}


@pytest.fixture
def lesson(inputs) -> dict[str, torch.Tensor]:
    """What a model with both auxiliary losses is trained on."""
    labels = torch.zeros(4, 64, 96)
    labels[:, 8:40, 16:60] = 1
    hidden = torch.where(inputs["attention_mask"] > 0, inputs["input_ids"], -100)
    return {**inputs, "labels": labels, "masked_input_ids": inputs["input_ids"], "hidden_words": hidden}


@torch.no_grad()
def test_logits_are_per_expression_at_stride_four(model, inputs, monkeypatch):
    output = model(**inputs)
    assert output.logits.shape == (4, 16, 24)
    assert not torch.allclose(output.logits[0], output.logits[1])
    for index in range(4):
        one = [inputs["pixel_values"][index // 2], inputs["input_ids"][index], inputs["attention_mask"][index]]
        single = model(*(each[None] for each in one))
        torch.testing.assert_close(single.logits[0], output.logits[index], atol=1e-4, rtol=1e-4)
    monkeypatch.setattr(modeling_trainable_segmentation, "PIXELS_PER_PASS", 1)
    torch.testing.assert_close(model(**inputs).logits, output.logits, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_an_image_is_encoded_once(model, inputs):
    rows = {}
    watched = {
        "stem": model.clip.visual.conv1,
        "C5": model.neck.projections[2],
        "C4": model.neck.projections[1],
        "C3": model.neck.projections[0],
    }
    hooks = [
        module.register_forward_hook(lambda _, inputs, __, name=name: rows.__setitem__(name, len(inputs[0])))
        for name, module in watched.items()
    ]
    model(**inputs)
    for hook in hooks:
        hook.remove()
    assert rows == dict.fromkeys(watched, 2)


@torch.no_grad()
def test_padding_changes_nothing(model, inputs):
    more = torch.zeros(4, 7, dtype=torch.long)
    padded = {name: torch.cat([inputs[name], more], dim=1) for name in ("input_ids", "attention_mask")}
    expected = model(**inputs).logits
    torch.testing.assert_close(model(inputs["pixel_values"], **padded).logits, expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("size", [(64, 64), (96, 160), (79, 101)])
def test_any_input_size(model, inputs, size):
    logits = model(torch.randn(2, 3, *size), inputs["input_ids"], inputs["attention_mask"]).logits
    assert logits.shape == (4, *((side + 1) // 2 // 8 * 4 for side in size))
    assert logits.isfinite().all()


def test_every_trained_parameter_gets_a_gradient(config, lesson):
    for changes in ({}, {"mask_grounding_loss_weight": 1.0}, {"alignment_loss_weight": 1.0}, BOTH):
        trained = make(config, **changes).train()
        output = trained(**lesson)
        output.loss.backward()
        missing = [name for name, each in trained.named_parameters() if each.requires_grad and each.grad is None]
        assert not missing, (changes, missing)
        assert "bce" in output.loss_dict


def test_one_expression_alone_can_be_learned(config, inputs):
    """The last batch of an epoch may hold one, whose sentence has no variance."""
    one = {name: each[:1] for name, each in inputs.items()}
    model = make(config).train()
    remembered = model.neck.state_projection[1].running_mean.clone()
    assert model(**one, labels=torch.ones(1, 64, 96)).loss.isfinite()
    assert torch.equal(model.neck.state_projection[1].running_mean, remembered)
    model(**inputs)
    assert not torch.equal(model.neck.state_projection[1].running_mean, remembered)


def test_losses_survive_half_precision(config, lesson):
    whole = make(config, **BOTH).train()(**lesson)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = make(config, **BOTH).train()(**lesson)
    halved = make(config, **BOTH).to(torch.bfloat16).train()
    halves = halved(**{**lesson, "pixel_values": lesson["pixel_values"].bfloat16()})
    for output in (mixed, halves):
        assert output.logits.dtype == torch.float32
        assert float(output.loss_dict["bce"]) == pytest.approx(float(whole.loss_dict["bce"]), rel=0.1)
        assert all(term.isfinite() for term in output.loss_dict.values())
        output.loss.backward()


def test_gradient_checkpointing_and_any_attention_change_nothing(config, lesson):
    losses = []
    for change in ("none", "checkpointing", "eager"):
        model = make(config, **BOTH, alignment_pixels=4096).train()
        if change == "checkpointing":
            model.gradient_checkpointing_enable()
        elif change == "eager":
            model.set_attn_implementation("eager")
            assert model.auxiliary_losses.mask_grounding.text_config._attn_implementation == "eager"
        torch.manual_seed(0)
        losses.append(model(**lesson).loss_dict)
    for changed in losses[1:]:
        torch.testing.assert_close(changed, losses[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"neck_dims": [8, 16]}, "neck_dims"),
        ({"hidden_dim": 18}, "hidden_dim"),
        ({"decoder_num_heads": 5}, "decoder_num_heads"),
        ({"kernel_size": 4}, "kernel_size"),
        ({"kernel_size": -1}, "kernel_size"),
        ({"clip_config": {"layers": [3, 4, 6]}}, "`layers` must be 4"),
        ({"clip_config": {"width": 1}}, "`width` must be positive and even"),
        ({"dropout": 1.0}, "dropout"),
        ({"mask_grounding_stages": [2]}, "mask_grounding_stages"),
    ],
)
def test_impossible_configurations_are_refused_by_name(config, changes, named):
    with pytest.raises(Exception, match=named):
        hf_ris.CRISConfig.from_dict({**config.to_dict(), **changes})


def test_expressions_are_cut_before_their_end(processor, tokenizer, caplog):
    logging.getLogger("transformers").propagate = True
    ids = processor(text="the red mug to the left of the big tree", max_length=5, return_tensors="pt")["input_ids"]
    assert ids[0, -1] == tokenizer.sep_token_id
    assert ids.shape == (1, 5)
    assert "only 5 are read" in caplog.text
    short = processor(text=["the mug", "the red mug"], return_tensors="pt")
    assert short["input_ids"].shape == (2, 17)
    assert short["attention_mask"].sum(dim=1).tolist() == [4, 5]


@pytest.mark.parametrize("size", [(50, 80), (64, 64), (90, 33)])
def test_a_mask_goes_to_the_model_and_back(processor, size):
    """Through the letterbox and its inverse, for images of any shape."""
    height, width = size
    mask = torch.zeros(size)
    mask[height // 4 : height // 2, width // 4 : -width // 4] = 1
    image = torch.zeros(3, *size, dtype=torch.uint8)
    labels = processor.image_processor(image, mask.numpy(), return_tensors="pt")["labels"]
    assert labels.shape == (1, 64, 64) and labels.min() >= 0 and labels.max() <= 1
    logits = (labels.clamp(1e-4, 1 - 1e-4)).logit()
    back = processor.probabilities(logits, size)[0] > 0.5
    overlap = (back & (mask > 0)).sum() / (back | (mask > 0)).sum()
    assert overlap > 0.85


def test_a_size_given_with_the_call_is_the_one_masks_come_back_from(processor):
    mask = torch.zeros(48, 64)
    mask[6:20, 40:60] = 1
    image, size = torch.zeros(3, 48, 64, dtype=torch.uint8), {"height": 64, "width": 128}
    labels = processor.image_processor(image, mask.numpy(), size=size, return_tensors="pt")["labels"]
    logits = labels[:, 2::4, 2::4].clamp(1e-4, 1 - 1e-4).logit()
    back = processor.probabilities(logits, (48, 64))[0] > 0.5
    assert (back & (mask > 0)).sum() / (back | (mask > 0)).sum() > 0.7


@pytest.mark.parametrize("side", [410, 430, 16])
def test_sizes_that_masks_cannot_be_brought_back_from_are_refused(processor, side):
    size = {"height": 416, "width": side}
    with pytest.raises(ValueError, match=f"`size` must be .* multiples of 32 pixels, got .*{side}"):
        hf_ris.CRISImageProcessor(size=size)
    with pytest.raises(ValueError, match=f"`size` must be .* multiples of 32 pixels, got .*{side}"):
        processor.image_processor(torch.zeros(3, 48, 64, dtype=torch.uint8), size=size)


def test_the_border_has_the_mean_colour_of_the_call(processor):
    tall = torch.zeros(3, 64, 32, dtype=torch.uint8)
    given = {"image_mean": [0.0, 0.2, 1.0], "image_std": [1.0, 1.0, 1.0]}
    border = processor.image_processor(tall, return_tensors="pt", **given)["pixel_values"][0, :, :, 0]
    torch.testing.assert_close(border, torch.zeros(3, 64), atol=0.5 / 255, rtol=0)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_row_without_a_word_is_finite(model, inputs, attention):
    model = copy.deepcopy(model).train()
    model.set_attn_implementation(attention)
    words = torch.ones_like(inputs["input_ids"])
    words[1] = 0
    output = model(**{**inputs, "attention_mask": words}, labels=torch.ones(len(words), 64, 64))
    output.loss.backward()
    assert output.logits.isfinite().all()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_masks_of_large_images_are_read_in_bands(processor, monkeypatch):
    logits = torch.randn(1, 16, 16, generator=torch.Generator().manual_seed(0)) * 3
    outputs = SimpleNamespace(logits=logits)
    whole = processor.probabilities(logits, (61, 47))
    mask = processor.post_process_referring_segmentation(outputs, [(61, 47)])[0]["mask"]
    monkeypatch.setattr(without_torch, "BAND_PIXELS", 5 * 47)
    assert torch.equal(processor.probabilities(logits, (61, 47)), whole)
    assert torch.equal(processor.post_process_referring_segmentation(outputs, [(61, 47)])[0]["mask"], mask)


def test_a_saved_model_is_one_call(folder, ris, images):
    loaded = pipeline("referring-segmentation", model=str(folder), device="cpu")
    found, expected = (each(images[0], text=["the red mug", "a tree"]) for each in (loaded, ris))
    assert [each["score"] for each in found] == [each["score"] for each in expected]
    assert found[0]["mask"].size == images[0].size
    assert 0 <= found[0]["score"] <= 1
    assert loaded.processor.text_length == 17


@pytest.mark.slow
def test_it_loads_and_answers_where_this_package_is_missing(folder):
    notes = []
    push_model(folder, "me/cris", licence="mit", dry_run=True, note=notes.append)
    assert any("modeling_cris.py" in line for line in notes)


def test_it_is_evaluated_by_its_own_protocol(ris):
    rows = load_refshapes("refshapes", "val", num_rows=4)
    results = evaluate(ris, rows, protocol="cris")
    ious = ious_by_hand(ris, rows)
    assert results["mIoU"] == pytest.approx(np.mean(ious), abs=1e-4) and results["mIoU"] > 0
    assert results["P@0.5"] == pytest.approx(np.mean(np.array(ious) > 0.5))
    assert results["mask_size"] == "image"


def test_it_is_trained_and_mask_grounding_is_a_matter_of_configuration(folder, tmp_path, monkeypatch):
    """A tokenizer without a mask token, such as CLIP's, is given one, and the model an embedding for it."""
    processor = AutoProcessor.from_pretrained(folder)
    processor.tokenizer.mask_token = None
    monkeypatch.setattr(AutoProcessor, "from_pretrained", lambda *_, **__: copy.deepcopy(processor))
    model, taught = load_checkpoint(0, BOTH, str(folder))
    vocabulary = model.config.text_config.vocab_size
    assert taught.tokenizer.mask_token_id == vocabulary - 1
    assert (
        model.get_input_embeddings().num_embeddings
        == vocabulary
        == len(model.auxiliary_losses.mask_grounding.word_bias)
    )
    collator = ReferringSegmentationCollator(taught, mask_probability=0.5)
    batch = collator(list(load_refshapes("refshapes", "val", num_rows=3)))
    assert (batch["masked_input_ids"] == vocabulary - 1).any()
    assert model.train()(**batch).loss_dict.keys() == {"bce", "mask_grounding", "pixel_to_pixel", "pixel_to_text"}

    options = {"max_steps": 2, "eval_rows": 2, "samples": 1, "dataloader_num_workers": 0}
    metrics = train(
        "finetune",
        tmp_path,
        refshapes=("refshapes",),
        parts={"model": str(folder)},
        config=BOTH,
        eval_steps=2,
        **options,
    )
    assert "eval_mIoU" in metrics
    again = pipeline("referring-segmentation", model=str(tmp_path), device="cpu").model
    assert again.get_input_embeddings().num_embeddings == vocabulary


def test_the_schedule_is_the_published_one(model):
    optimizer, schedule = cris_schedule(model, 1e-4, steps_per_epoch=2)
    clip, rest = (sum(each.numel() for each in group["params"]) for group in optimizer.param_groups)
    own = sum(each.numel() for part in (model.clip, model.shortcut) for each in part.parameters()) - 1
    assert (clip, clip + rest) == (own, model.num_parameters() - 1), "all but the unused scale of similarities"
    rates = []
    for _ in range(80):
        rates.append(schedule.get_last_lr())
        optimizer.step()
        schedule.step()
    assert rates[0] == rates[1] == pytest.approx([1e-4, 1e-4]), "its first epoch, as the published code runs"
    assert rates[2] == rates[69] == pytest.approx([1e-5, 1e-4])
    assert rates[70] == rates[79] == pytest.approx([1e-6, 1e-5])


@pytest.mark.parametrize(
    ("name", "text_length"), [("cris-r50-refcoco", 17), ("cris-r101-refcoco", 17), ("cris-r50-refcocog", 22)]
)
def test_recipes_train_the_published_way(tmp_path, clip_folder, name, text_length):
    """On a small CLIP, for a step: what is saved has the published sizes, and neither Mask Grounding nor the alignment loss."""
    state = released_clip(clip_folder)
    state["positional_embedding"] = state["positional_embedding"].repeat(2, 1)  # as many as the longest text
    save_file(state, tmp_path / "model.safetensors")
    parts = {"init_from": str(tmp_path / "model.safetensors"), "text": str(clip_folder)}
    options = {
        "max_steps": 1,
        "eval_rows": 1,
        "samples": 0,
        "dataloader_num_workers": 0,
        "per_device_train_batch_size": 2,
    }
    rows = load_refshapes("refshapes", "val", num_rows=2)
    train(name, tmp_path / "out", rows, rows, parts=parts, config=CRIS_SIZES, **options)
    processor = AutoProcessor.from_pretrained(tmp_path / "out")
    assert processor.text_length == text_length
    assert processor.image_processor.size == {"height": 416, "width": 416}
    config = hf_ris.CRISConfig.from_pretrained(tmp_path / "out")
    assert (config.mask_grounding_loss_weight, config.alignment_loss_weight) == (0, 0)


@pytest.fixture
def clip_folder(tmp_path):
    """A small CLIP with a ResNet, of transformers' form, with its tokenizer."""
    return save_clip_resnet(tmp_path / "clip")


def released_clip(folder) -> dict[str, torch.Tensor]:
    """The golden CLIP under OpenAI's names."""
    state = read_tensors("global_local", "state.safetensors")
    return {key.removeprefix("rn."): tensor for key, tensor in state.items() if key.startswith("rn.")}


def as_timm(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The names that timm gives the image encoder."""
    convolutions = {"1": "conv1_1x1", "2": "conv2_kxk", "3": "conv3_1x1"}
    renamed = {}
    for key, tensor in state.items():
        if not key.startswith("visual."):
            continue
        where, *rest = key.removeprefix("visual.").split(".")
        if where == "attnpool":
            name = ".".join(rest).replace("_proj", "").replace("positional_embedding", "pos_embed")
            renamed[f"head.{name}".replace("head.c.", "head.proj.")] = tensor
        elif where.startswith("layer"):
            block, part, *last = rest
            stage = f"stages.{int(where[-1]) - 1}.{block}"
            if part == "downsample":
                renamed[f"{stage}.shortcut.conv.{'conv' if last[0] == '0' else 'bn'}.{last[1]}"] = tensor
            else:
                renamed[f"{stage}.{convolutions[part[-1]]}.{part[:-1]}.{last[0]}"] = tensor
        else:
            renamed[f"stem.conv{where[-1]}.{where[:-1]}.{rest[0]}"] = tensor
    return renamed


@pytest.mark.parametrize("form", ["torch", "half precision", "safetensors", "of processes", "timm"])
def test_training_starts_from_a_released_clip(tmp_path, clip_folder, form, caplog):
    logging.getLogger("transformers").propagate = True
    state = released_clip(clip_folder)
    path = tmp_path / ("RN50.pt" if form in ("torch", "half precision") else "model.safetensors")
    if form == "torch":
        torch.save(state, path)
    elif form == "half precision":
        torch.save(
            {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in state.items()}, path
        )
    elif form == "of processes":
        save_file({f"module.{name}": tensor for name, tensor in state.items()}, path)
    else:
        save_file(as_timm(state) if form == "timm" else state, path)
    model, processor = build_cris(0, CRIS_SIZES, init_from=str(path), text=str(clip_folder), text_length=22)
    expected = convert_clip_state_dict(state)
    tolerance = 1e-2 if form == "half precision" else 0
    for name, tensor in model.clip.state_dict().items():
        if name in expected and (form != "timm" or name.startswith("visual.")):
            torch.testing.assert_close(
                tensor, expected[name].float(), atol=tolerance, rtol=tolerance, check_dtype=False
            )
    assert ("text encoder starts with random weights" in caplog.text) == (form == "timm")
    assert processor.text_length == 22
    scratch, _ = build_cris(0, CRIS_SIZES, init_from=str(path), text=str(clip_folder), from_scratch=True)
    name = "visual.conv1.weight"
    assert not torch.equal(scratch.clip.state_dict()[name], model.clip.state_dict()[name])


def test_another_start_is_refused_by_name(tmp_path):
    save_file({"visual.proj": torch.zeros(2, 2)}, tmp_path / "vit.safetensors")
    with pytest.raises(ValueError, match=r"`init_from` must be a CLIP with a ResNet.*vit\.safetensors"):
        build_cris(0, {}, init_from=str(tmp_path / "vit.safetensors"), text="none")
    with pytest.raises(ValueError, match=r"no CLIP of timm has: 'fc\.weight'"):
        rename_timm({"stem.conv1.conv.weight": torch.zeros(1), "fc.weight": torch.zeros(1)})


def test_an_image_encoder_alone_tells_its_sizes():
    state = {name: tensor for name, tensor in released_clip(None).items() if name.startswith("visual.")}
    config = read_clip_config(state)
    assert config.layers == read_clip_config(released_clip(None)).layers
    assert config.text_config.projection_dim == len(state["visual.attnpool.c_proj.weight"])
    with torch.device("meta"):
        assert CLIPResNetModel(config).text_encoder.config.vocab_size == 49408


def test_a_released_checkpoint_becomes_a_pipeline(tmp_path, images):
    tokenizer = letters()
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    cris_config().save_pretrained(tmp_path / "config")
    state = {f"module.{key}": tensor for key, tensor in draw_state("cris").items()}
    torch.save({"epoch": 49, "state_dict": state}, tmp_path / "best_model.pth")
    given = {"config": tmp_path / "config", "tokenizer": tmp_path / "tokenizer", "text_length": 22}
    convert("cris", str(tmp_path / "best_model.pth"), tmp_path / "out", **given)
    ris = pipeline("referring-segmentation", model=str(tmp_path / "out"), device="cpu")
    golden, expected = (
        read_tensors("cris", "inputs.safetensors"),
        read_tensors("cris", "outputs.safetensors")["A.pred"],
    )
    with torch.no_grad():
        logits = ris.model(golden["A.img"], golden["A.word"], golden["A.word"] != 0).logits
    torch.testing.assert_close(logits, expected[:, 0], rtol=0, atol=2e-5 * expected.abs().max().item())
    assert ris.processor.text_length == 22
    assert ris.processor.image_processor.size == {"height": 416, "width": 416}
    assert ris(images[0], text="the red mug")["mask"].size == images[0].size
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "CRIS, converted" in card and "not stated with them" in card and "license:" not in card


def test_sizes_are_read_off_a_released_checkpoint():
    found, golden = read_cris_config(draw_state("cris")), cris_config()
    for name in ("neck_dims", "hidden_dim", "decoder_layers", "decoder_feedforward_dim"):
        assert getattr(found, name) == getattr(golden, name), name
    assert (list(found.clip_config.layers), found.clip_config.width) == (golden.clip_config.layers, 8)
    with pytest.raises(ValueError, match="which every released CRIS has"):
        read_cris_config({"backbone.visual.conv1.weight": torch.zeros(1)})


def test_muon_trains_its_convolutions_if_asked(model):
    for asked in (False, True):
        optimizer = MuonWithAdamW(copy.deepcopy(model), lr=1e-3, convolutions=asked)
        kernels = [
            each.shape for group in optimizer.parts[1].param_groups for each in group["params"] if each.ndim == 4
        ]
        assert bool(kernels) == asked
        assert all(shape[1] > 3 for shape in kernels), "but for those that see colours"


def test_options_that_would_do_nothing_are_refused(tmp_path, folder):
    rows = load_refshapes("refshapes", "val", num_rows=2)
    cases = [
        ("cris-r50-refcoco", {"model": str(folder)}, {"weight_decay": 0.1}, "`weight_decay` must be left out"),
        ("finetune", {"model": str(folder)}, {"config": {"alignment_module": False}}, "no field 'alignment_module'"),
        ("cris-r50-refcoco", {"init_from": "none.pt", "text": str(folder)}, {}, r"there is no file .*none\.pt"),
    ]
    for recipe, parts, options, message in cases:
        with pytest.raises(ValueError, match=message):
            train(recipe, tmp_path, rows, parts=parts, **options)
    with pytest.raises(ValueError, match="must be True"):
        hf_ris.CRISImageProcessor()(rows[0]["image"], do_resize=False)
    with pytest.raises(ValueError, match="resample"):
        hf_ris.CRISImageProcessor()(rows[0]["image"], resample=2)


def test_half_precision_is_trained_in_full(folder, tmp_path):
    pipeline("referring-segmentation", model=str(folder), dtype=torch.float16).save_pretrained(tmp_path)
    model, _ = load_checkpoint(0, {}, str(tmp_path))
    assert {each.dtype for each in model.parameters()} == {torch.float32}


def test_masks_over_padded_images_are_not_compared_in_a_square(ris):
    with pytest.raises(
        ValueError, match="must be 'original' or 'cris' for cris, which keeps images' aspect ratio; got 'lavt'"
    ):
        evaluate(ris, load_refshapes("refshapes", "val", num_rows=2), protocol="lavt")


def test_padding_is_never_hidden(processor):
    """CLIP's padding is no special token."""
    processor = copy.deepcopy(processor)
    processor.tokenizer = letters(mask_token="<|mask|>")
    processor.tokenizer.mask_token = "<|mask|>"
    batch = ReferringSegmentationCollator(processor, mask_probability=1.0)(
        list(load_refshapes("refshapes", "val", num_rows=3))
    )
    assert (batch["hidden_words"][batch["attention_mask"] == 0] == -100).all()
    assert (batch["hidden_words"] != -100).any(dim=1).all()


def test_hidden_words_leave_no_trace_in_batch_norms(config, inputs):
    labels = torch.ones(4, 64, 96)
    hidden = torch.where(inputs["attention_mask"] > 0, inputs["input_ids"], -100)
    counts = {}
    for name, changes in {"plain": {}, "grounding": BOTH}.items():
        trained = make(config, dropout=0.0, **changes).train()
        trained.load_state_dict(make(config).state_dict(), strict=False)
        trained(**inputs, labels=labels, masked_input_ids=torch.full_like(inputs["input_ids"], 4), hidden_words=hidden)
        counts[name] = {key: each for key, each in trained.state_dict().items() if "running" in key}
    for key, each in counts["plain"].items():
        torch.testing.assert_close(each, counts["grounding"][key])


def test_adapters_leave_batch_norms_as_they_are(folder, tmp_path):
    options = {"max_steps": 2, "eval_rows": 2, "samples": 0, "dataloader_num_workers": 0, "learning_rate": 1e-2}
    parts = {"model": str(folder)}
    train("finetune", tmp_path, refshapes=("refshapes",), parts=parts, lora=2, eval_steps=2, **options)
    before, after = (load_file(where / "model.safetensors") for where in (folder, tmp_path))
    assert all(torch.equal(each, after[name]) for name, each in before.items() if "running" in name)
    changed = {name for name, each in before.items() if not torch.equal(each, after[name])}
    assert "decoder.layers.0.cross_attention.value.weight" in changed


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_gives_nearly_the_same(folder, ris, images, dtype):
    half = pipeline("referring-segmentation", model=str(folder), device="cpu", dtype=dtype)
    assert half.model.dtype == dtype
    inputs = ris.processor(images=images[:1], text=["the red mug", "a tree"], return_tensors="pt")
    pixels = inputs.pop("pixel_values")
    with torch.no_grad():
        found, expected = (each.model(pixels.to(each.model.dtype), **inputs).logits for each in (half, ris))
    assert (found - expected).abs().max() < 0.1 * expected.std()
    # Around the middle of the odds, where a mask of this random model is neither empty nor full.
    assert ((found > expected.median()) == (expected > expected.median())).float().mean() > 0.95
