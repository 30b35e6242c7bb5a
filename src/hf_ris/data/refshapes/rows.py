"""From scenes to rows with RefCOCO's columns."""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from ..segmentation import encode_mask, mask_geometry
from .categories import CATEGORIES
from .drawing import draw_scene
from .expressions import NAMES, describe, describe_nothing, describe_several
from .scene import SPLITS, Scene, generator, pick, sample_scene


ROWS_PER_SCENE = 2
_IDS_PER_SPLIT = 10**10
_ATTEMPTS = 1000

_cached_drawing = lru_cache(maxsize=2)(draw_scene)  # rows that show a scene in another variant share the image


def check_arguments(name: str, split: str, no_target_share: float) -> None:
    """Raise a ValueError unless variant, split and share of rows without a referent are allowed."""
    if name not in NAMES:
        raise ValueError(f"`name` must be one of {list(NAMES)}, got {name!r}.")
    if split not in SPLITS:
        raise ValueError(f"`split` must be one of {list(SPLITS)}, got {split!r}.")
    if not 0 <= no_target_share <= 1:
        raise ValueError(f"`no_target_share` must be between 0 and 1, got {no_target_share}.")


def scene_rows(variant: str, split: str, index: int, no_target_share: float = 0.0) -> list[dict[str, Any]]:
    """
    Make the rows of one scene, which is drawn once for all of them.

    Args:
        variant (`str`): "refshapes", "refshapes+" or "refshapesg".
        split (`str`): "train", "val", "testA" or "testB".
        index (`int`): Number of the scene; its rows are `ROWS_PER_SCENE * index` and the following.
        no_target_share (`float`, *optional*, defaults to 0.0): Share of rows whose expressions are true of no object.

    Returns:
        `ROWS_PER_SCENE` rows with a PIL RGB `image`, `mask` (compressed COCO RLE), `bbox` (x, y, width, height in
        pixels), `area` (pixels), `category`, `ref_id`, `ann_ids`, `image_id`, `file_name`, `split` and `expressions`.
    """
    scene, referents = scene_targets(variant, split, index, no_target_share)
    return [
        _make_row(scene, variant, number, [target] if target >= 0 else [], texts)
        for number, (target, texts) in enumerate(referents)
    ]


def ambiguous_rows(variant: str, split: str, index: int) -> list[dict[str, Any]]:
    """
    Make rows of one scene whose expressions do not say which of several things they mean.

    Returns:
        At most `ROWS_PER_SCENE` rows like those of [`scene_rows`], fewer where few things look the same. Their mask covers everything the
        expression is true of, and `candidates` is the number of these things. Their ids are
        those of the scene's other rows.
    """
    scene = sample_scene(split, index)
    return [
        {**_make_row(scene, variant, number, targets, [text]), "candidates": len(targets)}
        for number, (text, targets) in enumerate(describe_several(scene, variant, ROWS_PER_SCENE))
    ]


def _make_row(scene: Scene, variant: str, number: int, targets: list[int], texts: list[str]) -> dict[str, Any]:
    """Make row `number` of a scene, whose expressions are true of these objects."""
    image, masks = _cached_drawing(scene)
    # Equal ids mean equal images, also across variants, which may need different attempts at a scene.
    split_number = SPLITS.index(scene.split)
    image_id = (split_number * _ATTEMPTS + scene.attempt) * _IDS_PER_SPLIT + scene.index
    ref_id = split_number * _IDS_PER_SPLIT + ROWS_PER_SCENE * scene.index + number
    mask = encode_mask(np.logical_or.reduce(masks[targets], axis=0))
    written = _as_written(scene, variant, number, texts)
    return {
        "image": image,
        "mask": mask,
        **mask_geometry(mask),
        "category": scene.objects[targets[0]].category if targets else "",
        "ref_id": ref_id,
        "ann_ids": [image_id * 10 + target for target in targets],
        "image_id": image_id,
        "file_name": f"refshapes_{scene.split}_{scene.index:09d}.png",
        "split": scene.split,
        "expressions": [
            {"sent_id": ref_id * 4 + order, "raw": raw, "sent": text}
            for order, (text, raw) in enumerate(zip(texts, written, strict=True))
        ],
    }


def turn_rows(variants: Sequence[str], split: str, turn: int, no_target_share: float = 0.0) -> list[dict[str, Any]]:
    """Make the rows from number `ROWS_PER_SCENE * turn` on: each scene is described in every variant in turn."""
    index, number = divmod(turn, len(variants))
    return scene_rows(variants[number], split, index, no_target_share)


def iterate_rows(
    variants: Sequence[str], split: str, start: int, stop: int, no_target_share: float = 0.0
) -> Iterator[dict[str, Any]]:
    """Yield the rows from `start` to before `stop`; see [`turn_rows`]."""
    for turn in range(start // ROWS_PER_SCENE, -(-stop // ROWS_PER_SCENE)):
        for number, row in enumerate(turn_rows(variants, split, turn, no_target_share)):
            if start <= ROWS_PER_SCENE * turn + number < stop:
                yield row


def scene_of(image_id: int) -> Scene:
    """Return the scene that a row shows."""
    origin, index = divmod(image_id, _IDS_PER_SPLIT)
    split, attempt = divmod(origin, _ATTEMPTS)
    return sample_scene(SPLITS[split], index, attempt)


def scene_targets(
    variant: str, split: str, index: int, no_target_share: float = 0.0
) -> tuple[Scene, list[tuple[int, list[str]]]]:
    """
    Sample a scene and what its rows refer to, without drawing it; arguments as in [`scene_rows`].

    Returns:
        The scene and, for each row, the referent's position in `scene.objects` (-1 for none) with its expressions.
    """
    attempt = 0
    while True:
        scene = sample_scene(split, index, attempt)
        rng = generator(SPLITS.index(split), index, attempt, 3, NAMES.index(variant))
        absent = [rng.random() < no_target_share for _ in range(ROWS_PER_SCENE)]
        counts = [pick(rng, (1, 2, 3, 3)) for _ in range(ROWS_PER_SCENE)]
        targets = iter(rng.permutation(_candidates(scene)).tolist())
        nothing = describe_nothing(scene, variant, sum(np.compress(absent, counts)))
        referents: list[tuple[int, list[str]]] = []
        for is_absent, count in zip(absent, counts, strict=True):
            if is_absent:
                texts, nothing = nothing[:count], nothing[count:]
                referents += [(-1, texts)] if texts else []
                continue
            for target in targets:
                if texts := describe(scene, target, variant, count):
                    referents.append((target, texts))
                    break
        if len(referents) == ROWS_PER_SCENE:
            return scene, referents
        attempt += 1


def _candidates(scene: Scene) -> list[int]:
    """Objects that a split's expressions may refer to."""
    living = {"testA": (True,), "testB": (False,)}.get(scene.split, (True, False))
    return [number for number, item in enumerate(scene.objects) if CATEGORIES[item.category].living in living]


def _as_written(scene: Scene, variant: str, number: int, texts: list[str]) -> list[str]:
    """The texts with the capitals and full stops that people use now and then."""
    rng = generator(SPLITS.index(scene.split), scene.index, 4, NAMES.index(variant), number)
    careful = 0.6 if variant == "refshapesg" else 0.1
    written = []
    for text in texts:
        raw = text[0].upper() + text[1:] if rng.random() < careful else text
        written.append(raw + "." if rng.random() < careful * 0.8 else raw)
    return written
