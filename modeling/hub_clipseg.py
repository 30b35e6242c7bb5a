"""CLIPSeg ([*Image Segmentation Using Text and Image Prompts*](https://arxiv.org/abs/2112.10003), CVPR 2022) for expressions."""

from collections.abc import Iterator

import torch
from torch import nn
from transformers import CLIPSegForImageSegmentation, CLIPSegProcessor, ViTImageProcessorPil

from .hub_models import HubModelMixin, HubProcessor
from .modeling_referring_segmentation import ReferringSegmentationOutput


class CLIPSegReferringProcessor(HubProcessor):
    """
    Prepares images and expressions for CLIPSeg, and reads masks off its logits.

    Expressions are cut to `text_length` tokens, of which the last stays the end token. The score of a mask is the mean foreground
    probability inside it.

    Args:
        image_processor (`ViTImageProcessorPil`): Prepares images.
        tokenizer (`CLIPTokenizer`): Prepares expressions.
        text_length (`int`, *optional*, defaults to 77): Tokens that every expression is cut and padded to.
        threshold (`float`, *optional*, defaults to 0.5):
            Foreground probability above which a pixel belongs to the mask. CLIPSeg's authors publish none; where masks come out
            too small, take a lower one.
    """

    image_processor_class = ViTImageProcessorPil
    saved_class = CLIPSegProcessor
    saved_names = ("CLIPSegProcessor",)
    default_text_length = 77

    def input_probabilities(self, logits: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        probabilities = logits[:, None].float().sigmoid()
        return nn.functional.interpolate(probabilities, size, mode="bilinear", align_corners=False)[:, 0]

    def probability_bands(self, logits: torch.Tensor, size: tuple[int, int]) -> Iterator[torch.Tensor]:
        yield self.input_probabilities(logits, size)


class CLIPSegForReferringSegmentation(HubModelMixin, CLIPSegForImageSegmentation):
    """
    transformers' CLIPSeg, asked for k expressions an image.

    Example:

    ```python
    >>> import hf_ris
    >>> from transformers import pipeline

    >>> ris = pipeline("referring-segmentation", model="CIDAS/clipseg-rd64-refined")
    >>> ris("photo.jpg", text=["the woman in the red coat", "a bicycle"])
    ```
    """

    processor_class = CLIPSegReferringProcessor
    saved_class = CLIPSegForImageSegmentation
    system = "CLIPSeg"
    licence = "apache-2.0"
    url = "https://arxiv.org/abs/2112.10003"
    native_id = "CIDAS/clipseg-rd64-refined"

    def forward(
        self,
        pixel_values: torch.Tensor,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        return_dict: bool = True,
    ) -> ReferringSegmentationOutput:
        """
        Args:
            pixel_values (`torch.FloatTensor` of shape `(B, 3, side, side)`): The images.
            input_ids, attention_mask (`torch.LongTensor` of shape `(N, length)`): The expressions, N = B * k, image-major.
            labels (*optional*): Must be left out.
            return_dict (`bool`, *optional*, defaults to `True`): No effect.

        Returns:
            [`ReferringSegmentationOutput`] with `logits` (N, side, side).

        Raises:
            ValueError: If there are labels, or there is no equal number of expressions for each image.
        """
        self.check_inputs(pixel_values, input_ids, labels)
        logits, _ = self.predict(self.encode_images(pixel_values), input_ids, attention_mask)
        return ReferringSegmentationOutput(logits=logits)

    def encode_images(self, pixel_values: torch.Tensor) -> list[torch.Tensor]:
        """Images (B, 3, side, side) to the activations that the decoder reads."""
        hidden_states = self.clip.get_image_features(pixel_values, output_hidden_states=True).hidden_states
        return [hidden_states[layer + 1] for layer in self.extract_layers]

    def predict(
        self, images: list[torch.Tensor], input_ids: torch.Tensor, attention_mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, None]:
        """
        Mask logits (N, side, side) of N = B * k expressions, image-major, from the output of `encode_images`; and None, since the
        model does not judge its masks.
        """
        each = input_ids.shape[0] // images[0].shape[0]  # not `len`, which a trace would keep as a constant
        activations = [states.repeat_interleave(each, dim=0) for states in images]
        expressions = self.clip.get_text_features(input_ids, attention_mask=attention_mask).pooler_output
        return self.decoder(activations, expressions).logits, None


__all__ = ["CLIPSegForReferringSegmentation", "CLIPSegReferringProcessor"]
