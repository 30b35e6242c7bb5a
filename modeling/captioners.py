"""Captioners: pictures to sentences. TAS asks them what regions and whole pictures show (section 3.3)."""

from abc import abstractmethod
from collections.abc import Sequence

import numpy as np
from transformers import Blip2ForConditionalGeneration, BlipForConditionalGeneration, Florence2ForConditionalGeneration

from .zero_shot_parts import Part, in_batches


class Captioner(Part):
    """
    Base of the parts.

    Attributes:
        batch_size (`int`): Pictures that go through the network at once.
        max_new_tokens (`int`): A caption's length at most.
    """

    batch_size = 8
    max_new_tokens = 30

    def caption(self, pictures: Sequence[np.ndarray]) -> list[str]:
        """A caption for each RGB picture of bytes, (height, width, 3); what a network has no words for is an empty text."""
        captions: list[str] = []
        for batch in in_batches(pictures, self.batch_size):
            with self.weights_at_hand():
                captions += [" ".join(text.split()) for text in self._caption(batch)]
        return captions

    @abstractmethod
    def _caption(self, pictures: Sequence[np.ndarray]) -> list[str]:
        """Of one batch."""


class BlipCaptioner(Captioner):
    """A BLIP."""

    network_class = BlipForConditionalGeneration

    def _caption(self, pictures: Sequence[np.ndarray]) -> list[str]:
        inputs = self.processor.image_processor(list(pictures), return_tensors="pt", input_data_format="channels_last")
        pixel_values = inputs["pixel_values"].to(self.device, self.network.dtype)
        ids = self.network.generate(pixel_values=pixel_values, max_new_tokens=self.max_new_tokens)
        return self.processor.batch_decode(ids, skip_special_tokens=True)


class Blip2Captioner(BlipCaptioner):
    """A BLIP-2; without a prompt it describes what it sees, as TAS has it."""

    network_class = Blip2ForConditionalGeneration


class Florence2Captioner(Captioner):
    """A Florence-2, whose tasks are prompts."""

    network_class = Florence2ForConditionalGeneration
    prompt = "<CAPTION>"

    def _caption(self, pictures: Sequence[np.ndarray]) -> list[str]:
        inputs = self.processor(images=list(pictures), text=[self.prompt] * len(pictures), return_tensors="pt")
        tensors = {
            # What is no id is in the network's precision.
            name: tensor.to(self.device, self.network.dtype if tensor.is_floating_point() else None)
            for name, tensor in inputs.items()
        }
        ids = self.network.generate(**tensors, max_new_tokens=self.max_new_tokens)
        return self.processor.batch_decode(ids, skip_special_tokens=True)


CAPTIONERS: dict[str, type[Captioner]] = {
    "blip": BlipCaptioner,
    "blip-2": Blip2Captioner,
    "florence2": Florence2Captioner,
}


__all__ = ["CAPTIONERS", "Blip2Captioner", "BlipCaptioner", "Captioner", "Florence2Captioner"]
