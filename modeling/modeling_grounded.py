"""A detector with a segmenter: the one finds boxes of what an expression names, the other gives each box a mask."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from transformers.utils.generic import can_return_tuple

from .configuration_grounded import GroundedConfig
from .grounded_detectors import DETECTORS
from .inputs import expressions_per_image
from .instances import InstanceSegmentationOutput
from .language_expression import Expression
from .modeling_composed import ComposedPreTrainedModel
from .processing_grounded import GroundedProcessor
from .zero_shot_cache import CachedImage
from .zero_shot_parts import Part
from .zero_shot_segmenters import SEGMENTERS


if TYPE_CHECKING:
    # So that a saved model brings along the code of this pipeline, too.
    from .pipeline_referring_segmentation import ReferringSegmentationPipeline  # noqa: F401


class GroundedForReferringSegmentation(ComposedPreTrainedModel):
    """
    A detector with a segmenter, for expressions. Each image is encoded once by either, whatever the number of expressions.

    Args:
        config ([`GroundedConfig`]): Parts and options.
    """

    config_class = GroundedConfig
    part_classes: ClassVar[dict[str, Mapping[str, type[Part]]]] = {"detector": DETECTORS, "segmenter": SEGMENTERS}
    summary = "Referring image segmentation by a detector with a segmenter, which were trained elsewhere."

    def make_processor(self) -> GroundedProcessor:
        return GroundedProcessor(instance_threshold=self.detector.threshold)

    @torch.no_grad()
    @can_return_tuple
    def forward(
        self, images: Sequence[np.ndarray], text: Sequence[str], labels: torch.Tensor | None = None
    ) -> InstanceSegmentationOutput:
        """
        Args:
            images (`Sequence[np.ndarray]`):
                B images, RGB, bytes, (height, width, 3) each; sizes may differ.
            text (`Sequence[str]`):
                N = B * k expressions, the k of the first image first.
            labels (`torch.Tensor`, *optional*):
                Must be left out: the model does not train.
            return_dict (`bool`, *optional*):
                Whether an output object or a tuple is returned; by default as the configuration says.

        Raises:
            ValueError: If `labels` are given, or numbers do not match.
        """
        if labels is not None:
            raise ValueError(f"`labels` must be left out: {type(self).__name__} does not train.")
        each = expressions_per_image(len(text), len(images))
        self.detector.warn_of_unknown_words(text)
        found: dict[str, list[Any]] = {name: [] for name in ("masks", "scores", "boxes", "phrase_scores", "frames")}
        for number, image in enumerate(images):
            key = self._key(image)
            cached = self._images.find(key) or CachedImage(image.copy())
            detector_image = cached.get_or_compute(
                "detector", lambda cached=cached: self.detector.encode(cached.image)
            )
            encoded = cached.get_or_compute("segmenter", lambda cached=cached: self.segmenter.encode(cached.image))
            self._images.keep(key, cached, self.config.cache_size, self.config.cache_bytes)
            height, width = image.shape[:2]
            for expression in text[number * each : (number + 1) * each]:
                detections = self.detector.detect(
                    detector_image, expression, _phrases(expression), self.config.max_instances
                )
                boxes = detections.boxes
                found["masks"].append(self.segmenter.segment_boxes(encoded, boxes))
                found["scores"].append(detections.scores)
                found["boxes"].append(boxes / torch.tensor([width, height] * 2, device=boxes.device))
                found["phrase_scores"].append(detections.phrase_scores)
                found["frames"].append(encoded.frame)
        return InstanceSegmentationOutput(
            **{f"instance_{name}": tuple(found[name]) for name in ("masks", "scores", "boxes")},
            phrase_scores=tuple(found["phrase_scores"]),
            expressions=tuple(text),
            frames=tuple(found["frames"]),
        )


def _phrases(text: str) -> list[str]:
    """The noun phrase of an expression, and the things that it relates its referent to."""
    expression = Expression(text)
    anchors = [anchor for place in expression.places for anchor in place.anchors]
    return list(dict.fromkeys([expression.noun_phrase, *anchors])) if expression.places else []


__all__ = ["GroundedForReferringSegmentation"]
