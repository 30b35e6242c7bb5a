"""The losses of Mask Grounding: what they compute, when they are on, and what they cost."""

import copy

import pytest
import torch

from hf_ris import MagNetConfig, MagNetForReferringSegmentation
from hf_ris.data.collator import hide_words
from hf_ris.modeling.grounding_losses import (
    NOT_HIDDEN,
    AlignmentLoss,
    MaskGroundingHead,
    describe_cells,
    describe_masks,
    info_nce,
    mask_grounding_loss,
    sample_places,
)


BOTH = {
    "mask_grounding_loss_weight": 2.0,
    "mask_grounding_layers": 1,
    "alignment_loss_weight": 0.5,
    "alignment_dim": 16,
}


def build(tiny_config, **changes) -> MagNetForReferringSegmentation:
    torch.manual_seed(0)
    return MagNetForReferringSegmentation(MagNetConfig.from_dict({**tiny_config.to_dict(), **changes}))


@pytest.fixture
def batch(processor) -> dict[str, torch.Tensor]:
    """Two images with two expressions each, a word of every expression hidden."""
    torch.manual_seed(1)
    texts = ["the red mug", "the fish on the left", "a small green house", "blue star"]
    inputs = processor(text=texts, padding="longest", return_tensors="pt")
    labels = torch.zeros(4, 64, 96)
    labels[:, 8:40, 16:64] = 1
    hidden = [hide_words(ids, processor.tokenizer, 0.15) for ids in inputs["input_ids"]]
    masked, words = map(torch.stack, zip(*hidden, strict=True))
    pixel_values = torch.randn(2, 3, 64, 96)
    return {
        **inputs,
        "pixel_values": pixel_values,
        "labels": labels,
        "masked_input_ids": masked,
        "hidden_words": words,
    }


def test_masks_are_described_by_place_and_size():
    masks = torch.zeros(2, 10, 20)
    masks[0, 2:4, 5:15] = 1  # two rows from the third on, ten columns from the sixth on
    torch.testing.assert_close(describe_masks(masks), torch.tensor([[0.5, 0.3, 0.5, 0.2], [0.0, 0.0, 0.0, 0.0]]))


def test_cells_are_described_like_masks():
    masks = torch.eye(6).reshape(6, 2, 3)
    torch.testing.assert_close(describe_cells((2, 3), masks.device), describe_masks(masks))


def test_every_expression_counts_the_same_however_many_words_it_hides():
    torch.manual_seed(0)
    logits = torch.randn(3, 5, 7)
    hidden = torch.full((3, 5), NOT_HIDDEN)
    hidden[0, 1] = 3
    hidden[1, [0, 2, 4]] = torch.tensor([1, 2, 6])
    log_probabilities = logits.log_softmax(dim=-1)
    first = -log_probabilities[0, 1, 3]
    second = -(log_probabilities[1, 0, 1] + log_probabilities[1, 2, 2] + log_probabilities[1, 4, 6]) / 3
    torch.testing.assert_close(mask_grounding_loss(logits, hidden), (first + second + 0) / 3)


def test_the_head_reads_words_image_and_mask_but_no_padding(tiny_config):
    torch.manual_seed(0)
    text_config = copy.deepcopy(tiny_config.text_config)
    text_config._attn_implementation = "sdpa"
    head = MaskGroundingHead(text_config, image_widths=[24, 8], num_layers=2).eval()
    words, fine, coarse = torch.randn(2, 6, 32), torch.randn(2, 24, 2, 3), torch.randn(2, 8, 1, 2)
    embeddings = torch.randn(tiny_config.text_config.vocab_size, 32)
    is_word = torch.ones(2, 6, dtype=torch.long)
    is_word[:, 4:] = 0
    left, right = torch.zeros(2, 2, 16, 16)
    left[:, :, :8], right[:, :, 8:] = 1, 1

    with torch.no_grad():
        logits = head(words, is_word, [fine, coarse], left, embeddings)
        assert logits.shape == (2, 6, len(embeddings))
        padded = words.clone()
        padded[:, 4:] = 9.0
        torch.testing.assert_close(head(padded, is_word, [fine, coarse], left, embeddings)[:, :4], logits[:, :4])
        for changed in (
            head(words, is_word, [fine + 1, coarse], left, embeddings),
            head(words, is_word, [fine, coarse + 1], left, embeddings),
            head(words, is_word, [fine, coarse], right, embeddings),
            head(words + torch.randn(6, 32), is_word, [fine, coarse], left, embeddings),
        ):
            assert (changed - logits)[:, :4].abs().max() > 1e-4


def slow_alignment(loss, pixels, sentence, foreground, background):
    """The two terms of one sample as the docstring writes them, pair by pair."""
    scaled = lambda a, b: (a @ b / loss.temperature).exp()  # noqa: E731
    pairs = [(i, j) for i in foreground for j in foreground if i != j]
    to_pixels = [
        -torch.log(
            scaled(pixels[i], pixels[j])
            / (scaled(pixels[i], pixels[j]) + sum(scaled(pixels[i], pixels[b]) for b in background))
        )
        for i, j in pairs
    ]
    to_text = [
        -torch.log(
            scaled(sentence, pixels[i])
            / (scaled(sentence, pixels[i]) + sum(scaled(sentence, pixels[b]) for b in background))
        )
        for i in foreground
    ]
    return torch.stack(to_pixels).mean(), torch.stack(to_text).mean()


