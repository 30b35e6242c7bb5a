"""RefShapes: a drawn world with exact masks and referring expressions.

- `categories`, `creatures`, `things`, `pen`: what can be drawn, as polygons
- `scene`: facts of a picture, sampled from (split, index)
- `drawing`, `backgrounds`: facts to picture and masks
- `predicates`, `expressions`, `phrasing`: facts to referring expressions
- `rows`: all of it as rows with RefCOCO's columns; `dataset` (cached) and `stream` (endless) hand them out
- `examples`: unseen scenes to try a model on
"""

from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from .categories import CATEGORIES as CATEGORIES
    from .dataset import load_refshapes as load_refshapes
    from .drawing import draw_scene as draw_scene
    from .examples import EXAMPLES as EXAMPLES
    from .expressions import NAMES as NAMES
    from .expressions import describe as describe
    from .scene import COLOURS as COLOURS
    from .scene import PATTERNS as PATTERNS
    from .scene import SPLITS as SPLITS
    from .scene import Scene as Scene
    from .scene import SceneObject as SceneObject
    from .scene import sample_scene as sample_scene
    from .stream import RefShapesStream as RefShapesStream
    from .words import vocabulary as vocabulary

_MODULES = {
    "CATEGORIES": "categories",
    "COLOURS": "scene",
    "EXAMPLES": "examples",
    "NAMES": "expressions",
    "PATTERNS": "scene",
    "SPLITS": "scene",
    "RefShapesStream": "stream",
    "Scene": "scene",
    "SceneObject": "scene",
    "describe": "expressions",
    "draw_scene": "drawing",
    "load_refshapes": "dataset",
    "sample_scene": "scene",
    "vocabulary": "words",
}

__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    """Imports an export when it is first asked for: the builder needs `datasets` and the stream torch."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_MODULES[name]}", __name__), name)
