"""A detector with a segmenter: the one finds boxes of what an expression names, the other gives each box a mask."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from transformers.utils.generic import can_return_tuple

from .configuration_grounded import GroundedConfig
from .grounded_detectors import DETECTORS
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
        return GroundedProcessor(instance_threshold=self.detector.threshold, select=self.config.select)

    @torch.no_grad()
    @can_return_tuple
    def forward(
        self,
        images: Sequence[np.ndarray],
        text: Sequence[str],
        instance_threshold: float | None = None,
        labels: torch.Tensor | None = None,
    ) -> InstanceSegmentationOutput:
        """
        Args:
            images (`Sequence[np.ndarray]`):
                B images, RGB, bytes, (height, width, 3) each; sizes may differ.
            text (`Sequence[str]`):
                N = B * k expressions, the k of the first image first.
            instance_threshold (`float`, *optional*):
                A box with a score above this gets a mask; by default the detector's own threshold.
            labels (`torch.Tensor`, *optional*):
                Must be left out: the model does not train.
            return_dict (`bool`, *optional*):
                Whether an output object or a tuple is returned; by default as the configuration says.

        Raises:
            ValueError: If `labels` are given, numbers do not match, or an image is none of bytes.
        """
        each = self.check_inputs(images, text, labels)
        expressions = tuple(map(Expression, text))
        self.detector.warn_of_unknown_words(text)
        least = self.detector.threshold if instance_threshold is None else instance_threshold
        detections, masks, frames = [], [], []
        for number, image in enumerate(images):
            key = self._key(image)
            cached = self._images.find(key) or CachedImage(image.copy())
            detector_image, encoded = (self._encode(name, cached) for name in ("detector", "segmenter"))
            self._images.keep(key, cached, self.config.cache_size, self.config.cache_bytes)
            for expression in expressions[number * each : (number + 1) * each]:
                found = self.detector.detect(
                    detector_image, expression.text, least, _phrases(expression), self.config.max_instances
                )
                masks.append(self.segmenter.segment_boxes(encoded, found.boxes))
                detections.append(found)
                frames.append(encoded.frame)
        return InstanceSegmentationOutput(
            instance_masks=tuple(masks),
            instance_scores=tuple(found.scores for found in detections),
            instance_boxes=tuple(found.shares for found in detections),
            phrase_scores=tuple(found.phrase_scores for found in detections),
            expressions=expressions,
            frames=tuple(frames),
        )

    def _encode(self, name: str, cached: CachedImage) -> Any:
        """An image as one of the parts sees it."""
        return cached.get_or_compute(name, lambda: getattr(self, name).encode(cached.image))


def _phrases(expression: Expression) -> list[str]:
    """The noun phrase of an expression, and the things that it relates its referent to."""
    anchors = [anchor for place in expression.places for anchor in place.anchors]
    return list(dict.fromkeys([expression.noun_phrase, *anchors])) if expression.places else []


__all__ = ["GroundedForReferringSegmentation"]
