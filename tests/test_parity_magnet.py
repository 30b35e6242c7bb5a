"""The MagNet here is the published network: every recorded intermediate of the original code is reproduced."""

import re

import pytest
import torch
from golden_states import draw_state, magnet_config, read_json, read_tensors
from torch import nn

from hf_ris.conversion.mapping_magnet import convert_state_dict, is_ignored, target_keys
from hf_ris.modeling.configuration_magnet import MagNetConfig
from hf_ris.modeling.modeling_magnet import MagNetForReferringSegmentation


OUTPUTS = read_tensors("magnet", "outputs.safetensors")
INPUTS = read_tensors("magnet", "inputs.safetensors")
NOISE = read_json("magnet", "noise.json")
MANIFEST = read_json("magnet", "state_manifest.json")
RELEASED_STATE = draw_state("magnet")


@pytest.fixture(scope="module")
def model() -> MagNetForReferringSegmentation:
    model = MagNetForReferringSegmentation(magnet_config()).eval()
    model.load_state_dict(convert_state_dict(RELEASED_STATE, model))
    return model


def record(model: MagNetForReferringSegmentation, case: str) -> dict[str, torch.Tensor]:
    """Runs one case and collects everything the original was recorded at, by the original's names."""
    points: dict[str, torch.Tensor] = {}
    hooks = []

    def watch(module: nn.Module, name: str, pick=lambda inputs, output: output) -> None:
        hooks.append(
            module.register_forward_hook(lambda _, inputs, output: points.__setitem__(name, pick(inputs, output)))
        )

    encoder = model.encoder
    watch(encoder.image_encoder.embeddings, "image_stem", lambda _, output: output[0])
    watch(encoder.text_encoder.embeddings, "text_stem")
    for index, stage in enumerate(encoder.stages, start=1):
        watch(stage, f"image_stage{index}", lambda inputs, _: inputs[0])
        watch(stage, f"text_stage{index}", lambda inputs, _: inputs[1])
        watch(stage.image_fusion, f"image_pwam{index}")
        for level, context in enumerate(stage.alignment.contexts):
            watch(context.fusion, f"image_pyramid_pwam{index}_{level}")
        watch(stage.word_fusion, f"text_pwam{index}")
        watch(stage.word_gate, f"text_gated{index}")
    for index, swin_stage in enumerate(encoder.image_encoder.encoder.layers[:-1], start=1):
        watch(swin_stage.downsample, f"image_next{index}")

    inputs = {name.removeprefix(f"{case}."): tensor for name, tensor in INPUTS.items() if name.startswith(f"{case}.")}
    with torch.no_grad():
        output = model(**inputs, output_hidden_states=True)
        # The last gated image stream is read by nothing, so the model does not compute it.
        gate = encoder.stages[-1].image_gate
        points["image_next4"] = gate(points["image_stage4"], points["image_pwam4"])
    for hook in hooks:
        hook.remove()

    points |= {f"s{index}": feature for index, feature in enumerate(output.hidden_states, start=1)}
    points["mask_features"] = output.pixel_features
    points["pred_masks_all"] = torch.stack([*output.auxiliary_logits, output.logits]).unsqueeze(2)
    size = inputs["pixel_values"].shape[-2:]
    upsampled = nn.functional.interpolate(output.logits.unsqueeze(1), size=size, mode="bilinear", align_corners=True)
    points["prob"] = upsampled.sigmoid()
    return points


