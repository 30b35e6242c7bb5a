"""Image-text parts give transformers' features, and guide Global-Local by places."""

import numpy as np
import pytest
import tiny_parts
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from PIL import Image
from tokenizers import normalizers
from transformers import CLIPModel

import hf_ris
from hf_ris.modeling.language_expression import Expression
from hf_ris.modeling.modeling_global_local import make_ramp


SAVE = {
    "clip": tiny_parts.save_clip,
    "clip-resnet": tiny_parts.save_clip_resnet,
    "metaclip2": tiny_parts.save_metaclip2,
    "siglip": tiny_parts.save_siglip,
    "siglip2": tiny_parts.save_siglip2,
}


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts")
    for name, save in SAVE.items():
        save(folder / name)
    return folder


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    generator = np.random.default_rng(0)
    return Image.fromarray(generator.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((96, 72))


@pytest.fixture(scope="module")
def regions() -> np.ndarray:
    return tiny_parts.boxes((72, 96), (0, 0, 30, 30), (40, 10, 80, 60), (10, 40, 40, 70))


def compose(parts, system: str, **options):
    return hf_ris.zero_shot(system, device="cpu", **{"image_text": parts / "clip", "proposer": "none", **options})


@pytest.fixture(scope="module", params=["clip", "metaclip2", "siglip", "siglip2"])
def image_text(request, parts):
    return compose(parts, "global-local", image_text=parts / request.param).model.image_text


def test_features_are_those_of_transformers(image_text, picture):
    network, processor = image_text.network, image_text.processor
    texts = ["the red dog", "a cup"]
    square = picture.resize((64, 64))  # NaFlex would give another picture another grid
    fixed = {"padding": "max_length", "max_length": 24} if image_text.reads_padding else {"padding": True}
    with torch.no_grad():
        if network.config.model_type == "siglip2":  # its processor has sizes of its own
            fixed |= {"patch_size": 8, "max_num_patches": 16}
        inputs = processor(text=texts, images=square, return_tensors="pt", **fixed)
        if image_text.reads_padding:
            inputs.pop("attention_mask", None)
        output = network(**inputs)
        of_images = image_text.encode_images(image_text.prepare([np.asarray(square)]))
        of_texts = image_text.encode_texts(image_text.tokenize(texts))
    similarities = torch.nn.functional.normalize(of_texts, dim=-1) @ output.text_embeds.T
    assert similarities.diagonal() == pytest.approx(1, abs=1e-5)
    # SigLIP 2's image is squeezed by another library than transformers'.
    assert torch.nn.functional.cosine_similarity(of_images, output.image_embeds).item() > 0.999


@torch.no_grad()
def test_clips_last_block_computes_the_class_token_alone(parts):
    image_text = compose(parts, "global-local").model.image_text
    network, side = image_text.network, image_text.image_size
    plain = CLIPModel.from_pretrained(parts / "clip").vision_model
    pixels = torch.randn(3, 3, side, side)
    found, expected = network.vision_model(pixels), plain(pixels)
    assert found.last_hidden_state.shape[:2] == (3, 1)
    torch.testing.assert_close(found.pooler_output, expected.pooler_output, atol=1e-5, rtol=1e-5)


def test_a_region_that_is_all_of_the_image_changes_nothing(image_text, picture):
    pixels = image_text.prepare([np.asarray(picture)], whole=True)
    everything = torch.ones(2, image_text.grid, image_text.grid)
    everything[1, 0] = 0.0
    with torch.no_grad():
        whole, part = image_text.encode_regions(pixels, everything, 1)
        assert torch.allclose(whole, image_text.encode_images(pixels)[0], atol=1e-5)
    assert not torch.allclose(whole, part, atol=1e-3)


def test_long_texts_are_cut_with_a_warning(image_text, caplog):
    most = image_text.config.text_config.max_position_embeddings
    assert image_text.tokenize(["dog " * 100])["input_ids"].shape == (1, most)
    assert f"tokens; only {most} are read" in caplog.text


@pytest.mark.parametrize("name", ["siglip", "siglip2"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_siglip_reads_small_letters_and_pads_as_its_tokenizer_does(parts, name, side):
    image_text = compose(parts, "global-local", image_text=parts / name).model.image_text
    tokenizer = image_text.processor.tokenizer
    tokenizer.padding_side = side
    tokenizer.backend_tokenizer.normalizer = normalizers.NFC()  # as Gemma's, which makes no letter small
    expected = tokenizer("a dog", padding="max_length", max_length=24)["input_ids"]
    assert image_text.tokenize(["A Dog"])["input_ids"].tolist() == [expected]


MUGS = ["the mug", "the left mug", "the right mug", "the upper mug", "the mug in the lower left"]


@pytest.fixture(scope="module")
def mugs() -> tuple[Image.Image, np.ndarray]:
    """A grey image with four equal regions."""
    masks = tiny_parts.boxes((64, 64), (8, 8, 24, 24), (40, 8, 56, 24), (8, 40, 24, 56), (40, 40, 56, 56))
    return Image.new("RGB", (64, 64), "grey"), masks


def test_guidance_reads_sides(parts, mugs):
    guided = compose(parts, "global-local", spatial_guidance=1.0)
    # All cells fit alike but one, so that places alone decide.
    cells = torch.nn.functional.normalize(torch.tensor([[1.0, 0.0]] * 15 + [[0.0, 1.0]]), dim=1)
    ramps = torch.stack([make_ramp(Expression(text), 4) for text in MUGS])
    cover = torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(mugs[1]).float(), 4)
    picks = guided.model.guide(cells, torch.tensor([[2.0, 0.0]] * 5), ramps, cover).argsort(descending=True)
    assert set(picks[1, :2].tolist()) == {0, 2}
    assert picks[2, 0] == 1  # the other cannot be: its cell does not fit
    assert set(picks[3, :2].tolist()) == {0, 1}
    assert picks[4, 0] == 2


def test_of_two_equal_mugs_the_one_on_the_named_side_is_chosen(parts, mugs, monkeypatch):
    image, masks = mugs
    model = compose(parts, "global-local", spatial_guidance=0.1).model
    monkeypatch.setattr(model, "encode_visual", lambda image, regions: torch.ones(len(regions), 8))
    monkeypatch.setattr(model, "_encode_texts", lambda texts: torch.ones(len(texts), 8))
    monkeypatch.setattr(
        model, "encode_cells", lambda image: torch.cat([torch.ones(12, 8), -torch.ones(4, 8)]) / 8**0.5
    )
    outputs = model([np.asarray(image)], MUGS[1:3], [masks[:2]])
    assert outputs.picks == (0, 1)


def test_guidance_off_changes_nothing(parts, mugs):
    image, masks = mugs
    plain, off, on = (
        compose(parts, "global-local", **options)(image, text=MUGS, regions=masks, explain=True)
        for options in ({}, {"spatial_guidance": 0.0}, {"spatial_guidance": 1.0})
    )
    for before, after, guided in zip(plain, off, on, strict=True):
        assert before["explanation"]["shares"] == after["explanation"]["shares"]
        assert before["explanation"]["terms"]["score"] == guided["explanation"]["terms"]["score"]
        assert set(before["explanation"]["terms"]) == {"score"}
        assert guided["explanation"]["shares"] != before["explanation"]["shares"]


def test_guided_expressions_asked_together_or_alone_have_one_answer(parts, picture, regions):
    guided = compose(parts, "global-local", spatial_guidance=0.5)
    together = guided(picture, text=MUGS, regions=regions, explain=True)
    for text, answer in zip(MUGS, together, strict=True):
        alone = guided(picture, text=text, regions=regions, explain=True)
        assert alone["explanation"]["shares"] == pytest.approx(answer["explanation"]["shares"], abs=1e-5)


@pytest.mark.parametrize("image_text", ["clip", "clip-resnet", "siglip2"])
def test_any_region_can_be_guided(parts, picture, image_text):
    dot, everything = np.zeros((72, 96), bool), np.ones((72, 96), bool)
    dot[0, 0] = True
    for dtype in (torch.float16, torch.float32):
        guided = compose(parts, "global-local", image_text=parts / image_text, spatial_guidance=1.0, dtype=dtype)
        for masks in ([dot], [everything], [dot, everything]):
            answer = guided(picture, text="the left dog", regions=np.stack(masks), explain=True)
            assert np.isfinite(answer["explanation"]["shares"]).all()


def test_the_paper_mode_has_no_guidance(parts):
    with pytest.raises(StrictDataclassClassValidationError, match="`spatial_guidance` must be 0 with mode='paper'"):
        compose(parts, "global-local", mode="paper", spatial_guidance=0.5)
