"""MagNet's processor and the shared parts below it: images, expressions, masks."""

import base64
import functools
import http.server
import logging
import struct
import threading
import zlib
from io import BytesIO
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from hf_ris import MagNetImageProcessor, MagNetProcessor
from hf_ris.modeling import without_torch
from hf_ris.modeling.without_torch import load_image, mask_to_box, mask_to_rle, rle_to_mask


def encode(image: Image.Image, file_format: str = "PNG", **options) -> bytes:
    buffer = BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


# Images


def test_every_source_gives_the_same_image(images, tmp_path):
    image = images[0]
    path = tmp_path / "image.png"
    image.save(path)
    text = base64.b64encode(path.read_bytes()).decode()
    pixels = np.asarray(image)
    sources = [
        image,
        str(path),
        path,
        path.read_bytes(),
        text,
        f"data:image/png;base64,{text}",
        pixels,
        pixels.transpose(2, 0, 1),
        torch.from_numpy(pixels.copy()),
        torch.from_numpy(pixels.transpose(2, 0, 1) / 255.0),
        pixels.astype(np.int64),
        (pixels / 255.0).astype(np.float32),
        pixels.astype(np.uint16) * 257,
        pixels.astype(np.float32),
        torch.from_numpy(pixels.copy()).double(),
        BytesIO(path.read_bytes()),
        path.as_uri(),
    ]
    for source in sources:
        loaded = load_image(source)
        assert loaded.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(loaded), pixels)


def test_url(images, tmp_path, monkeypatch):
    images[0].save(tmp_path / "image.png")
    length = (tmp_path / "image.png").stat().st_size

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    try:
        np.testing.assert_array_equal(np.asarray(load_image(f"{address}/image.png")), np.asarray(images[0]))
        with pytest.raises(ValueError, match="`image` could not be fetched"):
            load_image(f"{address}/missing.png")
        monkeypatch.setattr(without_torch, "MAX_DOWNLOAD_BYTES", length)
        assert load_image(f"{address}/image.png").size == images[0].size
        monkeypatch.setattr(without_torch, "MAX_DOWNLOAD_BYTES", length - 1)
        with pytest.raises(ValueError, match=f"`image` .*longer than the {length - 1} bytes allowed"):
            load_image(f"{address}/image.png")
    finally:
        server.shutdown()
        server.server_close()


def test_a_download_ends_in_time_as_a_whole(images):
    """A byte each tenth of a second never lets a socket time out."""

    class Drip(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            try:
                self.send_response(200)
                self.end_headers()
                while not done.wait(0.1):
                    self.wfile.write(b"x")
            except OSError:
                pass

        def log_message(self, *_):
            pass

    done = threading.Event()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Drip)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with pytest.raises(ValueError, match=r"`image` could not be fetched .*longer than the 0.5 seconds allowed"):
            load_image(f"http://127.0.0.1:{server.server_port}/image.png", timeout=0.5)
    finally:
        done.set()
        server.shutdown()
        server.server_close()


def test_exif_orientation_is_applied(images):
    exif = Image.Exif()
    exif[0x0112] = 6  # taken with the camera turned: shown a quarter turn clockwise
    turned = load_image(encode(images[0], exif=exif))
    np.testing.assert_array_equal(np.asarray(turned), np.rot90(np.asarray(images[0]), k=-1))


@pytest.mark.parametrize(
    "image, expected",
    [
        (Image.new("L", (4, 3), 100), (100, 100, 100)),
        (Image.new("1", (4, 3), 1), (255, 255, 255)),
        (Image.new("RGB", (4, 3), (10, 20, 30)).quantize(2), (10, 20, 30)),
        (Image.new("RGBA", (4, 3), (200, 0, 0, 0)), (255, 255, 255)),
        (Image.new("RGBA", (4, 3), (200, 0, 0, 255)), (200, 0, 0)),
        (Image.new("LA", (4, 3), (0, 0)), (255, 255, 255)),
        (Image.new("La", (4, 3), (0, 0)), (255, 255, 255)),
        (Image.fromarray(np.full((3, 4), 51400, np.uint16)), (200, 200, 200)),
        (Image.new("I", (4, 3), 51400), (200, 200, 200)),
        (Image.new("F", (4, 3), 0.4), (102, 102, 102)),
        (Image.new("F", (4, 3), 102), (102, 102, 102)),
        (Image.new("CMYK", (4, 3), (0, 255, 255, 0)), (255, 0, 0)),
    ],
    ids=lambda value: value.mode if isinstance(value, Image.Image) else "",
)
def test_colour_modes(image, expected):
    loaded = load_image(image)
    assert loaded.mode == "RGB" and loaded.size == (4, 3)
    assert loaded.getpixel((1, 1)) == expected


