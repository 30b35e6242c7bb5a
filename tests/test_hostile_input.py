"""Whatever is fed in, out comes an answer or an error that names what was wrong: no crash, no silent nonsense."""

import base64
import json
import os
import struct
import zlib
from io import BytesIO

import datasets
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from PIL import Image
from typer.testing import CliRunner

from hf_ris.cli import app


few = settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))

DTYPES = [
    np.bool_,
    np.uint8,
    np.int8,
    np.uint16,
    np.int32,
    np.int64,
    np.float16,
    np.float32,
    np.float64,
    np.complex64,
    np.dtype("U3"),
]
MODES = [
    "1",
    "L",
    "P",
    "LA",
    "La",
    "PA",
    "RGB",
    "RGBA",
    "RGBa",
    "RGBX",
    "CMYK",
    "YCbCr",
    "HSV",
    "LAB",
    "I",
    "F",
    "I;16",
]
SIZES = st.one_of(
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.tuples(st.integers(1, 3), st.integers(1000, 9000)),
    st.tuples(st.integers(1000, 9000), st.integers(1, 3)),
)


def check_answer(answer, size):
    assert answer["mask"].size == size
    assert np.isfinite(answer["score"]) and 0 <= answer["score"] <= 1
    assert (answer["box"] is None) == (not np.asarray(answer["mask"]).any())


@few
@given(size=SIZES, mode=st.sampled_from(MODES), shade=st.integers(0, 255))
def test_pictures_of_any_size_and_mode(ris, size, mode, shade):
    picture = Image.new(
        mode, size, None if mode in ("LAB", "HSV") else shade if len(mode) == 1 or ";" in mode else None
    )
    try:
        answer = ris(picture, text="the red mug")
    except ValueError as error:
        assert mode == "F" and "`image`" in str(error)  # values that no picture has
    else:
        check_answer(answer, size)


@few
@given(
    array=st.sampled_from(DTYPES).flatmap(
        lambda dtype: npst.arrays(dtype, npst.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=9))
    )
)
def test_arrays_of_any_shape_and_type(ris, array):
    try:
        answer = ris(array, text="the red mug")
    except ValueError as error:
        assert "`image`" in str(error)
    else:
        if array.dtype.kind == "U" and not array.size:
            assert answer == []  # no paths, no answers
            return
        assert array.ndim in (2, 3) and array.size
        assert np.isfinite(array.astype(np.float64)).all() if array.dtype.kind == "f" else True
        height, width = np.asarray(answer["mask"]).shape
        assert {height, width} <= set(array.shape)


@few
@given(text=st.text(max_size=200))
def test_any_unicode_text(ris, images, text):
    try:
        answer = ris(images[0], text=text)
    except ValueError as error:
        assert "`text`" in str(error)
        assert not any(character.isalnum() for character in text)
    else:
        check_answer(answer, images[0].size)
        assert answer["label"] == text


@pytest.mark.parametrize(
    "text",
    [
        "\U0001f98a on the left",
        "\u0627\u0644\u0642\u0637\u0629 \u0627\u0644\u062d\u0645\u0631\u0627\u0621",
        "the red mug " * 3333,
        "x" * 100_000,
        "\u202eesrever",
    ],
    ids=["emoji", "right to left", "10,000 words", "one long word", "bidi override"],
)
def test_unusual_text_gets_an_answer(ris, images, text):
    check_answer(ris(images[0], text=text), images[0].size)


@pytest.mark.parametrize(
    "text", ["\u200b", "\u0301\u0302", "\x00\x07", "\ufeff \u2003", "left \ud83d", 3, None, ["a", ""], []]
)
def test_text_that_says_nothing_is_named(ris, images, text):
    with pytest.raises(ValueError, match="`text"):
        ris(images[0], text=text)


def encoded(picture, format):
    buffer = BytesIO()
    picture.save(buffer, format)
    return buffer.getvalue()