@pytest.mark.parametrize("case", ["A", "B", "C"])
def test_every_recorded_point_matches(model, case, monkeypatch):
    predictions, memories, asked = [], [], []
    fusion = model.encoder.stages[0].word_fusion
    gather = fusion.gather
    monkeypatch.setattr(fusion, "gather", lambda query, *others: (asked.append(query), gather(query, *others))[1])
    hooks = [
        fusion.query.register_forward_hook(lambda _, __, output: asked.append(output)),
        model.mask_decoder.norm.register_forward_hook(
            lambda _, __, output: predictions.append(model.mask_decoder.class_head(output))
        ),
        model.pixel_decoder.register_forward_hook(lambda _, __, output: memories.extend(output[1])),
    ]
    points = record(model, case)
    for hook in hooks:
        hook.remove()
    points["pred_logits_all"] = torch.stack(predictions)
    points |= {f"multi_scale{level}": memory for level, memory in enumerate(memories)}

    # The original's padding mask is what its word fusion multiplies queries by.
    points["extended_attention_mask"] = (asked[1] / asked[0]).mean(dim=-1)[:, None, None]
    # It also recorded a norm whose result it drops; the model has none.
    for stage in range(4):
        norm = [RELEASED_STATE[f"language_model.norms.{stage}.{name}"] for name in ("weight", "bias")]
        residual = points[f"text_pwam{stage + 1}"]
        points[f"text_residual_normed{stage + 1}"] = nn.functional.layer_norm(residual, residual.shape[-1:], *norm)
    failures = []
    for name, expected in OUTPUTS.items():
        point = name.removeprefix(f"{case}.")
        if not name.startswith(f"{case}."):
            continue
        noise = max(NOISE[case][kind].get(point, 0.0) for kind in ("threads1", "mkldnn_off", "float64"))
        tolerance = max(5 * noise, 2e-5 * expected.abs().max().item())
        error = (points[point].reshape(expected.shape) - expected).abs().max().item()
        if not error <= tolerance:
            failures.append(f"{name}: {error:.2e} > {tolerance:.2e}")
    assert not failures, "\n".join(failures)


def test_the_published_configuration_has_the_published_size():
    """Built without memory: the default configuration is the released network, 297.0 million parameters as stored."""
    with torch.device("meta"):
        model = MagNetForReferringSegmentation(MagNetConfig())
    parameters = sum(parameter.numel() for parameter in model.parameters())
    text_width, stage_widths = model.config.text_config.hidden_size, model.config.stage_widths
    stored_unused = {
        "lang_proj": text_width * 256 + 256,
        "image norms": sum(2 * width for width in stage_widths),
        "language norms": 4 * 2 * text_width,
    }
    assert round((parameters + sum(stored_unused.values())) / 1e6, 1) == 297.0


def test_mapping_covers_exactly_the_released_keys():
    """Every parameter of the full-size network comes from a key of the golden pattern, and none is left over."""

    def pattern(key: str) -> str:
        return re.sub(r"(?<=\.)\d+(?=\.)", "#", key)

    with torch.device("meta"):
        full_size = MagNetForReferringSegmentation(MagNetConfig())
    mapped = {pattern(target) for key in MANIFEST for target in target_keys(key)}
    assert mapped == {pattern(name) for name, _ in full_size.named_parameters()}
    assert {key for key in MANIFEST if not target_keys(key)} == {key for key in MANIFEST if is_ignored(key)}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda state: state.pop("classifier.predictor.decoder_norm.bias"), r"lacks 1 .*mask_decoder\.norm\.bias"),
        (lambda state: state.update({"image_model.surprise": torch.zeros(1)}), r"image_model\.surprise"),
        (
            lambda state: state.update({"classifier.predictor.class_embed.weight": torch.zeros(3, 32)}),
            r"class_embed\.weight.*\(3, 32\).*\(2, 32\)",
        ),
        (
            lambda state: state.update({"image_model.layers.4.mixer.0.bias": torch.zeros(12)}),
            r"image_model\.layers\.4\.mixer\.0\.bias",
        ),
    ],
    ids=["missing", "unexpected", "misshapen", "no such stage"],
)
def test_a_state_that_does_not_fit_is_refused_by_name(model, change, named):
    state = draw_state("magnet")
    change(state)
    with pytest.raises(ValueError, match=named):
        convert_state_dict(state, model)


def test_integer_buffers_of_real_checkpoints_are_ignored(model):
    state = draw_state("magnet")
    state["image_model.layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(49, 49, dtype=torch.long)
    state["language_model.embeddings.position_ids"] = torch.zeros(1, 40, dtype=torch.long)

    assert convert_state_dict(state, model).keys() == convert_state_dict(draw_state("magnet"), model).keys()
