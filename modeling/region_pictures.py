"""
Pictures of regions, as an image-text model or a captioner sees them (TAS, section 3.2), and where regions lie.
"""

from collections.abc import Sequence

import numpy as np

from .masks import mask_to_box


BLUR_SIZE = 75  # pixels; the standard deviation that OpenCV chooses for it is 11.6


def cut_out(image: np.ndarray, mask: np.ndarray, as_published: bool = False) -> np.ndarray:
    """
    A region's box, square, with black around the region and the box.

    Args:
        image (`np.ndarray` of shape `(height, width, 3)`): RGB, bytes.
        mask (`np.ndarray` of shape `(height, width)`): Boolean, not empty.
        as_published (`bool`, *optional*, defaults to `False`): Whether the box lacks its last row and column, and the padding one
            of an odd number of pixels, as in the released code.

    Returns:
        `np.ndarray` of shape `(side, side, 3)`.
    """
    return _square(_fill_around(image, mask, np.zeros(image.shape[2], image.dtype), as_published), as_published)


def crop_filled(image: np.ndarray, mask: np.ndarray, colour: Sequence[int]) -> np.ndarray:
    """A region's box with a colour around the region, as large as it is."""
    return _fill_around(image, mask, np.asarray(colour, image.dtype), as_published=False)


def blur_around(image: np.ndarray, blurred: np.ndarray, mask: np.ndarray, as_published: bool = False) -> np.ndarray:
    """A region's box, square: sharp inside the region, from [`blur`]'s picture around it, black around the box."""
    return _square(_fill_around(image, mask, blurred, as_published), as_published)


def centre_of(mask: np.ndarray) -> tuple[float, float]:
    """(row, column), the means over what is true."""
    rows, columns = np.nonzero(mask)
    return float(rows.mean()), float(columns.mean())


def blur(image: np.ndarray) -> np.ndarray:
    """
    OpenCV's Gaussian blur of bytes with a kernel of 75 pixels, to the bit: in whole numbers, with weights in 256ths.

    Args:
        image (`np.ndarray` of shape `(height, width, channels)`): Bytes.
    """
    rows, columns = (_blur_matrix(side) for side in image.shape[:2])
    # Exact: whole numbers below 2**24, however they are added up.
    states = rows @ image.transpose(2, 0, 1).astype(np.float32) @ columns.T
    return ((states.astype(np.int32) + 2**15) >> 16).astype(np.uint8).transpose(1, 2, 0)


def _blur_matrix(side: int) -> np.ndarray:
    """(side, side): which share of each pixel of a line goes into each of the blurred line, in 256ths."""
    matrix = np.zeros((side, side), np.float32)
    margin = BLUR_SIZE // 2
    for start, weight in enumerate(_blur_weights()):
        np.add.at(matrix, (np.arange(side), _mirrored(np.arange(side) + start - margin, side)), weight)
    return matrix


def _blur_weights() -> list[int]:
    """A Gaussian in 256ths: what rounding takes from one weight goes to the next, and what is left to the middle one."""
    sigma = 0.3 * ((BLUR_SIZE - 1) * 0.5 - 1) + 0.8
    exact = np.exp(-((np.arange(BLUR_SIZE) - BLUR_SIZE // 2) ** 2) / (2 * sigma**2))
    exact = 256 * exact / exact.sum()
    half: list[int] = []
    left_over = 0.0
    for weight in exact[: BLUR_SIZE // 2]:
        half.append(round(weight + left_over))
        left_over += weight - half[-1]
    return [*half, 256 - 2 * sum(half), *half[::-1]]


def _mirrored(places: np.ndarray, length: int) -> np.ndarray:
    """Places beyond the ends, reflected at the first and last one as often as it takes."""
    if length == 1:
        return np.zeros_like(places)
    places = np.abs(places) % (2 * (length - 1))
    return np.where(places < length, places, 2 * (length - 1) - places)


def _fill_around(image: np.ndarray, mask: np.ndarray, filling: np.ndarray, as_published: bool) -> np.ndarray:
    """A region's box: the picture inside of the region, and around it a colour or another picture of the same size."""
    box = mask_to_box(mask)
    assert box is not None, "a region is not empty"
    left, top, right, bottom = box["xmin"], box["ymin"], box["xmax"], box["ymax"]
    if as_published:
        right, bottom = max(right - 1, left + 1), max(bottom - 1, top + 1)
    within = (slice(top, bottom), slice(left, right))
    return np.where(mask[within][..., None], image[within], filling if filling.ndim == 1 else filling[within])


def _square(picture: np.ndarray, as_published: bool) -> np.ndarray:
    """With black on both shorter sides; of an odd number of pixels, one more at the end."""
    height, width = picture.shape[:2]
    rows, columns = max(0, width - height), max(0, height - width)
    rest = 0 if as_published else 1
    padding = [(rows // 2, (rows + rest) // 2), (columns // 2, (columns + rest) // 2), (0, 0)]
    return np.pad(picture, padding)


__all__ = ["blur", "blur_around", "centre_of", "crop_filled", "cut_out"]
