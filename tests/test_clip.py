"""Released CLIPs, ViT and ResNet, are read into networks that give the original's numbers."""

import pytest
import torch
from golden_states import read_tensors
from torch import nn
from transformers import CLIPModel

from hf_ris.conversion.mapping_clip import convert_clip_state_dict, read_clip_config
from hf_ris.modeling.clip_resnet import CLIPResNetModel
from hf_ris.modeling.zero_shot_parts import IMAGE_TEXT, build_part


STATE = read_tensors("global_local", "state.safetensors")
INPUTS = read_tensors("global_local", "inputs.safetensors")
OUTPUTS = read_tensors("global_local", "outputs.safetensors")


def released(prefix: str) -> dict[str, torch.Tensor]:
    return {key.removeprefix(prefix): tensor for key, tensor in STATE.items() if key.startswith(prefix)}


def read(prefix: str) -> nn.Module:
    state = released(prefix)
    config = read_clip_config(state, heads=4)
    model = (CLIPModel if prefix == "vit." else CLIPResNetModel)(config).eval()
    model.load_state_dict(convert_clip_state_dict(state))
    return model


def assert_close(found: torch.Tensor, recorded: torch.Tensor) -> None:
    assert found.shape == recorded.shape
    assert (found - recorded).abs().max() <= 2e-5 * recorded.abs().max()


@pytest.fixture(scope="module", params=["vit.", "rn."])
def system(request):
    prefix = request.param
    model = read(prefix)
    part = build_part("image_text", IMAGE_TEXT, model.config)
    part.network = model
    return prefix, part


@torch.no_grad()
def test_texts_have_the_originals_features(system):
    prefix, part = system
    features = part.encode_texts({"input_ids": INPUTS["sentence_tokens"]})
    assert_close(features, OUTPUTS[f"{prefix}text_raw"])


@torch.no_grad()
def test_pictures_have_the_originals_features(system):
    prefix, part = system
    features = part.encode_images(OUTPUTS[f"{prefix}refcoco.cropped_imgs"])
    if prefix == "rn.":  # where Global-Local normalises each
        features = nn.functional.normalize(features, dim=-1)
    assert_close(features, OUTPUTS[f"{prefix}refcoco.crop_features"])


@torch.no_grad()
def test_regions_are_seen_in_the_whole_picture_as_published(system):
    prefix, part = system
    masks = INPUTS["pred_masks"][:, None].float()
    for way, antialias in (("", False), ("aa.", True)):
        shares = nn.functional.interpolate(masks, (part.grid,) * 2, mode="bilinear", antialias=antialias)[:, 0]
        side = part.grid * (8 if prefix == "vit." else 32)
        picture = nn.functional.interpolate(INPUTS["image"], (side, side), mode="bilinear", antialias=antialias)
        features = part.encode_regions(picture, shares, block=9)
        assert_close(features, OUTPUTS[f"{way}{prefix}refcoco.mask_features"])


@torch.no_grad()
def test_a_resnet_takes_maps_of_other_sizes():
    model = read("rn.")
    picture = nn.functional.interpolate(INPUTS["image"], tuple(INPUTS["rn.big.shape"].tolist()), mode="bilinear")
    assert model.get_image_features(picture).shape == (1, 24)
    table = model.visual.attnpool._positions(len(OUTPUTS["rn.big.positional_embedding_after"]))
    assert_close(table, OUTPUTS["rn.big.positional_embedding_after"])


@torch.no_grad()
@pytest.mark.parametrize("everywhere", [False, True])
def test_attention_pooling_uses_the_chosen_attention(everywhere, monkeypatch):
    pool = read("rn.").visual.attnpool
    feature_map = torch.randn(2, pool.q_proj.in_features, 3, 4)
    expected = pool(feature_map, everywhere=everywhere)
    pool.config._attn_implementation = "eager"
    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", None)  # not to be called
    assert_close(pool(feature_map, everywhere=everywhere), expected)


def test_a_saved_resnet_is_the_same_again(tmp_path):
    model = read("rn.")
    model.save_pretrained(tmp_path)
    again = CLIPResNetModel.from_pretrained(tmp_path)
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_unknown_tensors_are_named():
    with pytest.raises(ValueError, match="surplus"):
        convert_clip_state_dict({**released("vit."), "surplus": torch.zeros(1)})
