"""Handler of an Inference Endpoint: an image and expressions in, masks out. A pushed model carries it as `handler.py`."""

import base64
import binascii
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image


OPTIONS = ("threshold", "no_target_threshold")
MASKS = ("rle", "png")
EXPORTED = "hf_ris_onnx"  # the code beside an exported model
MOST_EXPRESSIONS = 64
LONGEST_EXPRESSION = 1000  # characters
MOST_PIXELS = 50_000_000
LONGEST_FILE = 64 * 2**20  # characters of base64


class EndpointHandler:
    """
    Answer requests with the model in this repository, whose code it runs.

    Args:
        path (`str`): The repository's folder.
    """

    def __init__(self, path: str = "") -> None:
        self.ask = load_exported(path) if (Path(path) / EXPORTED).is_dir() else load_pipeline(path)

    def __call__(self, data: dict[str, Any]) -> list[dict[str, Any]]:
        """
        Args:
            data (`dict[str, Any]`):
                `inputs`: a dictionary with the `image`, a file's bytes in base64, and its `text`, an expression or a list of them.
                `parameters`, which may be left out: the pipeline's `threshold` and `no_target_threshold`, and `mask`: "rle" (COCO's
                run-length code, the default) or "png" (a file's bytes in base64).

        Returns:
            `list[dict[str, Any]]`: For each expression its `label`, `score`, `mask` and `box`.

        Raises:
            ValueError: If the request is unfit; the message says why.
        """
        inputs, parameters = data.get("inputs"), data.get("parameters") or {}
        if not isinstance(inputs, dict) or not {"image", "text"} <= inputs.keys():
            raise ValueError("`inputs` must be a dictionary with an image and its text.")
        if not isinstance(parameters, dict):
            raise ValueError(f"`parameters` must be a dictionary, got {type(parameters).__name__}.")
        unknown = sorted(set(parameters) - {*OPTIONS, "mask"})
        if unknown:
            raise ValueError(f"`parameters` may hold mask, threshold and no_target_threshold, got {unknown[0]!r}.")
        kind = parameters.get("mask", "rle")
        if kind not in MASKS:
            raise ValueError(f"`mask` must be 'rle' or 'png', got {kind!r}.")
        texts = read_texts(inputs["text"])
        answers = self.ask(
            read_image(inputs["image"]),
            text=texts,
            output_format="rle" if kind == "rle" else "pil",
            **{name: parameters[name] for name in OPTIONS if name in parameters},
        )
        return answers if kind == "rle" else [{**answer, "mask": to_base64(answer["mask"])} for answer in answers]


def load_pipeline(path: str) -> Any:
    """Load a model with torch, and the code beside it."""
    import torch
    from transformers import pipeline

    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
    return pipeline("referring-segmentation", model=path, device=device, trust_remote_code=True)


def load_exported(path: str) -> Any:
    """Load a model that was exported to ONNX, without torch."""
    sys.path.insert(0, path)
    from hf_ris_onnx import ExportedModel

    return ExportedModel(path)


def read_texts(given: Any) -> list[str]:
    """
    Check the expressions of a request.

    Raises:
        ValueError: If there are too many, or one is too long.
    """
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list):
        raise ValueError(f"`text` must be a string or a list of strings, got {type(given).__name__}.")
    if len(texts) > MOST_EXPRESSIONS:
        raise ValueError(f"`text` must hold at most {MOST_EXPRESSIONS} expressions, got {len(texts)}.")
    for text in texts:
        if isinstance(text, str) and len(text) > LONGEST_EXPRESSION:
            raise ValueError(
                f"`text` must hold expressions of at most {LONGEST_EXPRESSION} characters, got {len(text)}."
            )
    return texts


def read_image(encoded: Any) -> bytes:
    """
    Read an image file's bytes, and check its size before anything is decoded.

    Raises:
        ValueError: If this is no image, or one with too many pixels.
    """
    content = read_bytes(encoded)
    try:
        with Image.open(BytesIO(content)) as header:
            pixels = header.width * header.height
    except (OSError, Image.DecompressionBombError) as error:
        raise ValueError("`image` must be an image file that can be read.") from error
    if pixels > MOST_PIXELS:
        raise ValueError(f"`image` must have at most {MOST_PIXELS} pixels, got {pixels}.")
    return content


def read_bytes(encoded: Any) -> bytes:
    """Decode base64, and nothing else: a request cannot name a file or an address."""
    if isinstance(encoded, str) and len(encoded) > LONGEST_FILE:
        raise ValueError(f"`image` must have at most {LONGEST_FILE} characters, got {len(encoded)}.")
    try:
        return base64.b64decode("".join((encoded.partition("base64,")[2] or encoded).split()), validate=True)
    except (AttributeError, TypeError, binascii.Error) as error:
        raise ValueError(f"`image` must be a file's bytes in base64: {error}.") from error


def to_base64(mask: Image.Image) -> str:
    file = BytesIO()
    mask.save(file, "png")
    return base64.b64encode(file.getvalue()).decode()
