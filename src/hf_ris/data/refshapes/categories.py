"""The categories of the drawn world: their words, kinds and drawings."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from . import creatures, things
from .pen import Pen, Shape, record


@dataclass(frozen=True)
class Category:
    """
    A category of drawn objects.

    Attributes:
        name: Word stored in a row's `category`.
        group: "animal", "figure" (people-like) or "thing".
        draw: Drawing function.
        words: Singular nouns that name it; the first is its name.
        plural: Plural of its name.
        kind: Hypernym that covers it ("animal", "vehicle", "fruit") or "".
        near: Categories whose nouns somebody might also use for it; they are never true and never false of it.
        tilt: Largest rotation, in degrees.
    """

    name: str
    group: str
    draw: Callable[[Pen], None]
    words: tuple[str, ...]
    plural: str
    kind: str = ""
    near: tuple[str, ...] = ()
    tilt: float = 16.0

    @property
    def living(self) -> bool:
        """Whether it is an animal or a people-like figure."""
        return self.group != "thing"


def _category(
    group: str,
    draw: Callable[[Pen], None],
    *synonyms: str,
    plural: str = "",
    kind: str = "",
    near: tuple[str, ...] = (),
    tilt: float = 16.0,
) -> tuple[str, Category]:
    name = draw.__name__
    kind = "animal" if group == "animal" else kind
    return name, Category(name, group, draw, (name, *synonyms), plural or name + "s", kind, near, tilt)


CATEGORIES: dict[str, Category] = dict(
    [
        _category("animal", creatures.fish, plural="fish", near=("whale",), tilt=24),
        _category("animal", creatures.bird, "birdie", near=("owl",), tilt=20),
        _category("animal", creatures.cat, "kitty"),
        _category("animal", creatures.dog, "puppy", plural="dogs"),
        _category("animal", creatures.rabbit, "bunny"),
        _category("animal", creatures.snail),
        _category("animal", creatures.turtle, "tortoise"),
        _category("animal", creatures.butterfly, plural="butterflies", tilt=30),
        _category("animal", creatures.whale, tilt=20),
        _category("animal", creatures.owl),
        _category("animal", creatures.pig, "piggy"),
        _category("animal", creatures.elephant),
        _category("animal", creatures.crab, tilt=24),
        _category("animal", creatures.frog),
        _category("figure", creatures.person, "guy", near=("gnome",), plural="people"),
        _category("figure", creatures.robot),
        _category("figure", creatures.snowman, plural="snowmen", near=("person",)),
        _category("figure", creatures.ghost),
        _category("figure", creatures.gnome, "dwarf", near=("person",)),
        _category("thing", things.mug, "cup", near=("teapot",)),
        _category("thing", things.tree, near=("cactus",)),
        _category("thing", things.house, "home"),
        _category("thing", things.star, tilt=24),
        _category("thing", things.car, kind="vehicle", near=("bus",)),
        _category("thing", things.boat, "sailboat", "ship", kind="vehicle"),
        _category("thing", things.book, tilt=24),
        _category("thing", things.umbrella, tilt=24),
        _category("thing", things.flower, near=("cactus",)),
        _category("thing", things.mushroom),
        _category("thing", things.balloon, near=("kite",)),
        _category("thing", things.lamp),
        _category("thing", things.key, tilt=40),
        _category("thing", things.chair),
        _category("thing", things.hat, near=("crown",)),
        _category("thing", things.apple, kind="fruit", tilt=20),
        _category("thing", things.pear, kind="fruit", tilt=20),
        _category("thing", things.bell, tilt=20),
        _category("thing", things.kite, tilt=30),
        _category("thing", things.teapot, "kettle"),
        _category("thing", things.rocket, kind="vehicle", tilt=30),
        _category("thing", things.guitar, tilt=35),
        _category("thing", things.cactus, plural="cacti"),
        _category("thing", things.shirt, "tshirt"),
        _category("thing", things.sock, tilt=24),
        _category("thing", things.cupcake, "muffin"),
        _category("thing", things.gift, "present"),
        _category("thing", things.crown),
        _category("thing", things.plane, "airplane", kind="vehicle", tilt=24),
        _category("thing", things.heart, tilt=24),
        _category("thing", things.bus, plural="buses", kind="vehicle", near=("car",)),
        _category("thing", things.clock, "alarm clock", tilt=20),
        _category("thing", things.leaf, plural="leaves", tilt=35),
    ]
)


@cache
def shape_of(name: str) -> Shape:
    """Return a category's drawing, recorded once."""
    return record(CATEGORIES[name].draw)
