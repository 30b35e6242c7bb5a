"""
The two ends of every answer, as far as they need NumPy and PIL alone: an image is loaded and expressions are checked; a mask becomes a
result. So a model that runs without torch has the same door, and the same answers.
"""

import base64
import logging
import numbers
import os
import sys
import threading
import time
import unicodedata
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from io import BytesIO
from itertools import pairwise
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from PIL import ExifTags, Image, ImageOps


logger = logging.getLogger(f"transformers.{__name__}")  # under transformers' verbosity, where it is imported
MOST_WARNINGS = 20  # of one kind: a training meets thousands of expressions
ALLOWED_SOURCES = (
    "a path, an http(s) or file URL, a base64 string, bytes, an open file, a PIL image, a NumPy array or a torch tensor of "
    "shape (H, W), (H, W, C) or (C, H, W) with 1 to 4 channels"
)
BAND_PIXELS = 2**20
MAX_DOWNLOAD_BYTES = 256 * 2**20
CHUNK_BYTES = 2**16
PROGRAMS = ("EPS",)  # PIL hands these to Ghostscript, which may run for ever


def is_tensor(value: Any) -> bool:
    torch = sys.modules.get("torch")  # where it was never imported, there are no tensors
    return torch is not None and isinstance(value, torch.Tensor)


def load_image(image: Any, *, argument: str = "image", timeout: float | None = 30.0) -> Image.Image:
    """
    Load an image: upright, RGB, 8 bits a channel.

    EXIF orientation is applied, transparency is laid over white, and deeper grey images are scaled to 8 bits rather
    than clipped.

    Args:
        image (`str`, `os.PathLike`, `bytes`, a binary file, `PIL.Image.Image`, `np.ndarray` or `torch.Tensor`):
            A path, an http(s) or file URL, a base64 string (with or without the `data:image/...;base64,` prefix), the bytes
            of an image file, a file that is open for reading them, a PIL image, or an array. Integer arrays hold 0 to 255
            (`uint16`: 0 to 65535); floating-point arrays hold 0 to 1, or whole grey levels from 0 to 255. A string that a
            stranger wrote may name any file or address that this process can reach.
        argument (`str`, *optional*, defaults to `"image"`):
            What to call this input in an error message.
        timeout (`float`, *optional*, defaults to 30.0):
            Seconds that fetching a URL may take as a whole; `None` for as long as it takes.

    Returns:
        `PIL.Image.Image`: Mode `"RGB"`.

    Raises:
        ValueError: If the input is no image, is damaged, holds no pixel, or holds more than
            `PIL.Image.MAX_IMAGE_PIXELS`, or if a URL gives more than `MAX_DOWNLOAD_BYTES`.
    """
    if isinstance(image, np.ndarray) or is_tensor(image):
        image = _image_from_array(image, argument)
    elif not isinstance(image, Image.Image):
        image = _open(image, argument, timeout)

    width, height = image.size
    if width == 0 or height == 0:
        raise ValueError(
            f"`{argument}` is {width} pixels wide and {height} high; an image has at least 1 pixel each way."
        )
    if Image.MAX_IMAGE_PIXELS is not None and width * height > Image.MAX_IMAGE_PIXELS:
        raise _too_large(argument, f"{width} x {height} pixels")

    try:
        image.load()
        is_turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
        upright = ImageOps.exif_transpose(image) if is_turned else image  # the former copies all pixels
    except Exception as error:  # decoding happens here, and decoders raise anything on damaged files
        raise ValueError(f"`{argument}` cannot be decoded, the file may be truncated or damaged: {error}") from error
    return _to_rgb(upright, argument)


def _open(given: Any, argument: str, timeout: float | None) -> Image.Image:
    """Open a path, URL, base64 string or bytes; the pixels are decoded later."""
    source, complaint = _find_source(given, argument, timeout)
    try:
        image = Image.open(source)
        if image.format in PROGRAMS:
            raise ValueError(f"{image.format} files are programs that draw an image, and are not run")
        return image
    # An error above twice PIL's limit; between the two a warning, which some filters turn into an error.
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise _too_large(argument, describe(given)) from error
    except Exception as error:  # decoders raise anything on damaged files
        raise ValueError(f"`{argument}` {complaint}") from error