def test_palette_with_transparency_is_laid_over_white():
    image = Image.new("P", (4, 3), 0)
    image.putpalette([200, 0, 0, 0, 0, 200])
    loaded = load_image(encode(image, transparency=0))
    assert loaded.getpixel((0, 0)) == (255, 255, 255)


def test_sixteen_bit_png_is_scaled():
    values = np.linspace(0, 65535, 12).astype(np.uint16).reshape(3, 4)
    loaded = np.asarray(load_image(encode(Image.fromarray(values))))
    np.testing.assert_allclose(loaded[..., 0], values / 257, atol=0.51)


def test_transparent_grey_of_sixteen_bits_is_white():
    values = np.array([[0, 64764], [64764, 30000]], np.uint16)
    loaded = np.asarray(load_image(encode(Image.fromarray(values), transparency=64764)))
    assert (loaded[..., 0] == [[0, 255], [255, 117]]).all()


def huge_png() -> bytes:
    """A few bytes that claim to be 60,000 x 60,000 pixels."""
    chunks = [b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0), b"IDAT"]
    packed = [struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


@pytest.mark.parametrize(
    "source, message",
    [
        (None, "NoneType"),
        (3, "int"),
        ("no/such/file.png", "no/such/file.png"),
        ("", "neither an existing file"),
        (b"", "not an image"),
        (b"not an image at all", "not an image"),
        ("bm90IGFuIGltYWdl", "neither an existing file"),  # valid base64 of something else
        pytest.param(huge_png(), "larger than", id="huge"),
        (np.zeros((0, 5, 3), np.uint8), "no pixel"),
        (np.zeros((5, 5, 7), np.uint8), "1 to 4 channels"),
        (np.zeros((2, 2, 2, 2), np.uint8), "shape"),
        (np.full((4, 4, 3), 3.5), "3.5.* Divide it by 255"),
        (np.full((4, 4, 3), 300.0), "300.* Divide it by 65535"),
        (np.full((4, 4, 3), np.nan), "nan"),
        (np.full((4, 4, 3), -1), "-1"),
        (Image.new("RGB", (0, 5)), "at least 1 pixel"),
        (Image.new("F", (4, 3), 7.5), "^`photo` of dtype float32 holds values from 7.5"),
    ],
)
def test_unfit_images_are_refused(source, message):
    with pytest.raises(ValueError, match=message) as error:
        load_image(source, argument="photo")
    assert "`photo`" in str(error.value)


def test_folder_is_no_image(tmp_path):
    with pytest.raises(ValueError, match="neither an existing file"):
        load_image(tmp_path)


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP"])
@pytest.mark.filterwarnings("ignore:Truncated File Read")
def test_truncated_files_are_refused(file_format):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encode(Image.fromarray(noise), file_format)
    for share in (0.01, 0.1, 0.5, 0.9):
        with pytest.raises(ValueError, match="`image`"):
            load_image(data[: int(len(data) * share)])


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_an_image_beyond_pils_limit_is_refused_however_it_comes(monkeypatch, images):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 80 * 60 - 1)
    for source in (images[0], np.asarray(images[0]), encode(images[0])):
        with pytest.raises(ValueError, match="larger than the 4799 pixels allowed"):
            load_image(source)


def test_preprocessing_is_the_published_one(images):
    pixel_values = MagNetImageProcessor()(images[0], return_tensors="pt").pixel_values
    resized = np.asarray(images[0].resize((480, 480), Image.Resampling.BILINEAR), dtype=np.float32) / 255.0
    expected = (resized - np.float32([0.485, 0.456, 0.406])) / np.float32([0.229, 0.224, 0.225])
    assert pixel_values.dtype == torch.float32
    np.testing.assert_allclose(pixel_values[0].permute(1, 2, 0).numpy(), expected, atol=1e-6)


def test_lists_of_lists_are_taken_one_after_the_other(images, processor):
    flat = processor(images=images, text=["the tree"] * 3, return_tensors="pt")
    nested = processor(images=[[images[0]], images[1:]], text=["the tree"] * 3, return_tensors="pt")
    assert torch.equal(nested.pixel_values, flat.pixel_values)
    with pytest.raises(ValueError, match=r"`images\[1\]\[0\]`"):
        processor(images=[[images[0]], [None]], text="a tree")


