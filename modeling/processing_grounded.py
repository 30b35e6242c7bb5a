"""Processor of a detector with a segmenter: it passes on images and expressions, since each part of the model prepares its own."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers.image_processing_utils import BatchFeature

from .inputs import Request, load_requests
from .instances import InstanceSelection
from .masks import logit
from .without_torch import check_probability


class GroundedProcessor(InstanceSelection):
    """
    Passes on images and expressions, and reads masks off what was found.

    The score of a mask is the detector's score of its box, with `select="all"` the highest one.

    Args:
        threshold (`float`, *optional*, defaults to 0.5): Foreground probability above which a pixel belongs to an instance's mask.
        instance_threshold (`float`, *optional*, defaults to 0.25): A box counts if its score is above this.
        select (`str`, *optional*, defaults to `"best"`): Which instances are the answer; see [`InstanceSelection.iterate_segments`].
    """

    forward_options = ("instance_threshold",)

    def __init__(
        self, threshold: float = 0.5, instance_threshold: float = 0.25, select: str = "best", **kwargs: Any
    ) -> None:
        check_probability("threshold", threshold)
        for name, value in (("instance_threshold", instance_threshold), ("select", select)):
            self.answer_options[name](name, value)
        self.select = select
        self.threshold = threshold
        self.instance_threshold = instance_threshold
        super().__init__(**kwargs)

    def __call__(
        self,
        images: Any,
        text: str | list[str],
        segmentation_maps: Any = None,
        return_tensors: str | None = None,
    ) -> BatchFeature:
        """
        Args:
            images (an image or a list of images): B images.
            text (`str` or `list[str]`): N = B * k expressions, the k of the first image first.
            segmentation_maps (*optional*): Must be left out: these models do not train.
            return_tensors (`str`, *optional*): No effect: the images of a batch differ in size.

        Returns:
            [`BatchFeature`]: `images` (B arrays of bytes), `text` (N) and the `instance_threshold`.

        Raises:
            ValueError: If an image or an expression is unfit, or their numbers do not match.
        """
        if segmentation_maps is not None:
            raise ValueError("`segmentation_maps` must be left out: a detector with a segmenter does not train.")
        return self.prepare(load_requests(images, text))

    def prepare(self, requests: Sequence[Request]) -> BatchFeature:
        return BatchFeature(
            {
                "images": [np.asarray(request.image) for request in requests],
                "text": [expression for request in requests for expression in request.expressions],
                "instance_threshold": self.instance_threshold,
            }
        )

    def read_instance(self, logits: torch.Tensor, frame: Any, size: tuple[int, int], threshold: float) -> torch.Tensor:
        if frame is None:
            enlarged = nn.functional.interpolate(logits[None, None], size, mode="bilinear")[0, 0]
        else:
            enlarged = frame.enlarge(logits[None], size)[0]
        return enlarged > logit(threshold)


__all__ = ["GroundedProcessor"]
