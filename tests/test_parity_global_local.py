"""Global-Local's images, features, ensembles and scores are the original's, for CLIPs with a ViT and with a ResNet."""

import pytest
import torch
from golden_states import read_tensors
from torch import nn

from hf_ris.conversion.mapping_clip import convert_clip_state_dict, read_clip_config
from hf_ris.modeling.as_published import published_box, published_images
from hf_ris.modeling.configuration_zero_shot import GlobalLocalConfig
from hf_ris.modeling.modeling_global_local import GlobalLocalForReferringSegmentation


STATE = read_tensors("global_local", "state.safetensors")
INPUTS = read_tensors("global_local", "inputs.safetensors")
OUTPUTS = read_tensors("global_local", "outputs.safetensors")
MIXES = {"refcoco": 0.95, "refcocog": 0.85}


def assert_close(found: torch.Tensor, recorded: torch.Tensor) -> None:
    assert found.shape == recorded.shape
    assert (found - recorded).abs().max() <= 2e-5 * recorded.abs().max()


@pytest.fixture(scope="module", params=["vit", "rn"])
def kind(request) -> str:
    return request.param


def build(kind: str, dataset: str) -> GlobalLocalForReferringSegmentation:
    state = {name.removeprefix(f"{kind}."): tensor for name, tensor in STATE.items() if name.startswith(f"{kind}.")}
    config = read_clip_config(state, heads=4)
    model = GlobalLocalForReferringSegmentation(
        GlobalLocalConfig(image_text_config=config, mode="paper", visual_mix=MIXES[dataset], masking_block=9)
    ).eval()
    model.image_text.network.load_state_dict(convert_clip_state_dict(state))
    return model


def test_images_are_made_as_published(kind):
    model = build(kind, "refcoco")
    whole, crops = published_images(INPUTS["image"], INPUTS["pred_masks"], model.image_text.image_size)
    assert_close(whole, OUTPUTS[f"{kind}.refcoco.resized_imgs"])
    assert_close(crops, OUTPUTS[f"{kind}.refcoco.cropped_imgs"])


def test_boxes_are_the_detectors():
    boxes = [list(published_box(mask)) for mask in INPUTS["pred_masks"]]
    assert boxes == OUTPUTS["pred_boxes_int"].tolist()


@pytest.mark.parametrize("dataset", MIXES)
@torch.no_grad()
def test_features_and_scores_are_the_originals(kind, dataset):
    model = build(kind, dataset)
    images = published_images(INPUTS["image"], INPUTS["pred_masks"], model.image_text.image_size)
    visual = model.mix_visual(*images, INPUTS["pred_masks"])
    assert_close(visual, OUTPUTS[f"{kind}.{dataset}.visual_feature"])
    sentences, phrases = (
        model.image_text.encode_texts({"input_ids": INPUTS[f"{name}_tokens"]}) for name in ("sentence", "noun_phrase")
    )
    scores = model.score(visual, sentences, phrases)
    assert_close(scores, OUTPUTS[f"{kind}.{dataset}.score"][..., 0])
    assert scores.argmax(dim=1).tolist() == OUTPUTS[f"{kind}.{dataset}.max_index"].tolist()


@torch.no_grad()
def test_batches_of_regions_change_nothing(kind):
    model = build(kind, "refcoco")
    images = published_images(INPUTS["image"], INPUTS["pred_masks"], model.image_text.image_size)
    together = model.mix_visual(*images, INPUTS["pred_masks"])
    model.config.batch_size = 1
    assert_close(model.mix_visual(*images, INPUTS["pred_masks"]), together)


@torch.no_grad()
def test_early_blocks_see_a_picture_once():
    model = build("vit", "refcoco")
    seen = []
    for layer in model.image_text.network.vision_model.encoder.layers:
        layer.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    whole = OUTPUTS["vit.refcoco.resized_imgs"]
    shares = nn.functional.interpolate(INPUTS["pred_masks"][:, None].float(), (7, 7), mode="bilinear")[:, 0]
    model.image_text.encode_regions(whole, shares, block=9)
    assert seen == [1] * 9 + [len(shares)] * 3