def _find_source(given: Any, argument: str, timeout: float | None) -> tuple[BytesIO | str, str]:
    """Find a source that `PIL.Image.open` can read, and the message for the case that it is no image."""
    unreadable = f"is not an image that PIL can read: {describe(given)}."
    if isinstance(given, bytes | bytearray | memoryview):
        return BytesIO(given), unreadable
    if hasattr(given, "read"):
        try:
            if hasattr(given, "seekable") and given.seekable():
                given.seek(0)  # as PIL does: it may have been read, or just been written
            content = given.read()
        except Exception as error:  # files of any library
            raise ValueError(f"`{argument}` cannot be read: {error}") from error
        if not isinstance(content, bytes):
            raise ValueError(f"`{argument}` must be a file that is open for reading bytes (mode 'rb').")
        return BytesIO(content), unreadable
    if not isinstance(given, str | os.PathLike):
        raise ValueError(f"`{argument}` must be {ALLOWED_SOURCES}, got {describe(given)}.")

    text = os.fsdecode(given)
    if text[:8].lower().startswith(("http://", "https://")):
        try:
            return BytesIO(_fetch(text, timeout)), unreadable
        except Exception as error:
            raise ValueError(f"`{argument}` could not be fetched from {describe(text)}: {error}") from error
    if text.startswith("file://"):
        parts = urlsplit(text)
        if parts.netloc not in ("", "localhost"):
            raise ValueError(f"`{argument}` must be a file of this machine, got {describe(text)}.")
        text = urllib.request.url2pathname(parts.path)
    if "\0" not in text and os.path.isfile(text):
        return text, unreadable
    nothing = (
        f"{describe(text)} is neither an existing file, nor a URL starting with http://, https:// or file://, nor an image in "
        "base64."
    )
    try:
        return BytesIO(base64.b64decode("".join(text.split(",", 1)[-1].split()), validate=True)), nothing
    except ValueError as error:
        raise ValueError(f"`{argument}` {nothing}") from error


