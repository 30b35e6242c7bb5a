"""What an Inference Endpoint runs: a picture and expressions in, masks out. It goes beside a pushed model as `handler.py`."""

import base64
import binascii
from io import BytesIO
from typing import Any

import torch
from PIL import Image
from transformers import pipeline


OPTIONS = ("threshold", "no_target_threshold")
MASKS = ("rle", "png")
MOST_EXPRESSIONS = 64
LONGEST_EXPRESSION = 1000  # characters
MOST_PIXELS = 50_000_000
LONGEST_FILE = 64 * 2**20  # characters of base64


class EndpointHandler:
    """
    Answers requests with the model in this repository, whose own code it runs.

    Args:
        path (`str`): The repository's folder.
    """

    def __init__(self, path: str = "") -> None:
        device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
        self.pipeline = pipeline("referring-segmentation", model=path, device=device, trust_remote_code=True)

    def __call__(self, data: dict[str, Any]) -> list[dict[str, Any]]:
        """
        Args:
            data (`dict[str, Any]`):
                `inputs`: a dictionary with the `image`, a file's bytes in base64, and its `text`, an expression or a list of them.
                `parameters`, which may be left out: `threshold` and `no_target_threshold` as of the pipeline, and `mask`: "rle" (COCO's
                run-length code, the default) or "png" (a file's bytes in base64).

        Returns:
            `list[dict[str, Any]]`: For each expression its `label`, `score`, `mask` and `box`.

        Raises:
            ValueError: If the request is unfit; the message names what.
        """
        inputs, parameters = data.get("inputs"), data.get("parameters") or {}
        if not isinstance(inputs, dict) or not {"image", "text"} <= inputs.keys():
            raise ValueError("inputs must be a dictionary with an image and its text")
        if not isinstance(parameters, dict):
            raise ValueError(f"parameters must be a dictionary, got {type(parameters).__name__}")
        unknown = sorted(set(parameters) - {*OPTIONS, "mask"})
        if unknown:
            raise ValueError(f"parameters has {unknown[0]!r}; allowed are mask, threshold and no_target_threshold")
        kind = parameters.get("mask", "rle")
        if kind not in MASKS:
            raise ValueError(f"mask must be 'rle' or 'png', got {kind!r}")
        texts = read_texts(inputs["text"])
        answers = self.pipeline(
            read_picture(inputs["image"]),
            text=texts,
            output_format="rle" if kind == "rle" else "pil",
            **{name: parameters[name] for name in OPTIONS if name in parameters},
        )
        return answers if kind == "rle" else [{**answer, "mask": to_base64(answer["mask"])} for answer in answers]


def read_texts(given: Any) -> list[str]:
    """
    The expressions of a request.

    Raises:
        ValueError: If there are very many, or one is very long.
    """
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list):
        raise ValueError(f"text must be a string or a list of strings, got {type(given).__name__}")
    if len(texts) > MOST_EXPRESSIONS:
        raise ValueError(f"text holds {len(texts)} expressions; allowed are {MOST_EXPRESSIONS}")
    for text in texts:
        if isinstance(text, str) and len(text) > LONGEST_EXPRESSION:
            raise ValueError(f"text holds an expression of {len(text)} characters; allowed are {LONGEST_EXPRESSION}")
    return texts


def read_picture(encoded: Any) -> bytes:
    """
    A picture's bytes, of which nothing was decoded yet.

    Raises:
        ValueError: If they are no picture's, or it has very many pixels.
    """
    content = read_bytes(encoded)
    try:
        with Image.open(BytesIO(content)) as header:
            pixels = header.width * header.height
    except (OSError, Image.DecompressionBombError) as error:
        raise ValueError("image is no picture that can be read") from error
    if pixels > MOST_PIXELS:
        raise ValueError(f"image has {pixels} pixels; allowed are {MOST_PIXELS}")
    return content


def read_bytes(encoded: Any) -> bytes:
    """A file's bytes from base64, and from nothing else: a request names no files or addresses."""
    if isinstance(encoded, str) and len(encoded) > LONGEST_FILE:
        raise ValueError(f"image has {len(encoded)} characters; allowed are {LONGEST_FILE}")
    try:
        return base64.b64decode("".join((encoded.partition("base64,")[2] or encoded).split()), validate=True)
    except (AttributeError, TypeError, binascii.Error) as error:
        raise ValueError(f"image must be a picture's bytes in base64: {error}") from error


def to_base64(mask: Image.Image) -> str:
    file = BytesIO()
    mask.save(file, "png")
    return base64.b64encode(file.getvalue()).decode()
