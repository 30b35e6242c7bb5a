"""
The door: everything that a user passes in becomes a [`Request`] here, or an error that says what was wrong. Behind it, nothing is
loaded or checked again.

Images come as paths, URLs, base64, files, PIL images, arrays or tensors, of any EXIF orientation, colour mode and bit depth, and may be
hostile; expressions may say nothing, or have words that a vocabulary lacks; regions may be masks of any type.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from .without_torch import check_expressions, describe, load_image, to_array


NO_PROPOSER = (
    "`regions` are missing: this model has no proposer. Give the pipeline of the task "
    '"zero-shot-referring-segmentation" `regions` with each image, or compose the model with a proposer, such as '
    'hf_ris.zero_shot(..., proposer="felzenszwalb").'
)


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
            f"`{argument}` must be PIL images, NumPy arrays or torch tensors of shape (H, W), got {describe(mask)}."
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


__all__ = [
    "Request",
    "expressions_per_image",
    "load_mask",
    "load_regions",
    "load_requests",
    "read_request",
]
