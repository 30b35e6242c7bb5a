"""
Global-Local ("Zero-shot Referring Image Segmentation with Global-Local Context Features", Yu et al., CVPR 2023).

A region is encoded twice, within the whole image and alone; an expression is read twice, whole and as the noun phrase that names its
referent. Mixed features are compared, and the nearest region is the answer.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from .as_published import PublishedGlobalLocalSteps
from .configuration_zero_shot import GlobalLocalConfig
from .language_expression import Expression
from .modeling_zero_shot import Answer, ZeroShotPreTrainedModel, unit
from .zero_shot_cache import CachedImage
from .zero_shot_parts import ImageText, in_batches
from .zero_shot_regions import box_of, fill_around


TINY = 1e-6  # instead of a division by nothing


class GlobalLocalSteps:
    """The steps of Global-Local that the default mends; [`PublishedGlobalLocalSteps`] has the released code's."""

    @staticmethod
    def prepare(
        image: np.ndarray, regions: np.ndarray, image_text: ImageText, batch_size: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Make the network's inputs: the whole image (1, 3, H, W), and crops of its regions (r, 3, H, W) on the network's mean colour."""
        colour = np.array([round(255 * share) for share in image_text.processor.image_processor.image_mean], np.uint8)
        crops = [
            image_text.prepare([fill_around(image, region, box_of(region), colour) for region in batch], whole=True)
            for batch in in_batches(regions, batch_size)
        ]
        return image_text.prepare([image], whole=True), torch.cat(crops)

    @staticmethod
    def shrink(masks: torch.Tensor, grid: int) -> torch.Tensor:
        """Shrink masks (n, 1, height, width) to the network's grid, (n, 1, grid, grid)."""
        return nn.functional.adaptive_avg_pool2d(masks, grid)

    @staticmethod
    def normalize(features: torch.Tensor, stage: str, image_text: ImageText) -> torch.Tensor:
        """Bring features (n, d) of a stage, "global", "local", "text" or "mixture", to length 1."""
        return unit(features)


class GlobalLocalForReferringSegmentation(ZeroShotPreTrainedModel):
    """
    Global-Local with the parts that its configuration names.

    Args:
        config ([`GlobalLocalConfig`]): Parts and weights.
    """

    config_class = GlobalLocalConfig

    @property
    def _steps(self) -> type[GlobalLocalSteps] | type[PublishedGlobalLocalSteps]:
        return PublishedGlobalLocalSteps if self.config.mode == "paper" else GlobalLocalSteps

    def _score_expressions(self, cached: CachedImage, expressions: Sequence[str]) -> list[Answer]:
        read = [Expression(text, self._parse) for text in expressions]
        phrases = [expression.noun_phrase for expression in read]
        visual = cached.get_or_compute("visual", lambda: self.encode_visual(cached.image, cached.regions))
        texts, phrase_features = self._encode_texts([*expressions, *phrases]).chunk(2)
        scores = self.score(visual, texts, phrase_features)
        terms = {"score": scores}
        if self.config.spatial_guidance > 0:
            cells = cached.get_or_compute("cells", lambda: self.encode_cells(cached.image))
            cover = cached.get_or_compute("cover", lambda: self._shrink(torch.from_numpy(cached.regions)))
            ramps = torch.stack([make_ramp(expression, self.image_text.grid) for expression in read])
            guidance = self.guide(cells, phrase_features, ramps.to(cells), cover.to(cells))
            terms["guidance"] = self.image_text.scale.float() * guidance
            scores = scores + self.config.spatial_guidance * terms["guidance"]
        shares = scores.softmax(dim=1)
        return [
            Answer(
                int(share.argmax()), share, {name: term[number] for name, term in terms.items()}, {"phrase": phrase}
            )
            for number, (share, phrase) in enumerate(zip(shares, phrases, strict=True))
        ]

    def encode_visual(self, image: np.ndarray, regions: np.ndarray) -> torch.Tensor:
        """Encode regions (r, height, width) of an RGB image of bytes, (height, width, 3), to (r, d) (section 3.2)."""
        inputs = self._steps.prepare(image, regions, self.image_text, self.config.batch_size)
        return self.mix_visual(*inputs, torch.from_numpy(regions))

    def mix_visual(self, whole: torch.Tensor, crops: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        """
        Encode regions within the image and alone, and sum up both features by their weights, (r, d).

        Args:
            whole (`torch.Tensor` of shape `(1, 3, H, W)`): The image, as the network takes it.
            crops (`torch.Tensor` of shape `(r, 3, H, W)`): Its regions, as the network takes them.
            masks (`torch.BoolTensor` of shape `(r, height, width)`): The regions.
        """
        weight = self.config.visual_mix
        mixed: Any = 0.0
        if weight > 0:
            within = self._encode_within(whole, masks)
            mixed = weight * self._steps.normalize(within, "global", self.image_text)
        if weight < 1:
            alone = self._encode_images(crops)
            mixed = mixed + (1 - weight) * self._steps.normalize(alone, "local", self.image_text)
        return mixed

    def _encode_within(self, whole: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        """Encode regions, (r, d), each seen within the whole image."""
        shares = self._shrink(masks)
        block = self.config.masking_block
        block = max(0, self.image_text.blocks - 3) if block is None else block
        # Blocks before the masking run once for a batch of regions; of many regions, once more for each batch.
        batches = in_batches(shares.to(self.image_text.device), self.config.batch_size * 4)
        return torch.cat([self.image_text.encode_regions(whole, batch, block).float() for batch in batches])

    def _shrink(self, masks: torch.Tensor) -> torch.Tensor:
        """Shrink masks (r, height, width) to shares of the network's cells, (r, grid, grid)."""
        # In batches: as numbers, masks take four times their size.
        batches = in_batches(masks, self.config.batch_size)
        return torch.cat([self._steps.shrink(batch[:, None].float(), self.image_text.grid)[:, 0] for batch in batches])

    def encode_cells(self, image: np.ndarray) -> torch.Tensor:
        """Encode each of the network's cells as a region within an image (height, width, 3), to (grid * grid, d), with length 1."""
        grid = self.image_text.grid
        whole = self.image_text.prepare([image], whole=True)
        return unit(self._encode_within(whole, torch.eye(grid * grid, dtype=torch.bool).view(-1, grid, grid)))

    def guide(
        self, cells: torch.Tensor, phrases: torch.Tensor, ramps: torch.Tensor, cover: torch.Tensor
    ) -> torch.Tensor:
        """
        Say how much better noun phrases fit inside of regions than outside, each on the side that its expression names.

        The idea is HybridGL's ("Hybrid Global-Local Representation with Augmented Spatial Guidance for Zero-Shot Referring Image
        Segmentation", Liu and Li, CVPR 2025): a map of a text on the image, times a ramp, is read inside of a region minus outside. It is
        not HybridGL: its map is GEM's, and here each cell is encoded as a region; its guidance by relations, its fusion of features and
        its weights are not here.

        Args:
            cells (`torch.Tensor` of shape `(c, d)`): Features of the network's cells, of length 1.
            phrases (`torch.Tensor` of shape `(k, d)`): Features of noun phrases, not normalised.
            ramps (`torch.Tensor` of shape `(k, c)`): How well each cell lies for an expression, from 0 to 1.
            cover (`torch.Tensor` of shape `(r, h, w)`): Shares of the cells, `c = h * w`, that regions fill.

        Returns:
            `torch.Tensor` of shape `(k, r)`: From -1 to 1.
        """
        fits = unit(phrases).to(cells) @ cells.T
        fits = fits - fits.amin(dim=1, keepdim=True)
        maps = fits / fits.amax(dim=1, keepdim=True).clamp(min=TINY) * ramps
        inside = cover.flatten(1).T
        inside, outside = (share / share.sum(dim=0).clamp(min=TINY) for share in (inside, 1 - inside))
        return maps @ (inside - outside)

    def score(self, visual: torch.Tensor, texts: torch.Tensor, phrases: torch.Tensor) -> torch.Tensor:
        """
        Compare regions with expressions (section 3.4).

        Args:
            visual (`torch.Tensor` of shape `(r, d)`): Features of regions.
            texts, phrases (`torch.Tensor` of shape `(k, d)`): Features of expressions and their noun phrases, not normalised.

        Returns:
            `torch.Tensor` of shape `(k, r)`: Scaled similarities.
        """
        texts, phrases = (self._steps.normalize(each, "text", self.image_text) for each in (texts, phrases))
        mixed = self.config.text_mix * texts + (1 - self.config.text_mix) * phrases
        visual, mixed = (self._steps.normalize(each, "mixture", self.image_text) for each in (visual, mixed))
        return self.image_text.scale.float() * mixed @ visual.T


def make_ramp(expression: Expression, grid: int) -> torch.Tensor:
    """How far each of the image's cells, (grid * grid,), lies to the sides that an expression names, from 0 to 1; ones without sides."""
    centres = (torch.arange(grid) + 0.5) / grid
    along = {"x": centres.expand(grid, grid), "y": centres[:, None].expand(grid, grid)}
    ramp = torch.ones(grid, grid)
    for place in expression.places:
        if place.kind == "side" and place.axis in along:
            ramp = ramp * (along[place.axis] if place.sign > 0 else 1 - along[place.axis])
    return ramp.flatten()


__all__ = ["GlobalLocalForReferringSegmentation"]
