"""Models that the demo offers: for photos those of the Hub, where it can be reached, and for drawings the bundled ones."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

from huggingface_hub import constants, model_info, try_to_load_from_cache
from transformers import Pipeline

from .composition import COMPOSITIONS, grounded, zero_shot
from .demo_backend import device, load
from .systems import BUNDLED_CHECKPOINT, BUNDLED_ZERO_SHOT, PHOTO_MODEL, find_model
from .visitors import task_of


PATIENCE = 2.0  # seconds that the Hub has to answer when the page starts
_OFFLINE = threading.Lock()
SAM3 = "facebook/sam3"
DETECTOR, SEGMENTER = "IDEA-Research/grounding-dino-tiny", "facebook/sam2.1-hiera-tiny"

BUNDLED_NAME = "MagNet tiny: bundled, knows drawings only"
BUNDLED_ZERO_SHOT_NAME = "TAS tiny: bundled, knows drawings only, zero-shot"


class PhotoModel(NamedTuple):
    """A model for photos: its name on the page, the Hub ids of its parts, and the function that loads it where these can be had."""

    name: str
    ids: Sequence[str]
    make: Callable[[], Pipeline]

    @property
    def is_cached(self) -> bool:
        """Whether its weights are on this machine."""
        return all(isinstance(try_to_load_from_cache(each, "model.safetensors"), str) for each in self.ids)

    def load(self) -> Pipeline:
        """
        Load it. Where the Hub does not answer now, it is not waited for.

        Raises:
            OSError: If it is not cached then, or the Hub does not have it.
        """
        if hub_answers():
            return self.make()
        if not self.is_cached:
            raise ConnectionError(f"The Hub does not answer, and {self.name} is not on this machine.")
        with _offline():
            return self.make()


def photo_models() -> list[PhotoModel]:
    """The models for photos; the first one is the page's choice."""
    tas = COMPOSITIONS["tas"].parts.values()
    return [
        PhotoModel("CLIPSeg: photos; small and quick", [PHOTO_MODEL], partial(load, PHOTO_MODEL)),
        PhotoModel(
            "Grounding DINO with SAM 2.1: photos; sharp masks, follows places",
            [DETECTOR, SEGMENTER],
            partial(grounded, DETECTOR, SEGMENTER, device=device()),
        ),
        PhotoModel("SAM 3: photos; needs access on the Hub", [SAM3], partial(load, SAM3)),
        PhotoModel("TAS: photos; CLIP, SAM and BLIP, zero-shot", [*tas], partial(zero_shot, "tas", device=device())),
    ]


@contextmanager
def _offline() -> Iterator[None]:
    """Let huggingface_hub read its cache alone: without a connection it would try again and again for each file."""
    with _OFFLINE:
        before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
        try:
            yield
        finally:
            constants.HF_HUB_OFFLINE = before


def hub_answers() -> bool:
    """Whether the Hub can be reached; known within `PATIENCE` seconds, also where names are not resolved."""
    if constants.HF_HUB_OFFLINE:
        return False
    answered = threading.Event()

    def ask() -> None:
        try:
            model_info(PHOTO_MODEL, timeout=PATIENCE, token=False)
        except Exception:  # whatever it is, there is no model to be had
            return
        answered.set()

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(PATIENCE)
    return answered.is_set()


class Offer(NamedTuple):
    """
    Models that the page offers.

    Args:
        models (`dict[str, Callable]`): Functions that load them, by name; the first is chosen at the start.
        for_drawings (`tuple[str, ...]`): Names of those that know drawings only.
        takes_photos (`bool`): Whether one for photos can be had.
    """

    models: dict[str, Callable[[], Pipeline]]
    for_drawings: tuple[str, ...] = ()
    takes_photos: bool = True


def make_offer(named: Sequence[str] = ()) -> Offer:
    """
    Put together the models that the page offers: those for photos before the bundled ones, but last those that need a connection where
    there is none.

    Args:
        named (`Sequence[str]`, *optional*): Folders or Hub ids of further ones.

    Raises:
        ValueError: If a named model is of a kind that the page does not take.
        OSError: If it cannot be found.
    """
    photos = photo_models()
    is_connected = hub_answers()
    at_hand = [model for model in photos if is_connected or model.is_cached]
    models = {model.name: model.load for model in at_hand}
    models[BUNDLED_NAME] = partial(load, str(BUNDLED_CHECKPOINT))
    models[BUNDLED_ZERO_SHOT_NAME] = partial(load, str(BUNDLED_ZERO_SHOT))
    for name in named:
        source = find_model(name)
        task_of(source)  # an unfit model is refused now, not when a visitor asks it
        models[str(name)] = partial(load, source)
    models.update({model.name: model.load for model in photos if model not in at_hand})
    return Offer(models, (BUNDLED_NAME, BUNDLED_ZERO_SHOT_NAME), bool(at_hand))


__all__ = ["BUNDLED_NAME", "BUNDLED_ZERO_SHOT_NAME", "Offer", "make_offer"]
