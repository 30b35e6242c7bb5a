"""MagNet as users and Trainer see it: one contract, any size, any number of expressions, the same numbers every way."""

import copy

import pytest
import torch
from tiny_parts import loud
from transformers.models.swin.modeling_swin import SwinLayer

from hf_ris import MagNetConfig, MagNetForReferringSegmentation
from hf_ris.modeling import magnet_decoders, modeling_trainable_segmentation
from hf_ris.modeling.grounding_losses import confidence_loss, dice_loss, mask_loss
from hf_ris.modeling.layers import average_pool, cell_centres
from hf_ris.modeling.masks import enlarge_logits
from hf_ris.modeling.modeling_magnet import FusionStage


@pytest.fixture
def inputs(tiny_config) -> dict[str, torch.Tensor]:
    """Two images with two expressions each, of different lengths."""
    generator = torch.Generator().manual_seed(0)
    input_ids = torch.randint(5, tiny_config.text_config.vocab_size, (4, 9), generator=generator)
    attention_mask = (torch.arange(9) < torch.tensor([[9], [4], [6], [3]])).long()
    return {
        "pixel_values": torch.randn(2, 3, 64, 96, generator=generator),
        "input_ids": input_ids * attention_mask,
        "attention_mask": attention_mask,
    }


def with_config(model: MagNetForReferringSegmentation, **changes) -> MagNetForReferringSegmentation:
    """The same weights under a changed configuration."""
    config = copy.deepcopy(model.config)
    for name, value in changes.items():
        setattr(config, name, value)
    changed = MagNetForReferringSegmentation(config).eval()
    changed.load_state_dict(model.state_dict())
    return changed


@torch.no_grad()
def test_logits_are_per_expression_at_stride_four(tiny_model, inputs):
    output = tiny_model(**inputs)

    assert output.logits.shape == (4, 16, 24)
    assert output.class_logits.shape == (4, 2)
    assert output.loss is None
    assert not torch.allclose(output.logits[0], output.logits[1])