def _fetch(url: str, timeout: float | None) -> bytes:
    """
    Download within `timeout` seconds as a whole.

    The timeout of a socket begins anew with each byte, so a slow server could hold a caller for ever: the download runs in a
    thread, which the caller leaves behind.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    # Some servers refuse the default agent of urllib.
    request = urllib.request.Request(url, headers={"User-Agent": "Mozilla/5.0 (compatible; hf_ris)"})
    content = bytearray()
    errors: list[Exception] = []

    def download() -> None:
        try:
            with urllib.request.urlopen(request, timeout=timeout) as response:
                while part := response.read1(CHUNK_BYTES):
                    content.extend(part)
                    if len(content) > MAX_DOWNLOAD_BYTES:
                        raise ValueError(
                            f"it is longer than the {MAX_DOWNLOAD_BYTES} bytes allowed; download it yourself if you trust "
                            "its source"
                        )
                    if deadline is not None and time.monotonic() > deadline:
                        return
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=download, daemon=True)
    thread.start()
    thread.join(timeout)
    if thread.is_alive() or (deadline is not None and time.monotonic() > deadline):
        raise TimeoutError(f"it took longer than the {timeout:g} seconds allowed")
    if errors:
        raise errors[0]
    return bytes(content)


def _image_from_array(array: Any, argument: str) -> Image.Image:
    """Turn an array of shape (H, W), (H, W, C) or (C, H, W) into an image with 8 bits a channel."""
    shape = tuple(array.shape)
    # Where both ends could be channels, torch's habit is channels first and NumPy's channels last.
    channel_axes = (0, -1) if is_tensor(array) else (-1, 0)
    channel_axis = next((axis for axis in channel_axes if len(shape) == 3 and 1 <= shape[axis] <= 4), None)
    if len(shape) != 2 and channel_axis is None:
        raise ValueError(
            f"`{argument}` must have shape (H, W), (H, W, C) or (C, H, W) with 1 to 4 channels, got {shape}."
        )
    if 0 in shape:
        raise ValueError(f"`{argument}` holds no pixel: its shape is {shape}.")

    if is_tensor(array):
        try:
            array = to_array(array)
        except (TypeError, RuntimeError) as error:  # a sparse or quantized tensor, one without data
            raise ValueError(
                f"`{argument}` must be a tensor that NumPy can take, got {array.dtype}: {error}"
            ) from error
    pixels = _to_uint8(array, argument)
    if channel_axis is not None:
        pixels = np.moveaxis(pixels, channel_axis, -1)
        pixels = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
    return Image.fromarray(np.ascontiguousarray(pixels))


def _to_uint8(array: np.ndarray, argument: str) -> np.ndarray:
    """Scale bool, integer (8 or 16 bits) and floating-point (0 to 1) values to 0..255."""
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * 255
    if array.dtype == np.uint16:
        return _scale_16_bit(array)
    if array.dtype.kind not in "iuf":
        raise ValueError(f"`{argument}` must hold numbers, got an array of dtype {array.dtype}.")
    low, high = array.min(), array.max()
    if array.dtype.kind == "f" and low >= 0.0 and high <= 1.0:
        return np.round(array * 255.0).astype(np.uint8)
    # Grey levels, as arithmetic on bytes leaves them.
    if low >= 0 and high <= 255 and (array.dtype.kind != "f" or (array == np.rint(array)).all()):
        return array.astype(np.uint8)
    divisor = next((limit for limit in (255, 65535) if 1.0 < high <= limit), None)
    advice = f" Divide it by {divisor}." if array.dtype.kind == "f" and low >= 0 and divisor else ""
    raise ValueError(
        f"`{argument}` of dtype {array.dtype} holds values from {low} to {high}; allowed are integers from 0 to 255, uint16, "
        f"booleans, floating-point values from 0 to 1, or whole ones from 0 to 255.{advice}"
    )


def _to_rgb(image: Image.Image, argument: str) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):
        # PIL's own conversion clips everything above 255 to white. Mode "I" has 32 bits but stems from 16-bit files.
        values = np.asarray(image)
        grey = values if image.mode == "I" and values.max() <= 255 else _scale_16_bit(values)
        if isinstance(clear := image.info.get("transparency"), int):  # the grey level that is transparent
            grey = np.where(values == clear, 255, grey)
        return Image.fromarray(grey.clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        return Image.fromarray(_to_uint8(np.asarray(image), argument)).convert("RGB")
    if image.mode == "La":
        image = image.convert("LA")  # the only mode that PIL takes it to
    if image.mode in ("RGBA", "LA", "PA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _scale_16_bit(values: np.ndarray) -> np.ndarray:
    return np.round(values / 257.0).clip(0, 255).astype(np.uint8)


def _too_large(argument: str, got: str) -> ValueError:
    return ValueError(
        f"`{argument}` is larger than the {Image.MAX_IMAGE_PIXELS} pixels allowed ({got}); set "
        "`PIL.Image.MAX_IMAGE_PIXELS` higher if you trust its source."
    )


def to_array(tensor: Any) -> np.ndarray:
    """A tensor of any dtype, on any device, as an array; NumPy has no bfloat16."""
    tensor = tensor.detach().cpu()
    return tensor.float().numpy() if tensor.is_floating_point() else tensor.numpy()


def describe(value: Any) -> str:
    """Shorten a string in the middle, since paths end in names; name other values by their type."""
    if not isinstance(value, str | os.PathLike):
        return f"{type(value).__name__}"
    text = os.fsdecode(value)
    return repr(text if len(text) <= 120 else f"{text[:58]}...{text[-58:]}")


def as_list(values: Any) -> list[Any] | None:
    """The items of a list, tuple, dataset column, array or other sequence; `None` if `values` is no sequence."""
    if isinstance(values, str | bytes | Mapping) or not (
        hasattr(values, "__len__") and hasattr(values, "__getitem__")
    ):
        return None
    if isinstance(values, np.ndarray):
        return values.tolist() if values.ndim else None
    return list(values)


def check_expressions(text: Any, *, argument: str = "text") -> list[str]:
    """
    Check one expression or a sequence of them.

    Args:
        text (`str`, or a list, array, column or other sequence of `str`):
            What the expressions say. They are returned as they came.
        argument (`str`, *optional*, defaults to `"text"`):
            What to call this input in an error message.

    Returns:
        `list[str]`: At least one expression, each with a letter or a digit.

    Raises:
        ValueError: If there is no expression, or one is not a string or has neither letter nor digit.
    """
    expressions = [text] if isinstance(text, str) else as_list(text)
    if expressions is None:
        raise ValueError(f"`{argument}` must be a string or a list of strings, got {type(text).__name__}.")
    if not expressions:
        raise ValueError(f"`{argument}` is an empty list; at least one expression is needed.")
    for index, expression in enumerate(expressions):
        name = argument if isinstance(text, str) else f"{argument}[{index}]"
        if not isinstance(expression, str):
            raise ValueError(f"`{name}` must be a string, got {type(expression).__name__}: {expression!r:.80}.")
        # Punctuation, spaces and accents alone name nothing.
        if not any(unicodedata.category(character)[0] in "LN" for character in expression):
            raise ValueError(
                f"`{name}` must say what to look for in words, got {expression!r:.80}, without a letter or digit."
            )
        if any("\ud800" <= character <= "\udfff" for character in expression):
            raise ValueError(f"`{name}` must be Unicode text, got half a surrogate pair in {expression!r:.80}.")
    return expressions


def check_probability(name: str, value: Any) -> None:
    """
    Raises:
        ValueError: If a value is no number between 0 and 1.
    """
    # A boolean is a number to Python, but no probability.
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0.0 <= float(value) <= 1.0:
        raise ValueError(f"`{name}` must be a number between 0 and 1, got {value!r}.")


def check_integer(name: str, value: Any, least: int) -> None:
    """
    Raises:
        ValueError: If a value is no whole number of at least `least`.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < least:
        raise ValueError(f"`{name}` must be a whole number of at least {least}, got {value!r}.")