@few
@given(data=st.data(), format=st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"]))
def test_damaged_files(ris, images, tmp_path, data, format):
    """A whole file, with bytes changed or its end cut off, under the name of another format."""
    content = bytearray(encoded(images[0], format))
    for _ in range(data.draw(st.integers(0, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "picture.jpg"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        answer = ris(path, text="the red mug")
    except ValueError as error:
        assert "`image`" in str(error)
    else:
        check_answer(answer, answer["mask"].size)


@few
@given(content=st.binary(max_size=300), kind=st.sampled_from(["bytes", "base64", "data URL", "path"]))
def test_noise_is_no_picture(ris, tmp_path, content, kind):
    text = base64.b64encode(content).decode()
    path = tmp_path / "noise.png"
    path.write_bytes(content)
    image = {"bytes": content, "base64": text, "data URL": f"data:image/png;base64,{text}", "path": str(path)}[kind]
    with pytest.raises(ValueError, match="`image`"):
        ris(image, text="the red mug")


def bomb(width, height):
    """A PNG of a few bytes that claims to be gigantic."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(60_000, 60_000), (12_000, 12_000), (1, 2**31 - 1)])
def test_decompression_bombs_are_refused_unopened(ris, size):
    with pytest.raises(ValueError, match="`image` is larger than"):
        ris(bomb(*size), text="the red mug")


@pytest.fixture
def odd_places(tmp_path):
    loop, other = tmp_path / "loop.png", tmp_path / "other.png"
    loop.symlink_to(other)
    other.symlink_to(loop)
    (tmp_path / "dangling.png").symlink_to(tmp_path / "none.png")
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    return [*sorted(tmp_path.iterdir()), tmp_path / ("long" * 100), tmp_path / "null\0.png"]


def test_odd_places_are_named(ris, odd_places):
    for path in odd_places:
        with pytest.raises(ValueError, match="`image`"):
            ris(str(path), text="the red mug")


def test_the_command_survives_all_of_it(odd_places, model_folder, images, tmp_path):
    whole = tmp_path / "whole.png"
    images[0].save(whole)
    (tmp_path / "bomb.png").write_bytes(bomb(60_000, 60_000))
    (tmp_path / "half.png").write_bytes(whole.read_bytes()[:100])
    unfit = [
        [str(path), "a mug"]
        for path in (*odd_places, tmp_path / "bomb.png", tmp_path / "half.png")
        if not path_is_folder(path)
    ]
    for arguments in (*unfit, [str(whole), "\u200b"], [str(whole), "left \udcff"]):
        done = CliRunner().invoke(app, ["segment", *arguments, "--model", str(model_folder), "--device", "cpu"])
        assert done.exit_code == 2 and done.stderr.splitlines()[-1].startswith("hf-ris: "), arguments
        assert done.stdout == ""

    text = "\U0001f98a fox " * 2000
    done = CliRunner().invoke(
        app, ["segment", str(whole), text, "--json", "--model", str(model_folder), "--device", "cpu"]
    )
    assert json.loads(done.stdout)[0]["label"] == text


def path_is_folder(path):
    return "\0" not in str(path) and len(path.name) < 256 and path.is_dir()


def test_a_bad_item_of_a_batch_is_reported_in_its_place(ris, images):
    inputs = [
        {"image": images[0], "text": "a tree"},
        {"image": "none.png", "text": "a tree"},
        {"image": images[1], "text": ["a mug", " "]},
        {"image": np.full((4, 4), np.nan), "text": "a tree"},
        {"text": "a tree"},
        {"image": images[1], "text": ["a mug", "a tree"]},
    ]
    results = list(ris(iter(inputs), batch_size=4, on_error="report"))

    assert [isinstance(result, dict) and "error" in result for result in results] == [
        False,
        True,
        True,
        True,
        True,
        False,
    ]
    assert "none.png" in results[1]["error"] and "`text[1]`" in results[2]["error"]
    assert results[0]["mask"] == ris(**inputs[0])["mask"]
    assert [result["mask"] for result in results[5]] == [result["mask"] for result in ris(**inputs[5])]
    with pytest.raises(ValueError, match=r"none\.png"):
        list(ris(iter(inputs), batch_size=4))
    with pytest.raises(ValueError, match="`on_error`"):
        ris(images[0], text="a tree", on_error="ignore")


def test_a_bad_row_of_a_dataset_is_reported_in_its_place(ris, images, tmp_path):
    images[0].save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes((tmp_path / "good.png").read_bytes()[:100])
    rows = {"image": [str(tmp_path / name) for name in ("good.png", "bad.png", "good.png")], "text": ["a tree"] * 3}
    dataset = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())
    results = list(ris(dataset, batch_size=2, on_error="report"))

    assert ["mask" in result for result in results] == [True, False, True]
    assert "row 1 cannot be read" in results[1]["error"]
    with pytest.raises(ValueError, match="row 1"):
        list(ris(dataset))


def test_files_that_are_programs_are_not_run(ris, tmp_path):
    path = tmp_path / "photo.jpg"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n{} loop\n")
    with pytest.raises(ValueError, match="not an image"):
        ris(str(path), text="a tree")
