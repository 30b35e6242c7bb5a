"""
The door: everything that a user passes in becomes a [`Request`] here, or an error that says what was wrong. Behind it, nothing is
loaded or checked again.

Images come as paths, URLs, base64, files, PIL images, arrays or tensors, of any EXIF orientation, colour mode and bit depth, and may be
hostile; expressions may say nothing, or have words that a vocabulary lacks; regions may be masks of any type.
"""

import base64
import os
import threading
import time
import unicodedata
import urllib.request
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps
from transformers import BatchEncoding, PreTrainedTokenizerBase
from transformers.utils import logging


logger = logging.get_logger(f"transformers.{__name__}")  # under transformers' verbosity
MOST_WARNINGS = 20  # of one kind: a training meets thousands of expressions
ALLOWED_SOURCES = (
    "a path, an http(s) or file URL, a base64 string, bytes, an open file, a PIL image, a NumPy array or a torch tensor of "
    "shape (H, W), (H, W, C) or (C, H, W) with 1 to 4 channels"
)
NO_PROPOSER = (
    "`regions` are missing: this model has no proposer. Give the pipeline of the task "
    '"zero-shot-referring-segmentation" `regions` with each image, or compose the model with a proposer, such as '
    'hf_ris.zero_shot(..., proposer="felzenszwalb").'
)
MAX_DOWNLOAD_BYTES = 256 * 2**20
CHUNK_BYTES = 2**16
PROGRAMS = ("EPS",)  # PIL hands these to Ghostscript, which may run for ever


