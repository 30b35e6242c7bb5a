"""SAM 3 ([*Segment Anything with Concepts*](https://arxiv.org/abs/2511.16719)) and SAM 3 LiteText for expressions."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import Sam3LiteTextModel, Sam3Model, Sam3Processor
from transformers.image_processing_backends import PilBackend
from transformers.image_utils import IMAGENET_STANDARD_MEAN, IMAGENET_STANDARD_STD, PILImageResampling

from .hub_models import HubModelMixin, HubProcessor
from .masks import check_probability, read_target_sizes
from .modeling_referring_segmentation import ReferringSegmentationOutput


TEXT_LENGTH = 32  # transformers' processor pads to it, also for LiteText, which has positions for more
LOWEST_SCORE = 0.01  # instances below it are not kept: each of 200 queries has a mask
SELECTIONS = ("best", "all")


@dataclass
class InstanceSegmentationOutput(ReferringSegmentationOutput):
    """
    Output of a model that finds instances. N = B * k counts (image, expression) pairs, image-major.

    Args:
        instance_masks (`tuple[torch.FloatTensor]`):
            For each pair the log-odds of its instances' pixels, (m, h, w). There may be none.
        instance_scores (`tuple[torch.FloatTensor]`):
            For each pair how sure the model is that each is what the expression says, and is there at all, (m,), all above 0.01.
    """

    instance_masks: tuple[torch.Tensor, ...] | None = None
    instance_scores: tuple[torch.Tensor, ...] | None = None


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


class Sam3ReferringProcessor(HubProcessor):
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
    answer_options = {"select": check_selection, "instance_threshold": check_instance_threshold}

    @torch.no_grad()
    def iterate_segments(
        self,
        outputs: Any,
        target_sizes: Sequence[Sequence[int]] | torch.Tensor,
        threshold: float | None = None,
        select: str = "best",
        instance_threshold: float = 0.3,
    ) -> Iterator[dict[str, Any]]:
        """
        Yield masks and scores; see [`SegmentationProcessor`].

        Args:
            select (`str`, *optional*, defaults to `"best"`): "best" for the instance with the highest score, since most expressions
                refer to one object; "all" for the union of all instances.
            instance_threshold (`float`, *optional*, defaults to 0.3): An instance counts if its score is above this.
        """
        threshold = self.threshold if threshold is None else threshold
        sizes = read_target_sizes(target_sizes, len(outputs.instance_scores), threshold)
        for logits, scores, size in zip(outputs.instance_masks, outputs.instance_scores, sizes, strict=True):
            found = (scores > instance_threshold).nonzero()[:, 0]
            if select == "best" and len(found):
                found = scores.argmax()[None]
            mask = torch.zeros(size, dtype=torch.bool, device=scores.device)
            for instance in found:
                probabilities = logits[instance].float().sigmoid()[None, None]
                mask |= nn.functional.interpolate(probabilities, size, mode="bilinear")[0, 0] > threshold
            yield {"mask": mask, "score": float(scores.max()) if mask.any() else 0.0}


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
        labels: torch.Tensor | None = None,
        return_dict: bool = True,
    ) -> InstanceSegmentationOutput:
        """
        Args:
            pixel_values (`torch.FloatTensor` of shape `(B, 3, side, side)`): The images.
            input_ids, attention_mask (`torch.LongTensor` of shape `(N, length)`): The expressions, N = B * k, image-major.
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
            instances.append((outputs.pred_masks[0][kept], scores[kept]))
        masks, scores = zip(*instances, strict=True)
        return InstanceSegmentationOutput(instance_masks=masks, instance_scores=scores)


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
    "InstanceSegmentationOutput",
    "Sam3ForReferringSegmentation",
    "Sam3ImageProcessorPil",
    "Sam3LiteTextForReferringSegmentation",
    "Sam3ReferringProcessor",
]