def test_the_alignment_loss_is_its_formula():
    torch.manual_seed(0)
    loss = AlignmentLoss(pixel_width=6, text_width=5, width=4, temperature=0.5, num_pixels=100)
    features, words = torch.randn(2, 6, 3, 4), torch.randn(2, 3, 5)
    is_word = torch.tensor([[1, 1, 1], [1, 1, 0]])
    masks = torch.zeros(2, 6, 8)
    masks[0, :4, :4] = 1  # four cells of 2 x 2
    masks[1, 2:6, 4:8] = 1
    masks[1, 0, 0] = 1  # a quarter of a cell: neither foreground nor background

    pixels, sentence = loss.embed(features, words, is_word)
    torch.testing.assert_close(pixels.norm(dim=-1), torch.ones(2, 12))
    expected = [
        slow_alignment(loss, pixels[0], sentence[0, 0], [0, 1, 4, 5], [2, 3, 6, 7, 8, 9, 10, 11]),
        slow_alignment(loss, pixels[1], sentence[1, 0], [6, 7, 10, 11], [1, 2, 3, 4, 5, 8, 9]),
    ]
    found = loss(features, words, is_word, masks)
    torch.testing.assert_close(found[0], (expected[0][0] + expected[1][0]) / 2)
    torch.testing.assert_close(found[1], (expected[0][1] + expected[1][1]) / 2)


@pytest.mark.parametrize("filled", [0.0, 1.0])
def test_an_image_without_foreground_or_background_adds_nothing(filled):
    loss = AlignmentLoss(pixel_width=6, text_width=5, width=4, temperature=0.1, num_pixels=8)
    features = torch.randn(1, 6, 4, 4, requires_grad=True)
    terms = loss(features, torch.randn(1, 3, 5), torch.ones(1, 3), torch.full((1, 8, 8), filled))
    torch.testing.assert_close(torch.stack(terms), torch.zeros(2))
    torch.stack(terms).sum().backward()
    assert torch.equal(features.grad, torch.zeros_like(features))


def test_info_nce_rises_with_negatives_and_falls_with_positives():
    low = info_nce(torch.tensor([5.0]), torch.tensor([-5.0, -5.0]))
    assert (
        low
        < info_nce(torch.tensor([5.0]), torch.tensor([5.0, -5.0]))
        < info_nce(torch.tensor([-5.0]), torch.tensor([5.0, -5.0]))
    )


def test_places_are_sampled_from_inside_alone():
    torch.manual_seed(0)
    inside = torch.rand(3, 50) > 0.5
    inside[2] = False
    inside[2, 7] = True
    places, counts = sample_places(inside, 10)
    assert counts.sum(dim=1).tolist() == [10, 10, 1]
    assert inside.gather(1, places)[counts].all()
    assert all(len(set(row.tolist())) == 10 for row in places)
    places, counts = sample_places(inside[2:], 10)
    assert places.tolist() == [[7]] and counts.all(), "no more than there are"


def test_each_loss_turns_on_alone_and_off_at_evaluation(tiny_config, batch):
    names = {
        "mask_grounding_loss_weight": {"mask_grounding"},
        "alignment_loss_weight": {"pixel_to_pixel", "pixel_to_text"},
    }
    for switch, terms in names.items():
        model = build(tiny_config, **{switch: 1.0}).train()
        output = model(**batch)
        assert output.loss_dict.keys() == {"bce", "dice"} | terms
        torch.testing.assert_close(output.loss, sum(output.loss_dict.values()), atol=1e-5, rtol=1e-5)
        assert model.eval()(**batch).loss_dict.keys() == {"bce", "dice"}
    plain = build(tiny_config)
    assert not [name for name, _ in plain.named_parameters() if name.startswith("auxiliary_losses")]
    assert plain.train()(**batch).loss_dict.keys() == {"bce", "dice"}


def test_weights_scale_their_terms(tiny_config, batch):
    once, twice = (
        build(tiny_config, **{**BOTH, "mask_grounding_loss_weight": weight, "alignment_loss_weight": weight})
        for weight in (1.0, 2.0)
    )
    for model in (once, twice):
        model.train()
    torch.manual_seed(2)
    first = once(**batch).loss_dict
    torch.manual_seed(2)
    second = twice(**batch).loss_dict
    for name in ("mask_grounding", "pixel_to_pixel", "pixel_to_text"):
        torch.testing.assert_close(second[name], 2 * first[name], rtol=1e-4, atol=1e-4)


def test_every_trained_parameter_gets_a_gradient(tiny_config, batch):
    for changes in (
        {},
        {"alignment_module": False},
        {"mask_grounding_loss_weight": 1.0},
        {"alignment_loss_weight": 1.0},
        BOTH,
    ):
        model = build(tiny_config, **changes).train()
        model(**batch).loss.backward()
        missing = [name for name, each in model.named_parameters() if each.requires_grad and each.grad is None]
        assert not missing, (changes, missing)


