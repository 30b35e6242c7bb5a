"""Unseen scenes to try a model on, in which one changed word lands on another object."""

from dataclasses import dataclass

from PIL import Image

from .drawing import draw_scene
from .rows import scene_of


@dataclass(frozen=True)
class Example:
    """
    A scene and expressions for it.

    Attributes:
        image_id (`int`): The `image_id` of the rows that show the scene.
        expressions (`tuple[str, ...]`): Each is true of one object, another than the others'.
    """

    image_id: int
    expressions: tuple[str, ...]

    def draw(self) -> Image.Image:
        """Draw the scene as an RGB image."""
        return draw_scene(scene_of(self.image_id))[0]


# Scenes of the test split of animals and people.
EXAMPLES = (
    Example(2 * 10**13 + 45, ("the red rabbit", "the black rabbit", "the gray rabbit")),
    Example(2 * 10**13 + 118, ("the plain white gnome", "the dotted white gnome")),
    Example(2 * 10**13 + 1, ("the big brown dog with spots", "the small brown dog with spots")),
    Example(2 * 10**13 + 36, ("the purple whale", "the purple dog")),
    Example(2 * 10**13 + 50, ("the rabbit at the top", "the rabbit at the bottom")),
    Example(2 * 10**13 + 115, ("right striped frog", "left striped frog")),
    Example(2 * 10**13 + 42, ("snail furthest left", "snail furthest right", "star furthest left")),
    Example(
        2 * 10**13 + 26, ("little green owl at bottom", "large green owl at bottom", "little yellow owl at bottom")
    ),
    Example(
        2 * 10**13 + 68,
        ("the dwarf on the left side of the black dwarf", "the dwarf on the right side of the black dwarf"),
    ),
    Example(2 * 10**13 + 4, ("red turtle above the black turtle", "red turtle below the black turtle")),
)


__all__ = ["EXAMPLES", "Example"]
