"""The CRIS here is the published network: every recorded intermediate of the original code is reproduced."""

from types import SimpleNamespace

import pytest
import torch
from golden_states import cris_config, draw_state, read_json, read_tensors
from torch import nn

from hf_ris.conversion.mapping_cris import convert_state_dict
from hf_ris.modeling.configuration_cris import CRISConfig
from hf_ris.modeling.modeling_cris import CRISForReferringSegmentation
from hf_ris.modeling.processing_cris import CRISImageProcessor, CRISProcessor


OUTPUTS = read_tensors("cris", "outputs.safetensors")
INPUTS = read_tensors("cris", "inputs.safetensors")
NOISE = read_json("cris", "noise.json")
RELEASED_STATE = draw_state("cris")
GREY_LEVEL = 1 / 255 / 0.26  # in normalised pixel values


@pytest.fixture(scope="module")
def model() -> CRISForReferringSegmentation:
    model = CRISForReferringSegmentation(cris_config()).eval()
    model.load_state_dict(convert_state_dict(RELEASED_STATE, model))
    return model


@pytest.fixture(scope="module")
def processor() -> CRISProcessor:
    processor = CRISProcessor.__new__(CRISProcessor)  # nothing here is read in words
    processor.threshold = 0.35
    processor.image_processor = CRISImageProcessor(size={"height": 96, "width": 96})
    return processor


def record(
    model: CRISForReferringSegmentation, processor: CRISProcessor, case: str, monkeypatch: pytest.MonkeyPatch
) -> dict[str, torch.Tensor]:
    """Runs one case and collects everything the original was recorded at, by the original's names."""
    points: dict[str, torch.Tensor] = {}
    hooks = []

    def watch(module: nn.Module, name: str, pick=lambda inputs, output: output) -> None:
        hooks.append(
            module.register_forward_hook(lambda _, inputs, output: points.__setitem__(name, pick(inputs, output)))
        )

    visual, neck = model.clip.visual, model.neck
    for name, module in {"c3": visual.layer2, "c4": visual.layer3, "layer4": visual.layer4}.items():
        watch(module, name)
    watch(neck.projections[2], "c5", lambda inputs, _: inputs[0])
    watch(neck.state_projection[2], "neck_txt_proj")
    watch(neck.sentence_norm, "neck_norm_layer")
    watch(neck.join4, "neck_f2_cat")
    watch(neck.join3, "neck_f3_cat")
    watch(neck.join_levels, "neck_aggr")
    for index, layer in enumerate(model.decoder.layers):
        watch(layer, f"decoder_layer{index}", lambda _, output: output.transpose(0, 1))
    watch(model.projector.kernel_projection, "proj_txt")
    watch(model.projector.kernel_projection, "state", lambda inputs, _: inputs[0])

    words, masks = INPUTS[f"{case}.word"], INPUTS[f"{case}.mask"][:, 0]
    compared = []
    entropy = nn.functional.binary_cross_entropy_with_logits

    def compare(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        compared.append(labels)
        return entropy(logits, labels)

    monkeypatch.setattr(nn.functional, "binary_cross_entropy_with_logits", compare)
    with torch.no_grad():
        output = model(INPUTS[f"{case}.img"], words, words != 0, labels=masks, output_hidden_states=True)
    for hook in hooks:
        hook.remove()
    joined, decoded = output.hidden_states
    return points | {
        "word": output.word_features,
        "fq_neck": joined,
        "fq_decoder": decoded.flatten(2),
        "proj_vis": output.pixel_features,
        "pred": output.logits,
        "prob_up": processor.input_probabilities(output.logits, masks.shape[1:]),
        "mask_resized": compared[0],
        "loss": output.loss,
    }


@pytest.mark.parametrize("case", ["A", "B"])
def test_every_recorded_point_matches(model, processor, case, monkeypatch):
    points = record(model, processor, case, monkeypatch)
    failures = []
    for name, expected in OUTPUTS.items():
        point = name.removeprefix(f"{case}.")
        if not name.startswith(f"{case}."):
            continue
        noise = max(NOISE[case][kind].get(point, 0.0) for kind in ("threads1", "mkldnn_off"))
        tolerance = max(5 * noise, 2e-5 * expected.abs().max().item())
        error = (points[point].reshape(expected.shape) - expected).abs().max().item()
        if not error <= tolerance:
            failures.append(f"{name}: {error:.2e} > {tolerance:.2e}")
    assert not failures, "\n".join(failures)


@pytest.mark.parametrize("case", ["pre_land", "pre_port"])
def test_images_and_masks_are_fitted_as_opencv_does(processor, case):
    image, mask = (INPUTS[f"{case}.{name}"].numpy() for name in ("image_u8", "mask_u8"))
    inputs = processor.image_processor(image, mask > 0, return_tensors="pt")
    error = (inputs["pixel_values"][0] - OUTPUTS[f"{case}.pixel_values"]).abs()
    assert error.max() < 1.1 * GREY_LEVEL
    assert (error > 0.1 * GREY_LEVEL).float().mean() < 0.01, "a grey level, at one place in a hundred"
    torch.testing.assert_close(inputs["labels"][0], OUTPUTS[f"{case}.mask_train"])


@pytest.mark.parametrize("case", ["pre_land", "pre_port"])
def test_masks_are_brought_back_as_opencv_does(processor, case):
    size = tuple(OUTPUTS[f"{case}.prob_back"].shape)
    probabilities = INPUTS[f"{case}.prob_low"][0].double().clamp(1e-12, 1 - 1e-12)
    logits = probabilities.logit()
    torch.testing.assert_close(
        processor.probabilities(logits, size)[0], OUTPUTS[f"{case}.prob_back"], atol=2e-6, rtol=0
    )
    found = processor.post_process_referring_segmentation(SimpleNamespace(logits=logits), [size])[0]
    assert torch.equal(found["mask"], OUTPUTS[f"{case}.pred_mask"])
    true = INPUTS[f"{case}.mask_u8"] > 0
    overlap = (found["mask"] & true).sum() / (found["mask"] | true).sum()
    assert float(overlap) == pytest.approx(float(OUTPUTS[f"{case}.iou"]), abs=1e-6)


def test_the_published_configuration_has_the_published_size():
    """146.8 million parameters, the scale of CLIP's similarities included, which CRIS stores and never uses."""
    with torch.device("meta"):
        model = CRISForReferringSegmentation(CRISConfig())
    assert round(sum(parameter.numel() for parameter in model.parameters()) / 1e6, 1) == 146.8


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda state: state.pop("decoder.norm.bias"), r"lacks 1 .*decoder\.norm\.bias"),
        (lambda state: state.update({"neck.surprise": torch.zeros(1)}), r"no released CRIS has.*neck\.surprise"),
        (lambda state: state.update({"backbone.surprise": torch.zeros(1)}), r"no released CLIP has.*surprise"),
        (lambda state: state.update({"proj.txt.bias": torch.zeros(3)}), r"proj\.txt\.bias.*\(3,\).*\(289,\)"),
    ],
    ids=["missing", "unexpected", "unexpected in CLIP", "misshapen"],
)
def test_a_state_that_does_not_fit_is_refused_by_name(model, change, named):
    state = draw_state("cris")
    change(state)
    with pytest.raises(ValueError, match=named):
        convert_state_dict(state, model)


def test_counters_of_real_checkpoints_are_ignored(model):
    state = draw_state("cris") | {"neck.txt_proj.1.num_batches_tracked": torch.tensor(7)}
    assert convert_state_dict(state, model).keys() == convert_state_dict(draw_state("cris"), model).keys()
