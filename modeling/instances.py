"""
Instances: what models find that look for all objects that a text names (SAM 3, detectors). An expression refers to one of them, or
to several; which, is chosen here.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .configuration_grounded import SELECTIONS
from .language_expression import Expression
from .masks import check_flag, logit, read_target_sizes
from .modeling_referring_segmentation import ReferringSegmentationOutput
from .processing_referring_segmentation import SegmentationProcessor
from .tas_rectifier import Layout, rectify
from .without_torch import check_probability


LOWEST_SCORE = 0.01  # instances below it are not kept


@dataclass
class InstanceSegmentationOutput(ReferringSegmentationOutput):
    """
    Output of a model that finds instances. N = B * k counts (image, expression) pairs, image-major.

    Args:
        instance_masks (`tuple[torch.FloatTensor]`):
            For each pair the log-odds of its instances' pixels, (m, h, w). There may be none.
        instance_scores (`tuple[torch.FloatTensor]`):
            For each pair how sure the model is that each is what the expression says, and is there at all, (m,). Hardly sure ones are left out.
        instance_boxes (`tuple[torch.FloatTensor]`):
            For each pair the instances' left, top, right and bottom, in shares of the image's sides, (m, 4).
        phrase_scores (`tuple[dict[str, torch.FloatTensor]]`, *optional*):
            For each pair the scores for the expression's noun phrase and for the things that it relates its referent to, (m,) each.
        expressions (`tuple[Expression]`, *optional*):
            The expression of each pair, read when it is first asked for. Without them nothing is chosen by places.
        frames (`tuple[Frame]`, *optional*):
            For each pair where its image lies in what the masks cover; by default they cover the image.
    """

    instance_masks: tuple[torch.Tensor, ...] | None = None
    instance_scores: tuple[torch.Tensor, ...] | None = None
    instance_boxes: tuple[torch.Tensor, ...] | None = None
    phrase_scores: tuple[dict[str, torch.Tensor], ...] | None = None
    expressions: tuple[Expression, ...] | None = None
    frames: tuple[Any, ...] | None = None


def check_selection(name: str, value: Any) -> None:
    """
    Raises:
        ValueError: If it names no way to select.
    """
    if value not in SELECTIONS:
        raise ValueError(f"`{name}` must be one of {list(SELECTIONS)}, got {value!r}.")


def check_instance_threshold(name: str, value: Any) -> None:
    """
    Raises:
        ValueError: If it is no number between `LOWEST_SCORE` and 1.
    """
    check_probability(name, value)
    if value < LOWEST_SCORE:
        raise ValueError(f"`{name}` must be between {LOWEST_SCORE} and 1, got {value!r}.")


class InstanceSelection(SegmentationProcessor):
    """
    Base of the processors of models that find instances.

    Attributes:
        threshold (`float`): Foreground probability above which a pixel belongs to an instance's mask.
        instance_threshold (`float`): An instance counts if its score is above this.
        select (`str`): Which instances are the answer.
    """

    answer_options = {
        "select": check_selection,
        "instance_threshold": check_instance_threshold,
        "explain": check_flag,
    }
    threshold: float
    instance_threshold: float
    select = "best"

    @torch.no_grad()
    def iterate_segments(
        self,
        outputs: Any,
        target_sizes: Sequence[Sequence[int]] | torch.Tensor,
        threshold: float | None = None,
        select: str | None = None,
        instance_threshold: float | None = None,
        explain: bool = False,
    ) -> Iterator[dict[str, Any]]:
        """
        Yield masks and scores; see [`SegmentationProcessor`].

        Args:
            select (`str`, *optional*): "best", SAM 3's default, for the instance with the highest score, since most expressions
                refer to one object; "all" for the union of all instances; "place" for the instance that lies where the expression
                says, by the rectifier of TAS (EMNLP Findings 2023, section 3.4); where it says nothing of places, the best.
            instance_threshold (`float`, *optional*): An instance counts if its score is above this; by default the processor's.
            explain (`bool`, *optional*, defaults to `False`): Whether each has an `explanation`: the `boxes` of all instances in pixels
                with `scores`, the numbers `picked` of those in the mask, how it did `select`, the noun `phrase`, the `places` that
                were read, and the `candidates` for these.
        """
        threshold = self.threshold if threshold is None else threshold
        select = self.select if select is None else select
        least = self.instance_threshold if instance_threshold is None else instance_threshold
        sizes = read_target_sizes(target_sizes, len(outputs.instance_scores), threshold)
        for number, size in enumerate(sizes):
            logits, scores = outputs.instance_masks[number], outputs.instance_scores[number]
            found = (scores > least).nonzero()[:, 0]
            picked: torch.Tensor = found[:0]
            reasons: dict[str, Any] = {}
            if select == "place" and len(found):
                picked, reasons = self._choose_by_place(outputs, number, found, threshold)
            elif len(found):
                picked = found if select == "all" else scores.argmax()[None]
            mask = torch.zeros(size, dtype=torch.bool, device=scores.device)
            for instance in picked:
                mask |= self.read_instance(logits[instance].float(), self._frame(outputs, number), size, threshold)
            segment = {"mask": mask, "score": float(scores[picked].max()) if mask.any() else 0.0}
            if explain:
                boxes = outputs.instance_boxes[number][found].float().cpu() * torch.tensor([size[1], size[0]] * 2)
                segment["explanation"] = {
                    "boxes": boxes.tolist(),
                    "scores": scores[found].tolist(),
                    "picked": _positions(picked, found),
                    "select": select,
                    **reasons,
                }
            yield segment

    def read_instance(self, logits: torch.Tensor, frame: Any, size: tuple[int, int], threshold: float) -> torch.Tensor:
        """Read an instance's mask, boolean (height, width), from its log-odds (h, w)."""
        raise NotImplementedError

    def _frame(self, outputs: Any, number: int) -> Any:
        frames = outputs.get("frames")
        return None if frames is None else frames[number]

    def _choose_by_place(
        self, outputs: Any, number: int, found: torch.Tensor, threshold: float
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        """The instance that lies where the expression says, and why."""
        expressions, phrase_scores = outputs.get("expressions"), outputs.get("phrase_scores")
        if expressions is None:
            raise ValueError('`select` must not be "place" for outputs without `expressions`.')
        expression = expressions[number]
        logits, frame = outputs.instance_masks[number][found].float(), self._frame(outputs, number)
        masks = (logits if frame is None else frame.crop(logits)) > logit(threshold)
        masks = masks.cpu().numpy()
        filled = masks.any(axis=(1, 2))
        phrases = {
            phrase: scores[found].float().cpu().numpy()[filled]
            for phrase, scores in (phrase_scores[number] if phrase_scores else {}).items()
        }
        fits = outputs.instance_scores[number][found].float().cpu().numpy()[filled]
        reasons = {
            "phrase": expression.noun_phrase,
            "places": [f"{place.kind}: {place.words}" for place in expression.places],
            "candidates": [],
        }
        if not filled.any():
            return found[:0], reasons
        pick, candidates = rectify(
            expression,
            Layout.of(masks[filled]),
            _relative(phrases.get(expression.noun_phrase, fits)),
            lambda phrase: _relative(phrases[phrase]) if phrase in phrases else np.zeros(len(fits)),
        )
        numbers = np.flatnonzero(filled)
        return found[numbers[pick]][None], {**reasons, "candidates": numbers[candidates].tolist()}


def _relative(scores: np.ndarray) -> np.ndarray:
    """Scores (r,) as shares of the best one."""
    return scores / max(scores.max(), 1e-6)


def _positions(picked: torch.Tensor, found: torch.Tensor) -> list[int]:
    return [found.tolist().index(number) for number in picked.tolist()]


__all__ = ["InstanceSegmentationOutput", "InstanceSelection", "LOWEST_SCORE"]