def check_seconds(name: str, value: Any) -> None:
    """
    Raises:
        ValueError: If a value is no number of seconds that can be waited for.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0 < float(value) <= threading.TIMEOUT_MAX:
        raise ValueError(f"`{name}` must be a number of seconds above 0, or None, got {value!r}.")


class TextWarnings:
    """Warnings about text that a model cannot read: each once, and at most `MOST_WARNINGS` of a kind."""

    def __init__(self) -> None:
        self._given: dict[str, set[str]] = {}

    def unknown_words(self, expressions: Sequence[str], encodings: Sequence[Any], unknown_token: int | None) -> None:
        """Warn about words that the vocabulary lacks; for the arguments, see [`find_unknown_words`]."""
        if len(self._given.get("unknown", ())) >= MOST_WARNINGS:
            return
        for expression, encoding in zip(expressions, encodings, strict=True):
            for word in find_unknown_words(expression, encoding, unknown_token):
                self._warn(
                    "unknown",
                    word,
                    f"The vocabulary of this model lacks the word {word!r}: its answer may mean nothing.",
                )

    def too_long(self, expression: str, tokens: int, limit: int, rest: str) -> None:
        """Warn that only `limit` of an expression's `tokens` are read, the `rest` as text."""
        self._warn(
            "long",
            expression,
            f"The expression {expression!r:.200} has {tokens} tokens; only {limit} are read: {rest!r}.",
        )

    def _warn(self, kind: str, what: str, message: str) -> None:
        given = self._given.setdefault(kind, set())
        if what in given or len(given) >= MOST_WARNINGS:
            return
        given.add(what)
        end = " There will be no more warnings of this kind." if len(given) == MOST_WARNINGS else ""
        logger.warning(message + end)


def find_unknown_words(expression: str, encoding: Any, unknown_token: int | None) -> Iterable[str]:
    """
    Find the words that a tokenizer replaces by its unknown token, or spells out letter by letter.

    Args:
        expression (`str`): The text.
        encoding (`tokenizers.Encoding`): The tokenizer's output for it.
        unknown_token (`int`, *optional*): The unknown token's id.

    Returns:
        The words, each once.
    """
    spans: dict[int, list[tuple[int, int]]] = {}
    replaced = set()
    for word, span, token in zip(encoding.word_ids, encoding.offsets, encoding.ids, strict=True):
        if word is not None:  # not a special token
            spans.setdefault(word, []).append(span)
            if token == unknown_token:
                replaced.add(word)
    unknown: dict[str, None] = {}
    for word, pieces in spans.items():
        is_spelled = len(pieces) > 1 and all(end - start <= 1 for start, end in pieces)
        if is_spelled or word in replaced:
            unknown[expression[pieces[0][0] : pieces[-1][1]]] = None
    return unknown