def test_labels_follow_their_images(images, processor):
    masks = [np.zeros((image.height, image.width)) for image in images[:2] for _ in range(2)]
    for value, mask in enumerate(masks):
        mask[: (value + 1) * 10] = 255
    inputs = processor(images=images[:2], text=["the tree", "a mug"] * 2, segmentation_maps=masks, return_tensors="pt")
    assert inputs.labels.shape == (4, 64, 96) and inputs.labels.dtype == torch.float32
    assert set(inputs.labels.unique().tolist()) == {0.0, 1.0}
    for label, mask in zip(inputs.labels, masks, strict=True):
        expected = Image.fromarray((mask > 0).astype(np.uint8)).resize((96, 64), Image.Resampling.NEAREST)
        np.testing.assert_array_equal(label.numpy(), np.asarray(expected))


# Expressions


def test_expressions_are_padded_to_the_published_length(processor):
    inputs = processor(text=["the red mug", "tree"], return_tensors="pt")
    assert inputs.input_ids.shape == inputs.attention_mask.shape == (2, 20)
    assert inputs.attention_mask.sum(dim=1).tolist() == [5, 3]
    assert processor.tokenizer.decode(inputs.input_ids[0], skip_special_tokens=True) == "the red mug"
    longest = processor(text=["the red mug", "tree"], padding=True, return_tensors="pt")
    assert longest.input_ids.tolist() == inputs.input_ids[:, :5].tolist()


def test_a_long_expression_is_cut_as_published_and_named(processor, caplog):
    long = "the red mug on the left of " * 4
    processor = MagNetProcessor(processor.image_processor, processor.tokenizer)  # one that has warned of nothing yet
    with caplog.at_level(logging.WARNING):
        inputs = processor(text=["a tree", long], return_tensors="pt")
    assert inputs.attention_mask.sum(dim=1).tolist() == [4, 20]
    assert processor.tokenizer.sep_token_id not in inputs.input_ids[1], "the cut sentence loses its [SEP]"
    assert [long in record.getMessage() for record in caplog.records] == [True]


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "`text` must say what to look for"),
        (" \t\n", "`text` must say what to look for"),
        ("?! \u2026", "without a letter or digit"),
        ("\U0001f98a", "without a letter or digit"),
        (["a mug", "  "], r"`text\[1\]`"),
        (["a mug", 7], r"`text\[1\]` must be a string, got int"),
        ([], "empty list"),
        (b"a mug", "got bytes"),
        (["a mug", "a tree", "a star"], "3 expressions for 2 images"),
    ],
)
def test_unfit_expressions_are_refused(text, message, processor, images):
    with pytest.raises(ValueError, match=message):
        processor(images=images[:2], text=text, return_tensors="pt")


@pytest.mark.parametrize(
    "masks, message",
    [
        ([np.ones((60, 80))] * 3, "3 masks for 2"),
        ([np.ones((60, 81))] * 2, r"`segmentation_maps\[0\]` has shape \(60, 81\)"),
        ([np.ones((3, 60, 80))] * 2, r"`segmentation_maps\[0\]` must hold masks"),
        (["mask.png"] * 2, r"`segmentation_maps\[0\]` must be PIL images"),
        ([np.full((60, 80), np.nan)] * 2, r"`segmentation_maps\[0\]` must hold finite numbers"),
    ],
)
def test_unfit_masks_are_refused(masks, message, processor, images):
    with pytest.raises(ValueError, match=message):
        processor(images=images[0], text=["a mug", "a tree"], segmentation_maps=masks, return_tensors="pt")


def test_the_threshold_is_saved(processor, tmp_path):
    own = MagNetProcessor(processor.image_processor, processor.tokenizer, threshold=0.8)
    own.save_pretrained(tmp_path)
    loaded = MagNetProcessor.from_pretrained(tmp_path)
    outputs = SimpleNamespace(logits=torch.full((1, 4, 4), 1.0))  # a probability of 0.73

    assert loaded.threshold == 0.8
    assert not loaded.post_process_referring_segmentation(outputs, [(8, 8)])[0]["mask"].any()
    assert processor.post_process_referring_segmentation(outputs, [(8, 8)])[0]["mask"].all()
    with pytest.raises(ValueError, match="`threshold` must be a number between 0 and 1, got 35"):
        MagNetProcessor(processor.image_processor, processor.tokenizer, threshold=35)


