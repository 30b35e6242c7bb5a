"""
The zero-shot systems' shared part: they find regions in an image, score them for each expression, and answer with the best.

Whatever does not depend on an expression is computed once for an image and cached for further calls.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import nn
from transformers.utils import logging
from transformers.utils.generic import can_return_tuple

from .configuration_zero_shot import ZeroShotSegmentationConfig
from .grounded_detectors import DETECTORS
from .inputs import NO_PROPOSER
from .language_negatives import has_wordnet
from .language_parsing import Parse, load_parser, parser_name
from .modeling_composed import ComposedPreTrainedModel
from .modeling_referring_segmentation import ZeroShotSegmentationOutput
from .processing_zero_shot import ZeroShotSegmentationProcessor
from .zero_shot_cache import CachedImage
from .zero_shot_parts import IMAGE_TEXT, Part, in_batches
from .zero_shot_regions import INSTALLED
from .zero_shot_segmenters import PROPOSERS


if TYPE_CHECKING:
    # So that a saved model brings along the code of this pipeline, too.
    from .pipeline_zero_shot_referring_segmentation import ZeroShotReferringSegmentationPipeline  # noqa: F401

logger = logging.get_logger(f"transformers.{__name__}")  # under transformers' verbosity


@dataclass
class Answer:
    """
    The answer to an expression.

    Attributes:
        pick (`int` or `None`): Number of the chosen region.
        shares (`torch.Tensor` of shape `(r,)`): The regions' scores, which sum to 1.
        terms (`dict[str, torch.Tensor]`): The terms of the scores, (r,) each.
        explanation (`dict[str, Any]`): What the system read in the expression and found in the regions.
    """

    pick: int | None
    shares: torch.Tensor
    terms: dict[str, torch.Tensor]
    explanation: dict[str, Any]

    @property
    def chosen_slice(self) -> slice:
        """Place of the chosen region among all."""
        return slice(0) if self.pick is None else slice(self.pick, self.pick + 1)

    def chosen(self) -> "Answer":
        """The answer with the chosen region alone."""
        terms = {name: values[self.chosen_slice] for name, values in self.terms.items()}
        return Answer(None if self.pick is None else 0, self.shares[self.chosen_slice], terms, self.explanation)


class ZeroShotPreTrainedModel(ComposedPreTrainedModel):
    """
    Base of the zero-shot models.

    Args:
        config ([`ZeroShotSegmentationConfig`]): Parts and options.
    """

    config_class = ZeroShotSegmentationConfig
    takes_regions = True
    part_classes: ClassVar[dict[str, Mapping[str, type[Part]]]] = {
        "image_text": IMAGE_TEXT,
        "proposer": PROPOSERS,
        "detector": DETECTORS,
    }
    summary = "Zero-shot referring image segmentation, composed of parts that were trained elsewhere."

    def make_processor(self) -> ZeroShotSegmentationProcessor:
        return ZeroShotSegmentationProcessor(max_size=self.config.max_size)

    @torch.no_grad()
    @can_return_tuple
    def forward(
        self,
        images: Sequence[np.ndarray],
        text: Sequence[str],
        region_masks: Sequence[np.ndarray | None] | None = None,
        labels: torch.Tensor | None = None,
        explain: bool = False,
    ) -> ZeroShotSegmentationOutput:
        """
        Args:
            images (`Sequence[np.ndarray]`):
                B images, RGB, bytes, (height, width, 3) each; sizes may differ.
            text (`Sequence[str]`):
                N = B * k expressions, the k of the first image first.
            region_masks (`Sequence[np.ndarray]`, *optional*):
                The regions of each image, (r, height, width), boolean, none of them empty; where it is `None`, the proposer finds them.
            labels (`torch.Tensor`, *optional*):
                Must be left out: these models do not train.
            explain (`bool`, *optional*, defaults to `False`):
                Whether to return `explanations`.
            return_dict (`bool`, *optional*):
                Whether an output object or a tuple is returned; by default as the configuration says.

        Raises:
            ValueError: If `labels` are given, numbers or sizes do not match, or regions are needed and nothing finds them.
        """
        each = self.check_inputs(images, text, labels)
        if region_masks is not None and len(region_masks) != len(images):
            raise ValueError(
                f"`region_masks` holds regions of {len(region_masks)} images, and there are {len(images)}."
            )
        self.image_text.warn_of_unknown_words(text)
        answers: list[Answer] = []
        regions: list[np.ndarray] = []
        for number, image in enumerate(images):
            given = None if region_masks is None else region_masks[number]
            if given is not None and (given.dtype != bool or given.ndim != 3 or given.shape[1:] != image.shape[:2]):
                raise ValueError(
                    f"`region_masks[{number}]` must be boolean, (regions, {image.shape[0]}, {image.shape[1]}), got "
                    f"{given.shape} of {given.dtype}."
                )
            key, texts = self._key(image, given), text[number * each : (number + 1) * each]
            cached = self._images.find(key)
            if given is None and self.detector is not None:
                cached = cached or CachedImage(image.copy())
                for expression in texts:
                    detected = self._detect(cached, expression)
                    (answer,) = self._answer(detected, [expression])
                    # Regions of many expressions would not fit: without an explanation, the chosen one alone is kept.
                    answers.append(answer if explain else answer.chosen())
                    regions.append(detected.regions if explain else detected.regions[answer.chosen_slice])
            else:
                cached = cached or CachedImage(
                    image.copy(), self.find_regions(image) if given is None else np.array(given)
                )
                answers += self._answer(cached, texts)
                # Beside an image whose regions a detector finds for each expression, given ones count for each, too.
                regions += [cached.regions] * (1 if self.detector is None else each)
            self._images.keep(key, cached, self.config.cache_size, self.config.cache_bytes)
        return self._pack(answers, regions, explain)

    def _score_expressions(self, cached: CachedImage, expressions: Sequence[str]) -> list[Answer]:
        """Answer expressions about an image that has at least one region."""
        raise NotImplementedError

    def _filter_regions(self, regions: np.ndarray) -> np.ndarray:
        """Keep the proposer's regions that the system considers."""
        return regions

    def _answer(self, cached: CachedImage, expressions: Sequence[str]) -> list[Answer]:
        if not len(cached.regions):
            nothing = torch.zeros(0)
            return [Answer(None, nothing, {}, {"phrase": None}) for _ in expressions]
        distinct = list(dict.fromkeys(expressions))
        answers = dict(zip(distinct, self._score_expressions(cached, distinct), strict=True))
        return [answers[expression] for expression in expressions]

    @torch.no_grad()
    def find_regions(self, image: np.ndarray) -> np.ndarray:
        """
        Propose regions of an image, and keep those that the system considers.

        Args:
            image (`np.ndarray` of shape `(height, width, 3)`): RGB, bytes.

        Returns:
            `np.ndarray` of shape `(r, height, width)`: Boolean; there may be none.

        Raises:
            ValueError: If the model has no proposer.
        """
        if self.proposer is None:
            raise ValueError(NO_PROPOSER)
        return self._filter_regions(self.proposer.propose(image))

    def _detect(self, cached: CachedImage, expression: str) -> CachedImage:
        """Find regions for an expression: a detector's boxes, segmented. What the networks see of the image is cached."""
        detector_image = cached.get_or_compute("detector", lambda: self.detector.encode(cached.image))
        encoded = cached.get_or_compute("proposer", lambda: self.proposer.encode(cached.image))
        least = self.config.detector_threshold
        detections = self.detector.detect(
            detector_image, expression, self.detector.threshold if least is None else least
        )
        logits = self.proposer.segment_boxes(encoded, detections.boxes)
        masks = [encoded.frame.enlarge(each[None], encoded.size)[0].cpu().numpy() > 0 for each in logits]
        regions = np.stack(masks) if masks else np.zeros((0, *encoded.size), bool)
        filled = regions.any(axis=(1, 2))
        scores = detections.scores.cpu()[torch.from_numpy(filled)]
        return CachedImage(cached.image, regions[filled], {"detector_scores": scores}, parent=cached)

    def _pack(self, answers: list[Answer], regions: list[np.ndarray], explain: bool) -> ZeroShotSegmentationOutput:
        return ZeroShotSegmentationOutput(
            region_masks=tuple(torch.from_numpy(masks.copy()) for masks in regions),  # these are the caller's
            region_scores=tuple(answer.shares for answer in answers),
            picks=tuple(answer.pick for answer in answers),
            terms=tuple(answer.terms for answer in answers),
            explanations=tuple(answer.explanation for answer in answers) if explain else None,
        )

    # What systems call.

    def _detector_term(self, cached: CachedImage) -> torch.Tensor | None:
        """D, the detector's scores of regions, (r,); `None` without a detector, and where regions were given."""
        scores = cached.values.get("detector_scores")
        return None if scores is None else scores.to(self.image_text.device)

    def _parse(self, text: str) -> Parse:
        if self.config.mode == "paper" and parser_name(self.config.parser) == "rules":
            logger.warning_once(
                "mode='paper' reads expressions by rules here; the papers' code has spaCy and a model of it."
            )
        return load_parser(self.config.parser)(text)

    def _encode_texts(self, texts: Sequence[str]) -> torch.Tensor:
        """Features of n texts, (n, d), in float32, not normalised."""
        distinct = list(dict.fromkeys(texts))
        features = torch.cat(
            [
                self.image_text.encode_texts(self.image_text.tokenize(batch)).float()
                for batch in in_batches(distinct, self.config.batch_size)
            ]
        )
        return features[[distinct.index(text) for text in texts]]

    def _encode_images(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Features of n images or crops, (n, 3, H, W) -> (n, d), in float32, not normalised."""
        batches = in_batches(pixel_values, self.config.batch_size)
        return torch.cat([self.image_text.encode_images(batch).float() for batch in batches])

    def describe_settings(self) -> str:
        installed = [*INSTALLED, *(["wordnet"] if has_wordnet() else [])]
        return "\n".join([super().describe_settings(), parser_name(self.config.parser), *installed])


def unit(features: torch.Tensor) -> torch.Tensor:
    """Normalize features (n, d) to length 1."""
    return nn.functional.normalize(features, dim=-1)


__all__ = ["Answer", "ZeroShotPreTrainedModel", "unit"]
