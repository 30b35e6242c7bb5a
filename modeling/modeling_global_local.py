"""
Global-Local ("Zero-shot Referring Image Segmentation with Global-Local Context Features", Yu et al., CVPR 2023).

A region is cached twice, within the whole picture and alone; an expression is read twice, as a sentence and as the noun phrase that
names its target. Mixed features are compared, and the nearest region is the answer.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from PIL import Image
from torch import nn

from .configuration_zero_shot import GlobalLocalConfig
from .language_parsing import target_phrase
from .modeling_zero_shot import Answer, ZeroShotPreTrainedModel, unit
from .zero_shot_cache import CachedImage
from .zero_shot_parts import in_batches
from .zero_shot_regions import crop_filled


# What the published system's detector sees, and CLIP after it: ImageNet's colours, not CLIP's.
DETECTOR_SIDE, DETECTOR_LONGEST = 800, 1333
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class GlobalLocalForReferringSegmentation(ZeroShotPreTrainedModel):
    """
    Global-Local with the parts that its configuration names.

    Args:
        config ([`GlobalLocalConfig`]): Of parts and weights.
    """

    config_class = GlobalLocalConfig

    def _score_expressions(self, cached: CachedImage, expressions: Sequence[str]) -> list[Answer]:
        phrases = [target_phrase(self._parse(expression)) for expression in expressions]
        visual = cached.get_or_compute("visual", lambda: self.encode_visual(cached.image, cached.regions))
        features = self._encode_texts([*expressions, *phrases])
        scores = self.score(visual, *features.chunk(2))
        shares = scores.softmax(dim=1)
        return [
            Answer(int(share.argmax()), share, {"score": score}, {"phrase": phrase})
            for score, share, phrase in zip(scores, shares, phrases, strict=True)
        ]

    def encode_visual(self, image: np.ndarray, regions: np.ndarray) -> torch.Tensor:
        """
        The visual features of section 3.2.

        Args:
            image (`np.ndarray` of shape `(height, width, 3)`): RGB, bytes.
            regions (`np.ndarray` of shape `(r, height, width)`): Boolean, none empty.

        Returns:
            `torch.Tensor` of shape `(r, d)`.
        """
        masks = torch.from_numpy(regions)
        if self.config.mode == "paper":
            whole, crops = published_pictures(detector_input(image), masks, self.image_text.image_size)
            whole, crops = (
                pixels.to(self.image_text.device, self.image_text.network.dtype) for pixels in (whole, crops)
            )
        else:
            whole = self.image_text.prepare([image], whole=True)
            colour = [round(255 * share) for share in self.image_text.processor.image_processor.image_mean]
            crops = torch.cat(
                [
                    self.image_text.prepare([crop_filled(image, region, colour) for region in batch], whole=True)
                    for batch in in_batches(regions, self.config.batch_size)
                ]
            )
        return self.mix_visual(whole, crops, masks)

    def mix_visual(self, whole: torch.Tensor, crops: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        """
        Args:
            whole (`torch.Tensor` of shape `(1, 3, H, W)`): The picture, as the network takes it.
            crops (`torch.Tensor` of shape `(r, 3, H, W)`): Of its regions.
            masks (`torch.BoolTensor` of shape `(r, height, width)`): The regions.

        Returns:
            `torch.Tensor` of shape `(r, d)`: The weighted sum of both features.
        """
        weight = self.config.visual_mix
        grid = (self.image_text.grid,) * 2
        if self.config.mode == "paper":
            shrink = partial(nn.functional.interpolate, size=grid, mode="bilinear")
        else:
            shrink = partial(nn.functional.adaptive_avg_pool2d, output_size=grid)
        # In batches: as numbers, masks take four times their size.
        batches = in_batches(masks, self.config.batch_size)
        shares = torch.cat([shrink(batch[:, None].float())[:, 0] for batch in batches])
        block = self.config.masking_block
        block = max(0, self.image_text.blocks - 3) if block is None else block
        within = self._within(whole, shares, block) if weight > 0 else 0.0
        alone = self._encode_pictures(crops) if weight < 1 else 0.0
        if self.config.mode != "paper":
            within, alone = (unit(each) if isinstance(each, torch.Tensor) else each for each in (within, alone))
        elif not self.image_text.mixes_raw and isinstance(alone, torch.Tensor):
            alone = unit(alone)
        return weight * within + (1 - weight) * alone

    def _within(self, whole: torch.Tensor, shares: torch.Tensor, block: int) -> torch.Tensor:
        # Blocks before the masking run once for a batch of regions; of many regions, once more for each batch.
        batches = in_batches(shares.to(self.image_text.device), self.config.batch_size * 4)
        return torch.cat([self.image_text.encode_regions(whole, batch, block).float() for batch in batches])

    def score(self, visual: torch.Tensor, sentences: torch.Tensor, phrases: torch.Tensor) -> torch.Tensor:
        """
        Args:
            visual (`torch.Tensor` of shape `(r, d)`): Of regions.
            sentences, phrases (`torch.Tensor` of shape `(k, d)`): Of expressions and their noun phrases, not normalised.

        Returns:
            `torch.Tensor` of shape `(k, r)`: Scaled similarities (section 3.4).
        """
        is_raw = self.config.mode == "paper" and self.image_text.mixes_raw
        if not is_raw:
            sentences, phrases = unit(sentences), unit(phrases)
        text = self.config.text_mix * sentences + (1 - self.config.text_mix) * phrases
        if is_raw or self.config.mode != "paper":
            visual, text = unit(visual), unit(text)
        return self.image_text.scale.float() * text @ visual.T


def detector_input(image: np.ndarray) -> torch.Tensor:
    """A picture as the published detector takes it, (1, 3, H, W): shorter side 800 pixels, ImageNet's colours."""
    height, width = image.shape[:2]
    scale = min(DETECTOR_SIDE / min(height, width), DETECTOR_LONGEST / max(height, width))
    size = (round(width * scale), round(height * scale))
    pixels = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR), np.float32) / 255
    mean, deviation = (np.array(each, np.float32) for each in (IMAGENET_MEAN, IMAGENET_STD))
    normalised = (pixels - mean) / deviation
    return torch.from_numpy(normalised).permute(2, 0, 1)[None]


