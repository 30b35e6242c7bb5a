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
        texts = [inputs["text"]] if isinstance(inputs["text"], str) else inputs["text"]
        answers = self.pipeline(
            read_bytes(inputs["image"]),
            text=texts,
            output_format="rle" if kind == "rle" else "pil",
            **{name: parameters[name] for name in OPTIONS if name in parameters},
        )
        return answers if kind == "rle" else [{**answer, "mask": to_base64(answer["mask"])} for answer in answers]


def read_bytes(encoded: Any) -> bytes:
    """A file's bytes from base64, and from nothing else: a request names no files or addresses."""
    try:
        return base64.b64decode("".join((encoded.partition("base64,")[2] or encoded).split()), validate=True)
    except (AttributeError, TypeError, binascii.Error) as error:
        raise ValueError(f"image must be a picture's bytes in base64: {error}") from error


def to_base64(mask: Image.Image) -> str:
    file = BytesIO()
    mask.save(file, "png")
    return base64.b64encode(file.getvalue()).decode()