@dataclass(frozen=True)
class Request:
    """
    An image and what is asked about it, loaded and checked: see [`read_request`]. Pipelines take it for an input, too.

    Attributes:
        image (`PIL.Image.Image`): Upright, mode `"RGB"`.
        expressions (`list[str]`): At least one.
        regions (`np.ndarray` of shape `(r, height, width)`, *optional*): Boolean, none of them empty; for zero-shot systems.
        is_single (`bool`): Whether the expression came as one string, so that the answer is one, too.
    """

    image: Image.Image
    expressions: list[str]
    regions: np.ndarray | None = None
    is_single: bool = False

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the image in pixels."""
        return self.image.height, self.image.width


def read_request(image: Any, text: Any, regions: Any = None, *, timeout: float | None = 30.0) -> Request:
    """
    Load an image, and check what is asked about it.

    Args:
        image: See [`load_image`].
        text: See [`check_expressions`].
        regions (*optional*): See [`load_regions`].
        timeout (`float`, *optional*, defaults to 30.0): Seconds that fetching a URL may take as a whole.

    Raises:
        ValueError: If one of them is unfit; the message names it.
    """
    expressions = check_expressions(text)  # first: it takes no time
    loaded = load_image(image, timeout=timeout)
    masks = None if regions is None else load_regions(regions, (loaded.height, loaded.width))
    return Request(loaded, expressions, masks, is_single=isinstance(text, str))


def load_requests(images: Any, text: Any, region_masks: Any = None) -> list[Request]:
    """
    Load images, and share out expressions and regions among them.

    Args:
        images (an image or a list of images): B images.
        text (`str` or `list[str]`): N = B * k expressions, the k of the first image first.
        region_masks (an array or a list of arrays, *optional*): The regions of each image, or `None`; see [`load_regions`].

    Returns:
        `list[Request]`: One for each image.

    Raises:
        ValueError: If an image, an expression or a region is unfit, or their numbers do not match.
    """
    loaded, expressions = load_all(images, load_image, "images"), check_expressions(text)
    each = expressions_per_image(len(expressions), len(loaded))
    regions: Sequence[Any] = [None] * len(loaded)
    if region_masks is not None:
        regions = region_masks if isinstance(images, list | tuple) else [region_masks]
        if len(regions) != len(loaded):
            raise ValueError(f"`region_masks` holds regions of {len(regions)} images for {len(loaded)} images.")
    requests = []
    for number, (image, masks) in enumerate(zip(loaded, regions, strict=True)):
        if masks is not None:
            masks = load_regions(masks, (image.height, image.width), argument=f"region_masks[{number}]")
        requests.append(Request(image, expressions[number * each : (number + 1) * each], masks))
    return requests


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
    if isinstance(image, np.ndarray | torch.Tensor):
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


def load_mask(mask: Any, *, argument: str = "segmentation_maps") -> np.ndarray:
    """
    Read a binary mask.

    Args:
        mask (`PIL.Image.Image`, `np.ndarray` or `torch.Tensor`):
            One channel, of shape (H, W), (1, H, W) or (H, W, 1). Every value other than zero is foreground.
        argument (`str`, *optional*, defaults to `"segmentation_maps"`):
            What to call this input in an error message.

    Returns:
        `np.ndarray`: Boolean, of shape (H, W).

    Raises:
        ValueError: If the input is no mask or has more than one channel.
    """
    if not isinstance(mask, Image.Image | np.ndarray | torch.Tensor):
        raise ValueError(
            f"`{argument}` must be PIL images, NumPy arrays or torch tensors of shape (H, W), got {_describe(mask)}."
        )
    array = to_array(mask) if isinstance(mask, torch.Tensor) else np.asarray(mask)
    if array.ndim == 3 and 1 in (array.shape[0], array.shape[-1]):
        array = array[0] if array.shape[0] == 1 else array[..., 0]
    if array.ndim != 2 or array.size == 0:
        raise ValueError(f"`{argument}` must hold masks of shape (H, W) with at least one pixel, got {array.shape}.")
    check_finite(array, argument)
    return array != 0


def load_all(values: Any, load: Callable[..., Any], argument: str) -> list[Any]:
    """Load one value, or each of a list, tuple or stacked array of them, or of a list of lists."""
    if getattr(values, "ndim", None) == 4:
        values = list(values)
    if not isinstance(values, list | tuple):
        return [load(values, argument=argument)]
    loaded = []
    for index, value in enumerate(values):
        name = f"{argument}[{index}]"
        loaded += load_all(value, load, name) if isinstance(value, list | tuple) else [load(value, argument=name)]
    if not loaded:
        raise ValueError(f"`{argument}` is an empty list; at least one is needed.")
    return loaded


def to_array(tensor: torch.Tensor) -> np.ndarray:
    """A tensor of any dtype, on any device, as an array; NumPy has no bfloat16."""
    tensor = tensor.detach().cpu()
    return tensor.float().numpy() if tensor.is_floating_point() else tensor.numpy()


def check_finite(array: np.ndarray, name: str) -> None:
    """
    Raises:
        ValueError: If an array of numbers holds NaN or infinity, or holds no numbers.
    """
    if array.dtype.kind not in "biuf":
        raise ValueError(f"`{name}` must hold numbers or booleans, got an array of dtype {array.dtype}.")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError(f"`{name}` must hold finite numbers, got NaN or infinity.")


def load_regions(masks: Any, size: tuple[int, int], *, argument: str = "regions") -> np.ndarray:
    """
    Read regions as users have them.

    Args:
        masks (`np.ndarray`, `torch.Tensor` or a list of masks): Of shape (r, height, width); everything but zero belongs to a region.
        size (`tuple[int, int]`): (height, width) of their image.
        argument (`str`, *optional*, defaults to `"regions"`): What to call this input in an error message.

    Returns:
        `np.ndarray` of shape `(r, height, width)`: Boolean.

    Raises:
        ValueError: If they are no masks of this size, or one of them is empty.
    """
    if isinstance(masks, list | tuple):
        arrays = [_mask_array(mask, argument) for mask in masks]
        shapes = sorted({array.shape for array in arrays})
        if len(shapes) > 1:
            raise ValueError(f"`{argument}` must hold masks of one shape, got {shapes}.")
        masks = np.stack(arrays) if arrays else np.zeros((0, *size), bool)
    elif isinstance(masks, torch.Tensor):
        masks = _mask_array(masks, argument)
    if not isinstance(masks, np.ndarray) or masks.ndim != 3:
        got = masks.shape if isinstance(masks, np.ndarray) else type(masks).__name__
        raise ValueError(f"`{argument}` must be masks of shape (regions, height, width), got {got}.")
    if masks.shape[1:] != size:
        raise ValueError(
            f"`{argument}` must be {size[1]} pixels wide and {size[0]} high, as their image, got masks {masks.shape[2]} wide and "
            f"{masks.shape[1]} high."
        )
    check_finite(masks, argument)
    masks = masks if masks.dtype == bool else masks != 0
    empty = np.flatnonzero(~masks.any(axis=(1, 2)))
    if len(empty):
        raise ValueError(f"`{argument}` must hold no empty mask; number {empty[0]} is.")
    return masks


def _mask_array(mask: Any, argument: str) -> np.ndarray:
    try:
        return to_array(mask) if isinstance(mask, torch.Tensor) else np.asarray(mask)
    except (TypeError, ValueError, RuntimeError) as error:  # a sparse tensor, one without data, a ragged list
        raise ValueError(f"`{argument}` must hold masks, got {type(mask).__name__}: {error}.") from error


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
        raise _too_large(argument, _describe(given)) from error
    except Exception as error:  # decoders raise anything on damaged files
        raise ValueError(f"`{argument}` {complaint}") from error


def _find_source(given: Any, argument: str, timeout: float | None) -> tuple[BytesIO | str, str]:
    """Find a source that `PIL.Image.open` can read, and the message for the case that it is no image."""
    unreadable = f"is not an image that PIL can read: {_describe(given)}."
    if isinstance(given, bytes | bytearray | memoryview):
        return BytesIO(given), unreadable
    if hasattr(given, "read"):
        content = given.read()
        if not isinstance(content, bytes):
            raise ValueError(f"`{argument}` must be a file that is open for reading bytes (mode 'rb').")
        return BytesIO(content), unreadable
    if not isinstance(given, str | os.PathLike):
        raise ValueError(f"`{argument}` must be {ALLOWED_SOURCES}, got {_describe(given)}.")

    text = os.fsdecode(given)
    if text.startswith(("http://", "https://")):
        try:
            return BytesIO(_fetch(text, timeout)), unreadable
        except Exception as error:
            raise ValueError(f"`{argument}` could not be fetched from {_describe(text)}: {error}") from error
    if text.startswith("file://"):
        parts = urlsplit(text)
        if parts.netloc not in ("", "localhost"):
            raise ValueError(f"`{argument}` must be a file of this machine, got {_describe(text)}.")
        text = urllib.request.url2pathname(parts.path)
    if "\0" not in text and os.path.isfile(text):
        return text, unreadable
    nothing = (
        f"must be {ALLOWED_SOURCES}; {_describe(text)} is neither an existing file, nor a URL starting with http://, "
        "https:// or file://, nor an image in base64."
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


def _image_from_array(array: np.ndarray | torch.Tensor, argument: str) -> Image.Image:
    """Turn an array of shape (H, W), (H, W, C) or (C, H, W) into an image with 8 bits a channel."""
    shape = tuple(array.shape)
    # Where both ends could be channels, torch's habit is channels first and NumPy's channels last.
    channel_axes = (0, -1) if isinstance(array, torch.Tensor) else (-1, 0)
    channel_axis = next((axis for axis in channel_axes if len(shape) == 3 and 1 <= shape[axis] <= 4), None)
    if len(shape) != 2 and channel_axis is None:
        raise ValueError(
            f"`{argument}` must have shape (H, W), (H, W, C) or (C, H, W) with 1 to 4 channels, got {shape}."
        )
    if 0 in shape:
        raise ValueError(f"`{argument}` holds no pixel: its shape is {shape}.")

    if isinstance(array, torch.Tensor):
        array = to_array(array)
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
        values = values if image.mode == "I" and values.max() <= 255 else _scale_16_bit(values)
        return Image.fromarray(values.clip(0, 255).astype(np.uint8)).convert("RGB")
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


def _describe(value: Any) -> str:
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


def expressions_per_image(expressions: int, images: int) -> int:
    """
    Number of expressions of each image: k of N = B * k.

    Raises:
        ValueError: If they cannot be shared out evenly.
    """
    if not images or expressions % images:
        raise ValueError(
            f"`text` holds {expressions} expressions for {images} images; every image needs the same number, the expressions of "
            "the first image first."
        )
    return expressions // images


class TextWarnings:
    """Warnings about text that a model cannot read: each once, and at most `MOST_WARNINGS` of a kind."""

    def __init__(self) -> None:
        self._given: dict[str, set[str]] = {}

    def unknown_words(
        self, tokenizer: PreTrainedTokenizerBase, expressions: Sequence[str], encoded: BatchEncoding
    ) -> None:
        """Warn about words that the vocabulary lacks; for the arguments, see [`find_unknown_words`]."""
        if len(self._given.get("unknown", ())) >= MOST_WARNINGS:
            return
        for word in find_unknown_words(tokenizer, expressions, encoded):
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


def find_unknown_words(
    tokenizer: PreTrainedTokenizerBase, expressions: Sequence[str], encoded: BatchEncoding
) -> Iterable[str]:
    """
    Find the words that a tokenizer replaces by its unknown token, or spells out letter by letter.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): A fast one; for others nothing is found.
        expressions (`Sequence[str]`): The texts.
        encoded (`BatchEncoding`): The tokenizer's output for them, with `offset_mapping`.

    Returns:
        The words, each once.
    """
    if not tokenizer.is_fast:
        return []
    unknown: dict[str, None] = {}
    for number, expression in enumerate(expressions):
        spans: dict[int, list[tuple[int, int]]] = {}
        replaced = set()
        places = zip(
            encoded.word_ids(number), encoded["offset_mapping"][number], encoded["input_ids"][number], strict=True
        )
        for word, span, token in places:
            if word is not None:  # not a special token
                spans.setdefault(word, []).append(span)
                if token == tokenizer.unk_token_id:
                    replaced.add(word)
        for word, pieces in spans.items():
            is_spelled = len(pieces) > 1 and all(end - start <= 1 for start, end in pieces)
            if is_spelled or word in replaced:
                unknown[expression[pieces[0][0] : pieces[-1][1]]] = None
    return unknown


__all__ = [
    "Request",
    "TextWarnings",
    "as_list",
    "check_expressions",
    "expressions_per_image",
    "find_unknown_words",
    "load_image",
    "load_mask",
    "load_regions",
    "load_requests",
    "read_request",
]