def row_bands(height: int, width: int) -> Iterator[slice]:
    """Cut an image into bands of rows, of `BAND_PIXELS` or little more, so that memory does not grow with the image."""
    rows = max(1, -(-BAND_PIXELS // width))
    for start in range(0, height, rows):
        yield slice(start, min(start + rows, height))


def mask_to_box(mask: np.ndarray) -> dict[str, int] | None:
    """
    The tightest box around a mask, in pixels.

    As in transformers' object detection, the corners are edges: `xmax` and `ymax` are exclusive, `xmax - xmin` is the
    width, and `image.crop((xmin, ymin, xmax, ymax))` holds exactly the object.

    Args:
        mask (`np.ndarray`):
            Boolean, of shape (H, W).

    Returns:
        `dict[str, int]` or `None`: `xmin`, `ymin`, `xmax`, `ymax`; `None` for an empty mask.
    """
    rows = np.flatnonzero(mask.any(axis=1))
    columns = np.flatnonzero(mask.any(axis=0))
    if rows.size == 0:
        return None
    return {
        "xmin": int(columns[0]),
        "ymin": int(rows[0]),
        "xmax": int(columns[-1]) + 1,
        "ymax": int(rows[-1]) + 1,
    }


def mask_to_rle(mask: np.ndarray) -> dict[str, Any]:
    """
    Encode a mask as COCO's compressed run-length code, which `pycocotools.mask.decode` reads.

    pycocotools would be faster, but code that ships with a model may need torch and transformers alone.

    Args:
        mask (`np.ndarray`):
            Boolean, of shape (H, W).

    Returns:
        `dict`: `size`, [height, width], and `counts`, the runs as ASCII text.
    """
    pixels = np.asarray(mask, dtype=bool).flatten(order="F")  # COCO counts down the columns
    changes = (np.flatnonzero(pixels[1:] != pixels[:-1]) + 1).tolist()
    # Runs begin with background, if need be with none of it.
    edges = [0, 0, *changes, pixels.size] if pixels[:1].any() else [0, *changes, pixels.size]
    runs = [end - start for start, end in pairwise(edges)]

    characters = []
    for index, run in enumerate(runs):
        # From the fourth run on, the difference to the last run of the same kind is stored: it is smaller.
        value = run - runs[index - 2] if index > 2 else run
        while True:
            # Five bits a character, lowest first; the sixth says that more follow, 48 makes it printable.
            bits = value & 0x1F
            value >>= 5
            more = value != (-1 if bits & 0x10 else 0)
            characters.append(chr((bits | 0x20 if more else bits) + 48))
            if not more:
                break
    return {"size": [int(size) for size in mask.shape], "counts": "".join(characters)}


def rle_to_mask(rle: dict[str, Any]) -> np.ndarray:
    """
    Undo [`mask_to_rle`].

    Args:
        rle (`dict`):
            `size`, [height, width], and `counts`, COCO's compressed run-length encoding as text.

    Returns:
        `np.ndarray`: Boolean, of shape (H, W).

    Raises:
        ValueError: If the runs do not fill a mask of this size.
    """
    height, width = rle["size"]
    runs: list[int] = []
    value = shift = 0
    for character in rle["counts"]:
        bits = ord(character) - 48
        value |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:  # more follow
            continue
        if bits & 0x10:  # negative
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    if shift or min(runs, default=0) < 0 or sum(runs) != height * width:
        raise ValueError(f"`rle` is damaged: its runs do not fill a mask {height} high and {width} wide.")
    kinds = np.arange(len(runs)) % 2 == 1
    return np.repeat(kinds, runs).reshape(height, width, order="F")


def _to_pil(mask: np.ndarray) -> Image.Image:
    return Image.fromarray(mask.astype(np.uint8) * 255)


OUTPUT_FORMATS: dict[str, Callable[[np.ndarray], Any]] = {"pil": _to_pil, "array": np.asarray, "rle": mask_to_rle}


def check_answer_options(options: Mapping[str, Any]) -> None:
    """
    Check `threshold`, `no_target_threshold` and `output_format`, those that are given.

    Raises:
        ValueError: If one of them is unfit; the message names it.
    """
    for name in ("threshold", "no_target_threshold"):
        if options.get(name) is not None:
            check_probability(name, options[name])
    if "output_format" in options and options["output_format"] not in list(OUTPUT_FORMATS):
        raise ValueError(f"`output_format` must be one of {list(OUTPUT_FORMATS)}, got {options['output_format']!r}.")


def make_result(
    label: str,
    mask: np.ndarray,
    score: float,
    no_target_threshold: float | None = None,
    output_format: str = "pil",
) -> dict[str, Any]:
    """
    Turn a mask into a result.

    Args:
        label (`str`): The expression.
        mask (`np.ndarray`): Boolean, of shape (H, W).
        score (`float`): Confidence between 0 and 1.
        no_target_threshold (`float`, *optional*): A score below this empties the mask.
        output_format (`str`, *optional*, defaults to `"pil"`): One of `OUTPUT_FORMATS`.

    Returns:
        `dict`: `label`, `score`, `mask` and `box`.
    """
    if no_target_threshold is not None and score < no_target_threshold:
        mask = np.zeros_like(mask)
    return {"label": label, "score": score, "mask": OUTPUT_FORMATS[output_format](mask), "box": mask_to_box(mask)}


__all__ = [
    "TextWarnings",
    "as_list",
    "check_answer_options",
    "check_expressions",
    "check_integer",
    "check_probability",
    "check_seconds",
    "load_image",
    "make_result",
    "mask_to_box",
    "mask_to_rle",
    "rle_to_mask",
    "row_bands",
]
