"""Datasets. Every loader gives the same columns, so that every command takes any of them."""

from importlib import import_module
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from .collator import ReferringSegmentationCollator as ReferringSegmentationCollator
    from .features import FEATURES as FEATURES
    from .image_folder import load_image_folder as load_image_folder
    from .labels import load_labels as load_labels
    from .refcoco import load_refcoco as load_refcoco
    from .refshapes import RefShapesStream as RefShapesStream
    from .refshapes import load_refshapes as load_refshapes
    from .segmentation import decode_mask as decode_mask

_MODULES = {
    "FEATURES": "features",
    "RefShapesStream": "refshapes",
    "ReferringSegmentationCollator": "collator",
    "decode_mask": "segmentation",
    "load_image_folder": "image_folder",
    "load_labels": "labels",
    "load_refcoco": "refcoco",
    "load_refshapes": "refshapes",
}

__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    """Import an export when it is first used."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)
