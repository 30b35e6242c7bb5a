"""
RefShapes: a drawn world with exact masks and referring expressions.

- `categories`, `creatures`, `things`, `pen`: what can be drawn, as polygons
- `scene`: scenes, sampled from (split, index)
- `drawing`, `backgrounds`: scenes to images and masks
- `predicates`, `expressions`, `phrasing`, `words`: scenes to referring expressions
- `rows`: all of it as rows with RefCOCO's columns; `dataset` (cached) and `stream` (endless) hand them out
- `examples`: unseen scenes to try a model on
"""

from typing import TYPE_CHECKING, Any

from .categories import CATEGORIES
from .drawing import draw_scene
from .examples import EXAMPLES
from .expressions import NAMES, describe
from .scene import COLOURS, PATTERNS, SPLITS, Scene, SceneObject, sample_scene
from .words import vocabulary


if TYPE_CHECKING:
    from .dataset import load_refshapes
    from .stream import RefShapesStream


def __getattr__(name: str) -> Any:
    """Import what needs `datasets` or torch when it is first asked for."""
    if name == "load_refshapes":
        from .dataset import load_refshapes

        return load_refshapes
    if name == "RefShapesStream":
        from .stream import RefShapesStream

        return RefShapesStream
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "CATEGORIES",
    "COLOURS",
    "EXAMPLES",
    "NAMES",
    "PATTERNS",
    "SPLITS",
    "RefShapesStream",
    "Scene",
    "SceneObject",
    "describe",
    "draw_scene",
    "load_refshapes",
    "sample_scene",
    "vocabulary",
]
