"""The example system's processors: images squashed to one size, masks enlarged from the logits."""

import numpy as np
from PIL import Image
from torch import nn
from transformers.image_utils import IMAGENET_STANDARD_MEAN, IMAGENET_STANDARD_STD, PILImageResampling

from .processing_referring_segmentation import ReferringSegmentationImageProcessor, ReferringSegmentationProcessor


class ExampleImageProcessor(ReferringSegmentationImageProcessor):
    resample = PILImageResampling.BILINEAR
    image_mean = IMAGENET_STANDARD_MEAN
    image_std = IMAGENET_STANDARD_STD
    size = {"height": 64, "width": 64}

    def resize_image(self, image, size, **kwargs):
        return np.asarray(image.resize((size.width, size.height), Image.Resampling.BILINEAR))

    def resize_mask(self, mask, size):
        resized = Image.fromarray(mask).resize((size.width, size.height), Image.Resampling.NEAREST)
        return np.asarray(resized, dtype=np.float32)


class ExampleProcessor(ReferringSegmentationProcessor):
    def __init__(self, image_processor=None, tokenizer=None, text_length=20, threshold=0.5):
        super().__init__(image_processor, tokenizer, text_length=text_length, threshold=threshold)

    def input_probabilities(self, logits, size):
        return nn.functional.interpolate(logits[:, None].float().sigmoid(), size, mode="bilinear")[:, 0]

    def probability_bands(self, logits, size):
        yield self.input_probabilities(logits, size)

    def cut(self, ids, length):
        return [*ids[: length - 1], ids[-1]]


__all__ = ["ExampleImageProcessor", "ExampleProcessor"]
