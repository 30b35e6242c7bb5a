"""Data sets: every loader gives RefCOCO's columns, so that every command takes any of them."""

from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from .refshapes import RefShapesStream, load_refshapes

__all__ = ["RefShapesStream", "load_refshapes"]


def __getattr__(name: str) -> Any:
    """Imports a loader when it is first asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import refshapes

    return getattr(refshapes, name)
