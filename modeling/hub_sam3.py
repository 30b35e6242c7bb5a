"""SAM 3 ([*Segment Anything with Concepts*](https://arxiv.org/abs/2511.16719)) and SAM 3 LiteText for expressions."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import Sam3LiteTextModel, Sam3Model, Sam3Processor
from transformers.image_processing_backends import PilBackend
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import IMAGENET_STANDARD_MEAN, IMAGENET_STANDARD_STD, PILImageResampling

from .hub_models import HubModelMixin, HubProcessor
from .inputs import Request
from .instances import LOWEST_SCORE, InstanceSegmentationOutput, InstanceSelection
from .language_expression import Expression


TEXT_LENGTH = 32  # transformers' processor pads to it, also for LiteText, which has positions for more


class Sam3ImageProcessorPil(PilBackend):
    """SAM 3's image processor without torchvision: transformers has it for torchvision alone."""

    resample = PILImageResampling.BILINEAR
    image_mean = IMAGENET_STANDARD_MEAN
    image_std = IMAGENET_STANDARD_STD
    size = {"height": 1008, "width": 1008}
    mask_size = {"height": 288, "width": 288}
    do_resize = True
    do_rescale = True
    do_normalize = True
    do_convert_rgb = True


class Sam3ReferringProcessor(InstanceSelection, HubProcessor):
    """
    Prepares images and expressions for SAM 3, and reads masks off its instances.

    SAM 3 finds all instances of a concept; an expression refers to one of them, or to several. The score of a mask is that of its
    instance, with `select="all"` the highest one.

    Args:
        image_processor ([`Sam3ImageProcessorPil`]): Prepares images.
        tokenizer (`CLIPTokenizer`): Prepares expressions.
        text_length (`int`, *optional*, defaults to 32): Tokens that every expression is cut and padded to.
        threshold (`float`, *optional*, defaults to 0.5): Foreground probability above which a pixel belongs to an instance's mask.
    """

    image_processor_class = Sam3ImageProcessorPil
    saved_class = Sam3Processor
    saved_names = ("Sam3Processor", "Sam3VideoProcessor")
    default_text_length = TEXT_LENGTH
    instance_threshold = 0.3  # as in transformers

    def prepare(self, requests: Sequence[Request]) -> BatchFeature:
        features = super().prepare(requests)
        features["text"] = [expression for request in requests for expression in request.expressions]
        return features

    def read_instance(self, logits: torch.Tensor, frame: Any, size: tuple[int, int], threshold: float) -> torch.Tensor:
        return nn.functional.interpolate(logits.sigmoid()[None, None], size, mode="bilinear")[0, 0] > threshold


class Sam3ReferringMixin(HubModelMixin):
    """Asks either of the two models for k expressions an image."""

    processor_class = Sam3ReferringProcessor
    licence = "other (SAM License)"

    @property
    def max_text_length(self) -> int:
        return min(TEXT_LENGTH, super().max_text_length)

    def forward(
        self,
        pixel_values: torch.Tensor,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        text: Sequence[str] | None = None,
        labels: torch.Tensor | None = None,
        return_dict: bool = True,
    ) -> InstanceSegmentationOutput:
        """
        Args:
            pixel_values (`torch.FloatTensor` of shape `(B, 3, side, side)`): The images.
            input_ids, attention_mask (`torch.LongTensor` of shape `(N, length)`): The expressions, N = B * k, image-major.
            text (`Sequence[str]`, *optional*): The N expressions as they were written, for a choice by places.
            labels (*optional*): Must be left out.
            return_dict (`bool`, *optional*, defaults to `True`): No effect.

        Raises:
            ValueError: If there are labels, or there is no equal number of expressions for each image.
        """
        each = self.check_inputs(pixel_values, input_ids, labels)
        vision = self.get_vision_features(pixel_values)
        instances = []
        for row in range(len(input_ids)):  # one by one: an expression's 200 masks take 66 MB, and few are kept
            image, words = slice(row // each, row // each + 1), slice(row, row + 1)
            features = type(vision)(
                **{
                    name: tuple(level[image] for level in vision[name])
                    for name in ("fpn_hidden_states", "fpn_position_encoding")
                }
            )
            outputs = super().forward(
                vision_embeds=features,
                input_ids=input_ids[words],
                attention_mask=None if attention_mask is None else attention_mask[words],
                return_dict=True,
            )
            scores = (outputs.pred_logits.sigmoid() * outputs.presence_logits.sigmoid())[0]
            kept = scores > LOWEST_SCORE
            instances.append((outputs.pred_masks[0][kept], scores[kept], outputs.pred_boxes[0][kept]))
        masks, scores, boxes = zip(*instances, strict=True)
        return InstanceSegmentationOutput(
            instance_masks=masks,
            instance_scores=scores,
            instance_boxes=boxes,
            expressions=None if text is None else tuple(map(Expression, text)),
        )


class Sam3ForReferringSegmentation(Sam3ReferringMixin, Sam3Model):
    """
    transformers' SAM 3, asked for k expressions an image.

    Example:

    ```python
    >>> import hf_ris
    >>> from transformers import pipeline

    >>> ris = pipeline("referring-segmentation", model="facebook/sam3", token="hf_...")
    >>> ris("photo.jpg", text=["red mug", "window"], select="all")
    ```
    """

    saved_class = Sam3Model
    system = "SAM 3"
    url = "https://arxiv.org/abs/2511.16719"
    native_id = "facebook/sam3"

    def __init__(self, config: Any) -> None:
        detector = getattr(config, "detector_config", None)
        if detector is not None:  # a video model's configuration, as `facebook/sam3` has
            detector.name_or_path = config.name_or_path
        super().__init__(config if detector is None else detector)


class Sam3LiteTextForReferringSegmentation(Sam3ReferringMixin, Sam3LiteTextModel):
    """transformers' SAM 3 LiteText, whose text encoder is small, asked for k expressions an image."""

    saved_class = Sam3LiteTextModel
    system = "SAM 3 LiteText"
    url = "https://arxiv.org/abs/2602.12173"
    native_id = "yonigozlan/sam3-litetext-s0"


__all__ = [
    "Sam3ForReferringSegmentation",
    "Sam3ImageProcessorPil",
    "Sam3LiteTextForReferringSegmentation",
    "Sam3ReferringProcessor",
]