def published_pictures(pixels: torch.Tensor, masks: torch.Tensor, side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """
    The whole picture and crops of its regions, as the released code makes them of the detector's input.

    Args:
        pixels (`torch.Tensor` of shape `(1, 3, H, W)`): The detector's input.
        masks (`torch.BoolTensor` of shape `(r, height, width)`): Regions, at the picture's own size.
        side (`int`): Of the network's input, in pixels.

    Returns:
        Tensors of shape (1, 3, side, side) and (r, 3, side, side).
    """

    def squeeze(picture: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
        return nn.functional.interpolate(picture, tuple(size), mode="bilinear")

    height, width = masks.shape[1:]
    original = squeeze(pixels, (height, width))[0]
    # Put in after normalisation, where it is nearly no colour at all.
    around = torch.tensor(IMAGENET_MEAN)[:, None, None]
    crops = []
    for mask in masks:
        left, top, right, bottom = published_box(mask)
        inside = (..., slice(max(0, top), bottom), slice(max(0, left), right))
        beyond = (max(0, -left), max(0, right - width), max(0, -top), max(0, bottom - height))
        crop = nn.functional.pad(torch.where(mask[inside], original[inside], around), beyond)
        crops.append(squeeze(crop[None], (side, side))[0])
    return squeeze(pixels, (side, side)), torch.stack(crops)


def published_box(mask: torch.Tensor) -> tuple[int, int, int, int]:
    """
    Left, top, right, bottom of a mask as its detector has them: half the number of columns (rows) that it fills to either side of
    their centre of mass, cut to whole pixels; at least one pixel each way.
    """
    edges = []
    for axis in (0, 1):
        counts = mask.any(axis).float()
        number = float(counts.sum())
        centre = float((counts * torch.arange(len(counts))).sum()) / number
        first, last = int(centre - number / 2), int(centre + number / 2)
        edges.append((first, max(last, first + 1)))
    (left, right), (top, bottom) = edges
    return left, top, right, bottom


__all__ = ["GlobalLocalForReferringSegmentation", "detector_input", "published_box", "published_pictures"]