def test_saved_processor_is_the_same(processor, images, tmp_path):
    processor.save_pretrained(tmp_path)
    loaded = MagNetProcessor.from_pretrained(tmp_path)
    first, second = (
        each(images=images[0], text=["the red mug", "a tree"], return_tensors="pt") for each in (processor, loaded)
    )
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=0)


# Masks


def test_logits_become_masks_at_the_original_size(processor):
    logits = torch.randn(2, 12, 16, generator=torch.Generator().manual_seed(0)).bfloat16() * 3
    results = processor.post_process_referring_segmentation(SimpleNamespace(logits=logits), [(31, 47), (5, 5)], 0.6)
    expected = torch.nn.functional.interpolate(
        logits[:1, None].float(), size=(31, 47), mode="bilinear", align_corners=True
    )[0, 0].sigmoid()
    assert torch.equal(results[0]["mask"], expected > 0.6)
    assert results[0]["score"] == pytest.approx(expected[expected > 0.6].mean().item(), abs=1e-6)
    assert results[1]["mask"].shape == (5, 5)


def test_masks_of_large_images_are_read_in_bands(processor, monkeypatch):
    logits = torch.randn(1, 12, 16, generator=torch.Generator().manual_seed(0)) * 3
    outputs = SimpleNamespace(logits=logits)
    whole = processor.post_process_referring_segmentation(outputs, [(61, 47)])[0]
    monkeypatch.setattr(without_torch, "BAND_PIXELS", 5 * 47)
    assert len(list(processor.probability_bands(logits, (61, 47)))) == 13
    banded = processor.post_process_referring_segmentation(outputs, [(61, 47)])[0]
    torch.testing.assert_close(
        processor.probabilities(logits, (61, 47)), processor.input_probabilities(logits, (61, 47)), atol=1e-6, rtol=0
    )
    assert torch.equal(banded["mask"], whole["mask"])
    assert banded["score"] == pytest.approx(whole["score"], abs=1e-6)


def test_scores_of_empty_and_full_masks(processor):
    outputs = SimpleNamespace(logits=torch.stack([torch.full((4, 4), -9.0), torch.full((4, 4), 9.0)]))
    empty, full = processor.post_process_referring_segmentation(outputs, torch.tensor([[8, 8], [8, 8]]))
    assert empty["score"] == 0.0 and not empty["mask"].any()
    assert full["score"] == pytest.approx(0.99988, abs=1e-4) and full["mask"].all()


def test_post_processing_refuses_what_does_not_fit(processor):
    outputs = SimpleNamespace(logits=torch.zeros(2, 4, 4))
    with pytest.raises(ValueError, match="`target_sizes` holds 1 sizes for 2"):
        processor.post_process_referring_segmentation(outputs, [(8, 8)])
    with pytest.raises(ValueError, match="`threshold` must be a number between 0 and 1, got 35"):
        processor.post_process_referring_segmentation(outputs, [(8, 8)] * 2, threshold=35)


def test_run_lengths_are_those_of_coco():
    generator = np.random.default_rng(0)
    masks = [generator.random((height, width)) < share for height, width, share in [(1, 1, 0), (1, 1, 1), (7, 5, 0.5)]]
    masks += [np.zeros((480, 640), bool), np.ones((480, 640), bool), generator.random((97, 61)) < 0.02]
    blob = np.zeros((2000, 3000), bool)
    blob[300:1500, 700:2500] = True
    for mask in [*masks, blob, ~blob]:
        expected = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
        assert mask_to_rle(mask) == {"size": list(mask.shape), "counts": expected["counts"].decode()}
        np.testing.assert_array_equal(rle_to_mask(mask_to_rle(mask)), mask)


@pytest.mark.parametrize("size, counts", [([4, 4], "04"), ([4, 4], ""), ([4, 4], "P"), ([1, 1], "1O1")])
def test_damaged_run_lengths_are_refused(size, counts):
    with pytest.raises(ValueError, match="`rle` is damaged"):
        rle_to_mask({"size": size, "counts": counts})


def test_box_is_tight_and_crops_the_object():
    mask = np.zeros((20, 30), bool)
    assert mask_to_box(mask) is None
    mask[4:9, 11:25] = True
    assert mask_to_box(mask) == {"xmin": 11, "ymin": 4, "xmax": 25, "ymax": 9}
    mask[19, 29] = True
    assert mask_to_box(mask) == {"xmin": 11, "ymin": 4, "xmax": 30, "ymax": 20}
