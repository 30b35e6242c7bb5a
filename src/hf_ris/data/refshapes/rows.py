"""From scenes to rows with RefCOCO's columns."""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image

from ..segmentation import encode_mask, mask_geometry
from .categories import CATEGORIES
from .drawing import draw_scene
from .expressions import NAMES, describe, describe_nothing
from .scene import SPLITS, Scene, generator, pick, sample_scene


ROWS_PER_SCENE = 2
_IDS_PER_SPLIT = 10**10
_ATTEMPTS = 1000


def check_arguments(name: str, split: str, no_target_share: float) -> None:
    """Raises a ValueError unless name, split and share of rows without target are allowed."""
    if name not in NAMES:
        raise ValueError(f"name={name!r} is unknown; allowed are {', '.join(NAMES)}")
    if split not in SPLITS:
        raise ValueError(f"split={split!r} is unknown; allowed are {', '.join(SPLITS)}")
    if not 0 <= no_target_share <= 1:
        raise ValueError(f"no_target_share={no_target_share} is out of range; allowed are numbers from 0 to 1")


def scene_rows(name: str, split: str, index: int, no_target_share: float = 0.0) -> list[dict[str, Any]]:
    """Makes the rows of one scene, which is drawn once for all of them.

    Args:
        name (`str`): "refshapes", "refshapes+" or "refshapesg".
        split (`str`): "train", "val", "testA" or "testB".
        index (`int`): number of the scene; its rows are `ROWS_PER_SCENE * index` and the following.
        no_target_share (`float`, *optional*, defaults to 0.0): share of rows whose expressions are true of no object.

    Returns:
        `ROWS_PER_SCENE` rows with a PIL RGB `image`, `mask` (compressed COCO RLE), `bbox` (x, y, width, height in
        pixels), `area` (pixels), `category`, `ref_id`, `ann_ids`, `image_id`, `file_name`, `split` and `expressions`.
    """
    scene, referents = scene_targets(name, split, index, no_target_share)
    picture, masks = _drawn(scene)
    rows = []
    for number, (target, texts) in enumerate(referents):
        row_index = ROWS_PER_SCENE * index + number
        ref_id = SPLITS.index(split) * _IDS_PER_SPLIT + row_index
        # Equal ids mean equal pictures, also across manners, which may need different attempts at a scene.
        image_id = (SPLITS.index(split) * _ATTEMPTS + scene.attempt) * _IDS_PER_SPLIT + index
        mask = masks[target] if target >= 0 else np.zeros(masks.shape[1:], dtype=bool)
        code = encode_mask(mask)
        rows.append(
            {
                "image": picture,
                "mask": code,
                **mask_geometry(code),
                "category": scene.objects[target].category if target >= 0 else "",
                "ref_id": ref_id,
                "ann_ids": [image_id * 10 + target] if target >= 0 else [],
                "image_id": image_id,
                "file_name": f"refshapes_{split}_{index:09d}.png",
                "split": split,
                "expressions": [
                    {"sent_id": ref_id * 4 + order, "raw": raw, "sent": text}
                    for order, (text, raw) in enumerate(
                        zip(texts, _as_written(scene, name, number, texts), strict=True)
                    )
                ],
            }
        )
    return rows


def iterate_rows(
    names: Sequence[str], split: str, start: int, stop: int, no_target_share: float = 0.0
) -> Iterator[dict[str, Any]]:
    """
    Makes the rows from `start` to before `stop`; arguments as in [`scene_rows`].

    With several names, each scene is described in every manner in turn before the next scene comes.
    """
    for turn in range(start // ROWS_PER_SCENE, -(-stop // ROWS_PER_SCENE)):
        for number, row in enumerate(turn_rows(names, split, turn, no_target_share)):
            if start <= ROWS_PER_SCENE * turn + number < stop:
                yield row


def turn_rows(names: Sequence[str], split: str, turn: int, no_target_share: float = 0.0) -> list[dict[str, Any]]:
    """The rows from number `ROWS_PER_SCENE * turn` on: a scene in one of the manners; arguments as in [`iterate_rows`]."""
    index, manner = divmod(turn, len(names))
    return scene_rows(names[manner], split, index, no_target_share)


def scene_of(image_id: int) -> Scene:
    """The facts of the scene that a row shows."""
    origin, index = divmod(image_id, _IDS_PER_SPLIT)
    split, attempt = divmod(origin, _ATTEMPTS)
    return sample_scene(SPLITS[split], index, attempt)


@lru_cache(maxsize=2)
def _drawn(scene: Scene) -> tuple[Image.Image, np.ndarray]:
    """Draws a scene; the next rows that show it, in another manner, share the picture."""
    return draw_scene(scene)


def scene_targets(
    name: str, split: str, index: int, no_target_share: float = 0.0
) -> tuple[Scene, list[tuple[int, list[str]]]]:
    """Samples a scene and what its rows refer to, without drawing it.

    Args:
        name, split, index, no_target_share: as in [`scene_rows`].

    Returns:
        The scene and, for each row, the target's position in `scene.objects` (-1 for none) with its expressions.
    """
    attempt = 0
    while True:
        scene = sample_scene(split, index, attempt)
        rng = generator(SPLITS.index(split), index, attempt, 3, NAMES.index(name))
        absent = [rng.random() < no_target_share for _ in range(ROWS_PER_SCENE)]
        counts = [pick(rng, (1, 2, 3, 3)) for _ in range(ROWS_PER_SCENE)]
        targets = iter(rng.permutation(_candidates(scene)).tolist())
        referents: list[tuple[int, list[str]]] = []
        nothing = describe_nothing(scene, name, sum(count for count, none in zip(counts, absent, strict=True) if none))
        for none, count in zip(absent, counts, strict=True):
            if none:
                texts, nothing = nothing[:count], nothing[count:]
                referents += [(-1, texts)] if texts else []
                continue
            for target in targets:
                texts = describe(scene, target, name, count)
                if texts:
                    referents.append((target, texts))
                    break
        if len(referents) == ROWS_PER_SCENE:
            return scene, referents
        attempt += 1


def _candidates(scene: Scene) -> list[int]:
    """Objects that a split's expressions may refer to."""
    living = {"testA": (True,), "testB": (False,)}.get(scene.split, (True, False))
    return [number for number, fact in enumerate(scene.objects) if CATEGORIES[fact.category].living in living]


def _as_written(scene: Scene, name: str, number: int, texts: list[str]) -> list[str]:
    """The texts with the capitals and full stops that people use now and then."""
    rng = generator(SPLITS.index(scene.split), scene.index, 4, NAMES.index(name), number)
    careful = 0.6 if name == "refshapesg" else 0.1
    written = []
    for text in texts:
        raw = text[0].upper() + text[1:] if rng.random() < careful else text
        written.append(raw + "." if rng.random() < careful * 0.8 else raw)
    return written