@torch.no_grad()
def test_batch_equals_one_by_one(tiny_model, inputs):
    batched = tiny_model(**inputs).logits
    for index in range(4):
        single = tiny_model(
            inputs["pixel_values"][index // 2, None],
            inputs["input_ids"][index, None],
            inputs["attention_mask"][index, None],
        )
        torch.testing.assert_close(single.logits[0], batched[index], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_what_does_not_depend_on_words_runs_once_per_image(tiny_model, inputs):
    """Patch embedding, the first stage's blocks and the pixels' side of its fusions see B rows, not B·k."""
    rows: dict[str, int] = {}
    stage = tiny_model.encoder.stages[0]
    watched = {
        "embeddings": tiny_model.encoder.image_encoder.embeddings.patch_embeddings.projection,
        "first blocks": tiny_model.encoder.image_encoder.encoder.layers[0].blocks[0].layernorm_before,
        "pixel queries": stage.image_fusion.query,
        "image role": stage.image_fusion.image_role,
        "pooled contexts": stage.alignment.contexts[-1].reduce,
    }
    hooks = [
        module.register_forward_hook(lambda _, inputs, __, name=name: rows.__setitem__(name, inputs[0].shape[0]))
        for name, module in watched.items()
    ]
    tiny_model(**inputs)
    for hook in hooks:
        hook.remove()

    assert rows == dict.fromkeys(watched, 2)


@torch.no_grad()
def test_expressions_in_parts_give_the_same(tiny_model, inputs, monkeypatch):
    """As many at once as memory allows: here all, then one of each image."""
    seen = []
    hook = tiny_model.pixel_decoder.register_forward_hook(lambda _, __, output: seen.append(len(output[0])))
    together = tiny_model(**inputs)
    monkeypatch.setattr(modeling_trainable_segmentation, "PIXELS_PER_PASS", 1)
    in_parts = tiny_model(**inputs)
    hook.remove()

    assert seen == [4, 2, 2]
    torch.testing.assert_close(in_parts.logits, together.logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(in_parts.class_logits, together.class_logits, atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("size", [(31, 45), (96, 64), (20, 130)])
def test_any_input_size(tiny_model, inputs, size):
    """What does not divide into patches is filled up with zeros to the right and below."""
    pixels = torch.randn(2, 3, *size)
    padded = torch.nn.functional.pad(pixels, (0, -size[1] % 4, 0, -size[0] % 4))
    logits, expected = (
        tiny_model(each, inputs["input_ids"], inputs["attention_mask"]).logits for each in (pixels, padded)
    )

    assert logits.shape == (4, -(-size[0] // 4), -(-size[1] // 4))
    assert logits.isfinite().all() and logits.std() > 0.1
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("size", [(64, 96), (31, 45)])
def test_absolute_positions_stretch_to_any_size(tiny_config, inputs, size):
    config = copy.deepcopy(tiny_config)
    config.backbone_config.use_absolute_embeddings = True
    model = loud(MagNetForReferringSegmentation(config))
    pixels = torch.randn(2, 3, *size)
    embeddings = model.encoder.image_encoder.embeddings

    def logits(table: torch.Tensor) -> torch.Tensor:
        embeddings.position_embeddings.copy_(table)
        return model(pixels, inputs["input_ids"], inputs["attention_mask"]).logits

    table = embeddings.position_embeddings.clone()
    stretched, uniform = logits(table), logits(table[:, :1].expand_as(table))
    assert stretched.shape == (4, -(-size[0] // 4), -(-size[1] // 4))
    assert (stretched - uniform).abs().max() > 0.1, "positions differ"
    without = logits(torch.zeros_like(table))
    # One position for all, however far it is stretched, is a shift of every patch.
    embeddings.norm.bias.add_(table[0, 0])
    torch.testing.assert_close(logits(torch.zeros_like(table)), uniform, atol=1e-4, rtol=1e-4)
    assert (without - uniform).abs().max() > 0.1


@torch.no_grad()
def test_small_images_leave_the_model_unchanged(tiny_model, inputs):
    """Swin of transformers shrinks its windows for good when it meets a small image; driven block by block it does not."""
    before = tiny_model(**inputs).logits
    tiny_model(torch.randn(2, 3, 12, 12), inputs["input_ids"], inputs["attention_mask"])

    assert torch.equal(tiny_model(**inputs).logits, before)


@torch.no_grad()
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("size", [(8, 12), (5, 6), (3, 2)])
def test_swins_blocks_compute_what_transformers_do(tiny_model, size, attention):
    """Windows that fit, that zeros fill up, and that are larger than the map; shifted and not."""
    tiny_model = copy.deepcopy(tiny_model)
    tiny_model.set_attn_implementation(attention)
    pixels = torch.randn(2, size[0] * size[1], tiny_model.config.stage_widths[0])
    block = tiny_model.encoder.image_encoder.encoder.layers[0].blocks[0]
    for shift in (0, block.window_size // 2):
        block.shift_size = shift
        expected, _ = SwinLayer.forward(block, pixels, size, always_partition=True)
        torch.testing.assert_close(block(pixels, size)[0], expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_binary_mask_does_not_depend_on_padding(tiny_model, inputs):
    padding = torch.zeros(4, 7, dtype=torch.long)
    padded = {
        "pixel_values": inputs["pixel_values"],
        "input_ids": torch.cat([inputs["input_ids"], padding], dim=1),
        "attention_mask": torch.cat([inputs["attention_mask"], padding], dim=1),
    }
    torch.testing.assert_close(tiny_model(**padded).logits, tiny_model(**inputs).logits, atol=1e-4, rtol=1e-4)

    published = with_config(tiny_model, language_attention_mask="published")
    difference = (published(**padded).logits - published(**inputs).logits).abs().max()
    assert difference > 0.05, "in the published network padding speaks"


@torch.no_grad()
def test_sdpa_equals_eager(tiny_model, inputs):
    eager = copy.deepcopy(tiny_model)
    eager.set_attn_implementation("eager")

    assert tiny_model.config._attn_implementation == "sdpa"
    torch.testing.assert_close(eager(**inputs).logits, tiny_model(**inputs).logits, atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("language_attention_mask", ["binary", "published"])
def test_autocast_stays_finite_and_close(tiny_model, inputs, language_attention_mask):
    model = with_config(tiny_model, language_attention_mask=language_attention_mask)
    expected = model(**inputs).logits
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(**inputs).logits

    assert logits.isfinite().all()
    assert torch.corrcoef(torch.stack([logits.float().flatten(), expected.flatten()]))[0, 1] > 0.9


@torch.no_grad()
@pytest.mark.parametrize("language_attention_mask", ["binary", "published"])
def test_half_precision_weights_run(tiny_model, inputs, language_attention_mask):
    model = with_config(tiny_model, language_attention_mask=language_attention_mask).to(torch.bfloat16)
    logits = model(**{**inputs, "pixel_values": inputs["pixel_values"].to(torch.bfloat16)}).logits

    assert logits.dtype == torch.float32, "masks are read in full precision"
    assert logits.isfinite().all()


def test_save_and_load_give_the_same_logits(tiny_model, inputs, tmp_path):
    tiny_model.save_pretrained(tmp_path)
    loaded, report = MagNetForReferringSegmentation.from_pretrained(tmp_path, output_loading_info=True)

    assert not any(report.values()), report
    with torch.no_grad():
        assert torch.equal(loaded.eval()(**inputs).logits, tiny_model(**inputs).logits)


def test_every_trainable_parameter_receives_a_gradient(tiny_config, inputs):
    """Training on several processes stops at a parameter that never does."""
    model = MagNetForReferringSegmentation(tiny_config).train()
    model(**inputs, labels=torch.ones(4, 64, 96)).loss.backward()

    assert not [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]


@torch.no_grad()
@pytest.mark.parametrize("num_heads", [1, 2, 4])
def test_heads_reach_the_pooled_contexts(tiny_config, num_heads):
    """Each head attends by itself, in the pyramid as in the full fusion; scores are scaled by the full width."""
    config = copy.deepcopy(tiny_config)
    config.fusion_num_heads = [num_heads] * 4
    torch.manual_seed(0)
    stage = FusionStage(config, stage=2)
    fusions = [stage.image_fusion, *(context.fusion for context in stage.alignment.contexts)]
    assert len(fusions) == 5
    words = torch.randn(1, 7, config.text_config.hidden_size)
    is_word = torch.arange(7)[None] < 5
    for fusion in fusions:
        torch.nn.init.normal_(fusion.query_norm.weight, std=3.0)
        width = fusion.query.out_features
        pixels = torch.randn(1, 9, width)
        query = fusion.query_norm(fusion.query(pixels))[0]
        key, value = fusion.key(words)[0, :5], fusion.value(words)[0, :5]
        parts = [
            (query[:, head] @ key[:, head].T / width**0.5).softmax(dim=1) @ value[:, head]
            for head in torch.arange(width).chunk(num_heads)
        ]
        attended = fusion.output_norm(fusion.output(torch.cat(parts, dim=1)))
        image_role = torch.nn.functional.gelu(fusion.image_role(pixels[0]))
        expected = torch.nn.functional.gelu(fusion.projection(image_role * attended))
        torch.testing.assert_close(fusion(pixels, words, is_word)[0], expected, atol=1e-6, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_words_gather_normed_values_by_normed_keys(tiny_config, dtype):
    """The plain formula, with keys and values of every pixel; biases, which the norms remove, do not spoil small weights."""
    torch.manual_seed(0)
    fusion = FusionStage(tiny_config, stage=1).word_fusion
    words, pixels = torch.randn(4, 7, tiny_config.text_config.hidden_size), 3 + torch.randn(2, 30, 32)
    for layer in (fusion.key, fusion.value):
        torch.nn.init.normal_(layer.bias, std=20 * layer.weight.std())
    is_word = torch.ones(4, 7, dtype=torch.bool)

    def normed(layer):
        return torch.nn.functional.instance_norm(layer(pixels).mT, eps=fusion.eps).mT.repeat_interleave(2, dim=0)

    scores = fusion.query(words) @ normed(fusion.key).mT * fusion.scaling
    gathered = fusion.output(scores.softmax(dim=-1) @ normed(fusion.value))
    normed_words = torch.nn.functional.instance_norm(gathered.mT, eps=fusion.eps).mT
    expected = fusion.activation(fusion.projection(fusion.activation(fusion.word_role(words)) * normed_words))
    found = fusion.to(dtype)(words.to(dtype), pixels.to(dtype), is_word)

    assert found.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 0.05
    torch.testing.assert_close(found.float(), expected, rtol=0, atol=tolerance * expected.abs().max().item())


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("language_attention_mask", ["binary", "published"])
def test_a_row_without_a_word_is_finite(tiny_model, inputs, attention, language_attention_mask):
    model = with_config(tiny_model, language_attention_mask=language_attention_mask).train()
    model.set_attn_implementation(attention)
    inputs["attention_mask"][1] = 0
    output = model(**inputs, labels=torch.ones(4, 64, 96))
    output.loss.backward()

    assert output.logits.isfinite().all() and output.loss.isfinite()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_new_words_can_be_added(tiny_model, inputs):
    model = copy.deepcopy(tiny_model)
    model.resize_token_embeddings(model.config.text_config.vocab_size + 3)
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, tiny_model(**inputs).logits)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (6, 6), (16, 9)])
def test_average_pool_is_torchs(size):
    image_map = torch.randn(2, 3, 10, 7)
    expected = torch.nn.functional.adaptive_avg_pool2d(image_map, size)
    torch.testing.assert_close(average_pool(image_map, size), expected)


def test_loss_is_the_sum_of_its_named_terms(tiny_model, inputs):
    labels = torch.zeros(4, 64, 96)
    output = tiny_model(**inputs, labels=labels)

    assert set(output.loss_dict) == {"bce", "dice"}
    torch.testing.assert_close(output.loss.detach(), sum(output.loss_dict.values()))


def test_the_last_mask_alone_may_be_supervised(tiny_model, inputs):
    labels = torch.zeros(4, 64, 96)
    labels[:, 8:40, 16:60] = 1
    output = with_config(tiny_model, deep_supervision=False)(**inputs, labels=labels)
    bce, dice = mask_loss(output.logits, labels)
    expected = {"bce": tiny_model.config.bce_loss_weight * bce, "dice": tiny_model.config.dice_loss_weight * dice}
    torch.testing.assert_close(output.loss_dict, {name: term.detach() for name, term in expected.items()})

    every = tiny_model(**inputs, labels=labels, output_hidden_states=True)
    terms = [mask_loss(logits, labels)[0].item() for logits in (*every.auxiliary_logits, every.logits)]
    assert len(terms) == tiny_model.config.decoder_layers + 1
    assert every.loss_dict["bce"].item() == pytest.approx(
        tiny_model.config.bce_loss_weight * sum(terms) / len(terms), rel=1e-4
    )


def test_learns_a_handful_of_samples(tiny_config, inputs):
    """A red and a blue square on each image: after a few steps the word decides which one is masked."""
    torch.manual_seed(0)
    config = copy.deepcopy(tiny_config)
    config.text_config.hidden_dropout_prob = config.text_config.attention_probs_dropout_prob = 0.0
    config.backbone_config.drop_path_rate = 0.0
    model = MagNetForReferringSegmentation(config).train()
    pixel_values = torch.zeros(2, 3, 64, 64)
    labels = torch.zeros(4, 64, 64)
    for image, (red, blue) in enumerate([((4, 4), (36, 36)), ((36, 4), (4, 36))]):
        for expression, (channel, (top, left)) in enumerate([(0, red), (2, blue)]):
            pixel_values[image, channel, top : top + 24, left : left + 24] = 2
            labels[2 * image + expression, top : top + 24, left : left + 24] = 1
    batch = {
        "pixel_values": pixel_values,
        "input_ids": torch.tensor([[2, 11, 3], [2, 9, 3]] * 2),
        "attention_mask": torch.ones(4, 3, dtype=torch.long),
    }
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(80):
        optimizer.zero_grad()
        model(**batch, labels=labels).loss.backward()
        optimizer.step()

    with torch.no_grad():
        predicted = enlarge_logits(model.eval()(**batch).logits, labels.shape[-2:]) > 0
    truth = labels > 0
    ious = (predicted & truth).flatten(1).sum(1) / (predicted | truth).flatten(1).sum(1)
    assert ious.min() > 0.7, ious


def test_mask_losses_by_hand():
    logits = torch.tensor([[[20.0, -20.0], [20.0, -20.0]]])
    labels = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])

    # p = (1, 0, 1, 0), y = (1, 0, 0, 0): 1 - (2·1 + 1) / (2 + 1 + 1), and one pixel in four wrong by 20 nats.
    assert dice_loss(logits, labels).item() == pytest.approx(0.25, abs=1e-5)
    assert mask_loss(logits, labels)[0].item() == pytest.approx(5.0, abs=1e-4)
    assert mask_loss(logits, (logits > 0).float())[1].item() == pytest.approx(0.0, abs=1e-5)


def test_loss_is_that_of_the_mask_that_is_used():
    logits = torch.tensor([[[200.0, -600.0], [200.0, -600.0]]])  # zero at a quarter of the way: corners are aligned
    labels = (torch.linspace(0, 1, 101) < 0.25).expand(1, 101, 101)

    bce, dice = mask_loss(logits, labels)
    assert bce < 0.01
    assert dice < 0.01
    assert mask_loss(logits, labels.roll(3, dims=2))[0] > 10 * bce


def test_numbers_that_do_not_fit_are_named(tiny_model, inputs):
    with pytest.raises(ValueError, match=r"input_ids.*2 images.*3 rows"):
        tiny_model(inputs["pixel_values"], inputs["input_ids"][:3], inputs["attention_mask"][:3])
    with pytest.raises(ValueError, match=r"0 images"):
        tiny_model(inputs["pixel_values"][:0], inputs["input_ids"])
    with pytest.raises(ValueError, match=r"labels.*4 expressions, got shape \(3, 64, 96\)"):
        tiny_model(**inputs, labels=torch.zeros(3, 64, 96))
    with pytest.raises(ValueError, match="`labels` must be between 0 and 1, got values from 0 to 255"):
        tiny_model(**inputs, labels=torch.full((4, 64, 96), 255).tril().byte())
    with pytest.raises(ValueError, match="`labels` must be between 0 and 1, got values from nan"):
        tiny_model(**inputs, labels=torch.full((4, 64, 96), torch.nan))
    long = torch.ones(4, 65, dtype=torch.long)
    with pytest.raises(ValueError, match=r"`input_ids` must hold at most 64 tokens .*, got 65"):
        tiny_model(inputs["pixel_values"], long)
    with pytest.raises(TypeError, match="attentionmask"):
        tiny_model(inputs["pixel_values"], inputs["input_ids"], attentionmask=inputs["attention_mask"])


@torch.no_grad()
def test_hidden_states_and_tuples_as_in_any_model(tiny_model, inputs):
    plain = tiny_model(**inputs)
    assert plain.hidden_states is None and plain.auxiliary_logits is None
    output = tiny_model(**inputs, output_hidden_states=True)
    assert [tuple(states.shape) for states in output.hidden_states] == [
        (4, 16, 16, 24),
        (4, 32, 8, 12),
        (4, 64, 4, 6),
        (4, 128, 2, 3),
    ]
    by_configuration = with_config(tiny_model, output_hidden_states=True)(**inputs)
    for first, second in zip(output.hidden_states, by_configuration.hidden_states, strict=True):
        assert torch.equal(first, second)
    torch.testing.assert_close(output.logits, plain.logits, atol=1e-5, rtol=1e-5)

    for as_tuple in (tiny_model(**inputs, return_dict=False), with_config(tiny_model, return_dict=False)(**inputs)):
        assert isinstance(as_tuple, tuple)
        assert torch.equal(as_tuple[0], plain.logits)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"language_attention_mask": "maybe"}, "language_attention_mask"),
        ({"text_config": {"model_type": "bert", "num_hidden_layers": 5}}, "num_hidden_layers"),
        ({"fusion_num_heads": [1, 1]}, "fusion_num_heads"),
        ({"fusion_num_heads": [3, 1, 1, 1]}, "fusion_num_heads"),
        ({"fusion_num_heads": [64, 1, 1, 1]}, "pooled contexts"),
        ({"pyramid_grids": [0, 2]}, "pyramid_grids"),
        ({"backbone_config": {"model_type": "resnet"}}, "backbone_config"),
        ({"hidden_dim": 100}, "group_norm_groups"),
        ({"decoder_memory_levels": 5}, "decoder_memory_levels"),
    ],
)
def test_impossible_configurations_are_refused_by_name(changes, named):
    with pytest.raises(Exception, match=named):
        MagNetConfig(**changes)


@pytest.mark.slow
@torch.no_grad()
def test_the_published_size_runs_at_the_published_resolution():
    model = MagNetForReferringSegmentation(MagNetConfig(language_attention_mask="published")).eval()
    output = model(torch.randn(1, 3, 480, 480), torch.randint(1, 30000, (2, 20)))

    assert output.logits.shape == (2, 120, 120)
    assert output.logits.isfinite().all()


def test_both_ways_of_sampling_agree():
    """Maps, which have gradients, and table look-ups, which are faster: places far outside and on the rim included."""
    sizes = [(3, 2), (5, 6), (1, 4)]
    cells = sum(height * width for height, width in sizes)
    generator = torch.Generator().manual_seed(0)
    value = torch.randn(2, cells, 4, 8, generator=generator)
    offsets = torch.randn(2, cells, 4, 3, 2, 2, generator=generator) * 3
    offsets[0, 0] = 0.0
    offsets[1, 1] = 100.0
    weights = torch.rand(2, cells, 4, 3, 2, generator=generator)
    centres = torch.cat([cell_centres(size, value.device) for size in sizes])

    samples = offsets, weights, centres
    expected = magnet_decoders.sample_maps(value, sizes, *samples)
    found = magnet_decoders.RowSampler(value, sizes, points=2)(*samples)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_the_pixel_decoder_in_pieces_gives_the_same(tiny_model, inputs, monkeypatch):
    """Without gradients, a few positions of both images at a time; with them, all at once."""
    monkeypatch.setattr(magnet_decoders, "POSITIONS_PER_PIECE", 14)
    expected = tiny_model(**inputs).logits
    with torch.no_grad():
        torch.testing.assert_close(tiny_model(**inputs).logits, expected, atol=1e-4, rtol=1e-4)


def test_initialisation_reaches_modules_without_parameters_of_their_own(tiny_config):
    """transformers would leave these to the initialisation of their linear layers."""
    model = MagNetForReferringSegmentation(tiny_config)

    attention = model.pixel_decoder.layers[0].attention
    assert torch.equal(attention.sampling_offsets.bias, attention.initial_offsets())
    assert all(not stage.word_gate.outer.weight.any() for stage in model.encoder.stages)


def test_initialisation_leaves_loaded_weights_alone(tiny_model, tmp_path):
    assert all(stage.word_gate.outer.weight.all() for stage in tiny_model.encoder.stages), "a new model's are zero"
    tiny_model.save_pretrained(tmp_path)

    loaded = MagNetForReferringSegmentation.from_pretrained(tmp_path)

    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in tiny_model.state_dict().items())


@torch.no_grad()
def test_masks_at_stride_two_start_as_the_enlarged_features(tiny_model, inputs, tmp_path):
    """Of a model trained at stride 4, loaded at stride 2; then the details come from the image."""
    tiny_model.save_pretrained(tmp_path)
    model = MagNetForReferringSegmentation.from_pretrained(tmp_path, mask_stride=2).eval()
    features = torch.randn(4, tiny_model.config.hidden_dim, 16, 24)
    details = model.image_details(inputs["pixel_values"]).repeat_interleave(2, dim=0)

    enlarged = torch.nn.functional.interpolate(features, size=(32, 48), mode="bilinear", align_corners=True)
    torch.testing.assert_close(model.mask_details(features, details), enlarged)
    assert model(**inputs).logits.shape == (4, 32, 48)
    torch.nn.init.normal_(model.mask_details.output.weight)
    assert not torch.allclose(model.mask_details(features, details), model.mask_details(features, details.flip(0)))
    model.save_pretrained(tmp_path)
    again = MagNetForReferringSegmentation.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(again(**inputs).logits, model(**inputs).logits)


def test_a_model_learns_whether_its_masks_are_right(tiny_config, processor, inputs, monkeypatch):
    config = MagNetConfig.from_dict({**tiny_config.to_dict(), "confidence_loss_weight": 0.5, "mask_stride": 2})
    torch.manual_seed(0)
    model = MagNetForReferringSegmentation(config).train()
    labels = torch.zeros(4, 64, 96)
    labels[:2, 10:40, 20:60] = 1.0
    outputs = model(**inputs, labels=labels)
    assert outputs.confidence.shape == (4,) and set(outputs.loss_dict) == {"bce", "dice", "confidence"}
    outputs.loss.backward()
    assert model.mask_decoder.class_head.weight.grad.abs().sum() > 0

    outputs = model.eval()(**inputs)
    monkeypatch.setattr(modeling_trainable_segmentation, "PIXELS_PER_PASS", 1)
    with torch.no_grad():
        torch.testing.assert_close(model(**inputs).confidence, outputs.confidence, atol=1e-4, rtol=1e-4)
        assert (
            model.bfloat16()(**{**inputs, "pixel_values": inputs["pixel_values"].bfloat16()}).confidence.dtype
            == torch.float32
        )
    answers = processor.post_process_referring_segmentation(outputs, [(64, 96)] * 4, threshold=0.0)
    assert [answer["score"] for answer in answers] == pytest.approx(outputs.confidence.tolist())
    nothing = processor.post_process_referring_segmentation(outputs, [(64, 96)] * 4, threshold=1.0)
    assert [answer["score"] for answer in nothing] == [0.0] * 4


def test_a_confident_model_is_punished_where_its_mask_is_wrong():
    mask = torch.full((8, 8), -5.0)
    mask[2:6, 2:6] = 5.0
    right, loose, several, nothing = torch.zeros(4, 8, 8)
    right[2:6, 2:6], loose[:3, :3], several[2:6, 2:6] = 1.0, 1.0, 0.5
    losses = [
        float(confidence_loss(torch.tensor([3.0]), mask[None], labels[None]))
        for labels in (right, loose, several, nothing)
    ]
    assert losses == pytest.approx([0.0486, 3.0486, 3.0486, 3.0486], abs=1e-4)