def test_the_alignment_module_is_a_switch(tiny_config, batch):
    model = build(tiny_config, alignment_module=False)
    assert not [name for name, _ in model.named_parameters() if ".alignment." in name]
    assert torch.isfinite(model(**batch).loss)


def test_hidden_words_pass_neither_the_first_stage_nor_the_decoders_again(tiny_config, batch):
    model = build(tiny_config, **BOTH).train()
    calls = []
    watched = {
        "swin 0": model.encoder.image_encoder.encoder.layers[0].blocks[0],
        "swin 1": model.encoder.image_encoder.encoder.layers[1].blocks[0],
        "pyramid 0": model.encoder.stages[0].alignment,
        "pyramid 3": model.encoder.stages[3].alignment,
        "pixels": model.pixel_decoder,
        "masks": model.mask_decoder,
    }
    for name, module in watched.items():
        module.register_forward_hook(lambda *_, name=name: calls.append(name))
    model(**batch)
    counts = {name: calls.count(name) for name in watched}
    assert counts == {"swin 0": 1, "swin 1": 2, "pyramid 0": 1, "pyramid 3": 2, "pixels": 1, "masks": 1}


def test_words_can_be_named_from_any_stages(tiny_config, batch):
    for stages in ((0,), (2,), (-4,), (3, 1), (-1, 3)):
        model = build(tiny_config, **{**BOTH, "mask_grounding_stages": stages}).train()
        model(**batch).loss.backward()
        missing = [name for name, each in model.named_parameters() if each.requires_grad and each.grad is None]
        assert not missing, (stages, missing)


def test_gradient_checkpointing_changes_no_loss(tiny_config, batch):
    losses = []
    for checkpointing in (False, True):
        model = build(tiny_config, **BOTH).train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        torch.manual_seed(2)
        loss = model(**batch).loss
        loss.backward()
        losses.append((loss, model.get_input_embeddings().weight.grad))
    torch.testing.assert_close(losses[0], losses[1])


def test_losses_survive_autocast(tiny_config, batch):
    model = build(tiny_config, **BOTH).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(**batch)
    output.loss.backward()
    assert all(torch.isfinite(term) for term in output.loss_dict.values())


def test_any_attention_names_the_same_words(tiny_config, batch):
    model = build(tiny_config, **BOTH).eval()
    inputs = batch["pixel_values"], batch["masked_input_ids"], batch["attention_mask"], batch["labels"]
    with torch.no_grad():
        fast = model.name_words(*inputs)
        model.set_attn_implementation("eager")
        plain = model.name_words(*inputs)
    real = batch["attention_mask"].bool()
    torch.testing.assert_close(plain[real], fast[real], atol=1e-4, rtol=1e-4)


def test_words_can_be_named_after_training_too(tiny_config, batch):
    model = build(tiny_config, **BOTH).eval()
    with torch.no_grad():
        logits = model.name_words(
            batch["pixel_values"], batch["masked_input_ids"], batch["attention_mask"], batch["labels"]
        )
    assert logits.shape == (*batch["input_ids"].shape, tiny_config.text_config.vocab_size)
    with pytest.raises(ValueError, match="`mask_grounding_loss_weight` is 0"):
        build(tiny_config).name_words(
            batch["pixel_values"], batch["input_ids"], batch["attention_mask"], batch["labels"]
        )


def test_heads_are_saved_and_can_be_left_out(tiny_config, batch, tmp_path):
    model = build(tiny_config, **BOTH)
    model.save_pretrained(tmp_path)
    again = MagNetForReferringSegmentation.from_pretrained(tmp_path)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    plain, report = MagNetForReferringSegmentation.from_pretrained(
        tmp_path, mask_grounding_loss_weight=0.0, alignment_loss_weight=0.0, output_loading_info=True
    )
    assert not report["unexpected_keys"] and not report["missing_keys"]
    with torch.no_grad():
        torch.testing.assert_close(plain.eval()(**batch).logits, again.eval()(**batch).logits)


def test_training_without_hidden_words_is_named(tiny_config, batch):
    del batch["masked_input_ids"]
    with pytest.raises(ValueError, match=r"masked_input_ids.*mask_grounding_loss_weight=2\.0.*mask_probability"):
        build(tiny_config, **BOTH).train()(**batch)


@pytest.mark.parametrize(
    "field, value",
    [
        ("mask_grounding_loss_weight", -1.0),
        ("alignment_loss_weight", float("nan")),
        ("mask_grounding_layers", 0),
        ("mask_grounding_stages", (1, 4)),
        ("mask_grounding_stages", ()),
        ("alignment_temperature", 0.0),
        ("alignment_pixels", 1),
    ],
)
def test_impossible_numbers_are_named(tiny_config, field, value):
    with pytest.raises(Exception, match=field):
        MagNetConfig.from_dict({**tiny_config.to_dict(), field: value})
