"""Adaptive average pooling as two small matrix products: torch's own does not run everywhere (Apple GPUs)."""

import torch


def averaging_matrix(length: int, cells: int, like: torch.Tensor) -> torch.Tensor:
    """Rows that average `length` positions into `cells` cells, which overlap where they do not divide: (cells, length)."""
    positions = torch.arange(length, device=like.device)
    cell = torch.arange(cells, device=like.device).unsqueeze(1)
    first, last = cell * length // cells, ((cell + 1) * length + cells - 1) // cells
    inside = ((positions >= first) & (positions < last)).to(like.dtype)
    return inside / inside.sum(dim=1, keepdim=True)


def average_pool(image_map: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """
    Averages a map into cells, as `torch.nn.functional.adaptive_avg_pool2d`.

    Args:
        image_map (`torch.Tensor` of shape `(..., h, w)`): Any floating-point map.
        size (`tuple[int, int]`): Cells down and across, fewer or more than there are positions.

    Returns:
        `torch.Tensor` of shape `(..., *size)`.
    """
    rows = averaging_matrix(image_map.shape[-2], size[0], image_map)
    columns = averaging_matrix(image_map.shape[-1], size[1], image_map)
    return rows @ image_map @ columns.T


__all__ = ["average_pool"]
