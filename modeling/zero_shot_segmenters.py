"""
Networks that segment what a prompt points at: SAM, SAM-HQ, SAM 2, EdgeTAM. Asked at the points of a grid they propose regions; asked
with a detector's boxes they give a mask for each.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from transformers import AutoModelForMaskGeneration, PreTrainedConfig, SamHQModel, SamModel
from transformers.image_processing_backends import PilBackend
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, PILImageResampling
from transformers.utils import logging

from .without_torch import check_integer
from .zero_shot_parts import in_batches, pad_slender
from .zero_shot_regions import (
    WITHOUT_PROMPTS,
    Proposer,
    boxes_of,
    ndimage,
    remove_small_parts,
    suppress_boxes,
)


logger = logging.get_logger(f"transformers.{__name__}")  # under transformers' verbosity


@dataclass(frozen=True)
class Frame:
    """
    Where an image lies in a network's input.

    Attributes:
        side (`int`): Side of the input in pixels.
        filled (`tuple[int, int]`): Height and width of it that the image fills, from the top left corner.
        is_padded (`bool`): Whether the rest is padding; otherwise the image is squeezed to the whole input.
    """

    side: int
    filled: tuple[int, int]
    is_padded: bool

    def enlarge(self, logits: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Enlarge maps over the input, (n, h, w), to the image's size, (n, height, width), as transformers' processors do it."""
        maps = logits[:, None]
        if self.is_padded:
            maps = nn.functional.interpolate(maps, (self.side, self.side), mode="bilinear")
            maps = maps[..., : self.filled[0], : self.filled[1]]
        return nn.functional.interpolate(maps, size, mode="bilinear")[:, 0]

    def within(self, padded: tuple[int, int], size: tuple[int, int]) -> "Frame":
        """Find the frame of an image of this size, where `self` is that of the image with padding."""
        if padded == size:
            return self
        height, width = (
            max(1, round(end * part / whole)) for end, part, whole in zip(self.filled, size, padded, strict=True)
        )
        return Frame(self.side, (height, width), is_padded=True)

    def crop(self, logits: torch.Tensor) -> torch.Tensor:
        """Cut off the padding of maps over the input, (n, h, w), as nearly as their size allows."""
        height, width = (
            max(1, round(end * part / self.side)) for end, part in zip(logits.shape[1:], self.filled, strict=True)
        )
        return logits[:, :height, :width]


class EncodedImage(NamedTuple):
    """
    An image as a segmenter sees it.

    Attributes:
        features (`dict[str, Any]`): Arguments of the network that stand for the image.
        size (`tuple[int, int]`): Height and width of the image in pixels.
        frame (`Frame`): Where it lies in the network's input.
    """

    features: dict[str, Any]
    size: tuple[int, int]
    frame: Frame


class Segmenter(Proposer):
    """
    Base class of the segmenters. As proposers they are asked at the points of a grid (Kirillov et al., "Segment Anything", ICCV 2023,
    section 4, "everything"). The defaults are TAS's (section 4.1). By hand: transformers' pipeline for this needs torchvision, and
    keeps holes and islands.

    Args:
        config (`PreTrainedConfig`): The network's.
        points_per_side (`int`, *optional*, defaults to 8): Points along a side of the grid.
        min_iou (`float`, *optional*, defaults to 0.7): Least IoU that the network predicts of a mask.
        min_stability (`float`, *optional*, defaults to 0.7): Least IoU of the masks at a higher and a lower threshold.
        max_box_iou (`float`, *optional*, defaults to 0.7): Of two masks whose boxes overlap more, the better one stays.
        min_region_area (`int`, *optional*, defaults to 800): Holes and islands of fewer pixels go; this needs SciPy.
    """

    uncalled = ("shared_image_embedding", "prompt_encoder", "mask_decoder")
    stability_offset = 1.0
    prompts_at_once = 16

    def __init__(
        self,
        config: PreTrainedConfig,
        points_per_side: int = 8,
        min_iou: float = 0.7,
        min_stability: float = 0.7,
        max_box_iou: float = 0.7,
        min_region_area: int = 800,
    ) -> None:
        super().__init__(config)
        check_integer("points_per_side", points_per_side, 1)
        self.points_per_side = points_per_side
        self.min_iou = min_iou
        self.min_stability = min_stability
        self.max_box_iou = max_box_iou
        self.min_region_area = min_region_area

    def encode(self, image: np.ndarray) -> EncodedImage:
        """Encode an RGB image of bytes, (height, width, 3), once for all prompts."""
        raise NotImplementedError

    def segment_boxes(self, encoded: EncodedImage, boxes: torch.Tensor) -> torch.Tensor:
        """
        Segment what boxes enclose.

        Args:
            encoded (`EncodedImage`): The image.
            boxes (`torch.Tensor` of shape `(n, 4)`): Left, top, right and bottom, in pixels of the image.

        Returns:
            `torch.Tensor` of shape `(n, h, w)`: Log-odds over the network's input, at its own stride; see [`Frame`].
        """
        factors = torch.tensor(
            [new / old for new, old in zip(encoded.frame.filled, encoded.size, strict=True)][::-1] * 2
        )
        prompts = boxes.float().cpu() * factors
        found = [
            self._call(encoded, input_boxes=batch[None], multimask_output=False)[0][:, 0]
            for batch in in_batches(prompts, self.prompts_at_once)
        ]
        return torch.cat(found) if found else torch.zeros(0, 1, 1)

    def propose(self, image: np.ndarray) -> np.ndarray:
        encoded = self.encode(image)
        found = [self._ask(encoded, points) for points in self._grid(encoded.frame.filled).split(self.prompts_at_once)]
        packed, boxes, scores = (torch.cat(parts) for parts in zip(*found, strict=True))
        kept = suppress_boxes(boxes, scores, self.max_box_iou)
        regions = np.unpackbits(packed[kept].numpy(), axis=-1, count=image.shape[1]).view(bool)
        if ndimage is None and self.min_region_area:
            logger.warning_once("Holes and islands of regions stay without SciPy: pip install 'hf_ris[zero-shot]'.")
        elif self.min_region_area and len(regions):
            changed = torch.zeros(len(regions))
            for number, region in enumerate(regions):
                cleaned = remove_small_parts(region, self.min_region_area)
                changed[number] = float((cleaned != region).any())
                regions[number] = cleaned
            # Changed regions come last, and their boxes have changed.
            regions = regions[suppress_boxes(boxes_of(regions), 1.0 - changed, self.max_box_iou).numpy()]
        return regions[regions.any(axis=(1, 2))]

    def _call(
        self, encoded: EncodedImage, multimask_output: bool = True, **prompts: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-odds (n, m, h, w) and predicted IoUs (n, m) of m masks for each of n prompts."""
        prompts = {name: values.to(self.device) for name, values in prompts.items()}
        with self.weights_at_hand():
            outputs = self.network(**encoded.features, **prompts, multimask_output=multimask_output)
        return outputs.pred_masks[0].float(), outputs.iou_scores[0].float()

    def _grid(self, size: tuple[int, int]) -> torch.Tensor:
        """(points, 1, 2) places (x, y) in the network's input, of whose height and width the image fills `size`."""
        steps = (torch.arange(self.points_per_side) + 0.5) / self.points_per_side
        rows, columns = torch.meshgrid(steps * size[0], steps * size[1], indexing="ij")
        return torch.stack([columns, rows], dim=-1).view(-1, 1, 2)

    def _ask(self, encoded: EncodedImage, points: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Masks (n, height, width / 8) of eight pixels a byte, their boxes (n, 4) and scores (n,); up to three for each point."""
        small, scores = (values.flatten(0, 1) for values in self._call(encoded, input_points=points[None]))
        confident = scores > self.min_iou
        logits = encoded.frame.enlarge(small[confident], encoded.size)
        high, low = ((logits > offset).sum((1, 2)) for offset in (self.stability_offset, -self.stability_offset))
        stable = (high / low.clamp(min=1) >= self.min_stability) & (logits > 0).any(2).any(1)
        masks = (logits > 0)[stable].cpu().numpy()
        return torch.from_numpy(np.packbits(masks, axis=-1)), boxes_of(masks), scores[confident][stable].cpu()


class SamSegmenter(Segmenter):
    """Segment Anything."""

    network_class = SamModel

    def encode(self, image: np.ndarray) -> EncodedImage:
        padded = pad_slender(image)
        inputs = self.processor.image_processor(padded, return_tensors="pt", input_data_format="channels_last")
        pixel_values = inputs["pixel_values"].to(self.device, self.network.dtype)
        with self.weights_at_hand():
            features = self._features(pixel_values)
        height, width = inputs["reshaped_input_sizes"][0].tolist()
        frame = Frame(pixel_values.shape[-1], (height, width), is_padded=True)
        return EncodedImage(features, image.shape[:2], frame.within(padded.shape[:2], image.shape[:2]))

    def _features(self, pixel_values: torch.Tensor) -> dict[str, Any]:
        return {"image_embeddings": self.network.get_image_embeddings(pixel_values)}


class SamHQSegmenter(SamSegmenter):
    """SAM-HQ ("Segment Anything in High Quality", Ke et al., NeurIPS 2023): SAM with finer outlines."""

    network_class = SamHQModel

    def _features(self, pixel_values: torch.Tensor) -> dict[str, Any]:
        embeddings, intermediate = self.network.get_image_embeddings(pixel_values)
        return {"image_embeddings": embeddings, "intermediate_embeddings": intermediate}


class Sam2ImageProcessorPil(PilBackend):
    """SAM 2's and EdgeTAM's image processor without torchvision: transformers has it for torchvision alone."""

    resample = PILImageResampling.BILINEAR
    image_mean = IMAGENET_DEFAULT_MEAN
    image_std = IMAGENET_DEFAULT_STD
    size = {"height": 1024, "width": 1024}
    do_resize = True
    do_rescale = True
    do_normalize = True
    do_convert_rgb = True


class Sam2Segmenter(Segmenter):
    """SAM 2 and 2.1 ("SAM 2: Segment Anything in Images and Videos", Ravi et al., 2024), or EdgeTAM, for images."""

    network_class = AutoModelForMaskGeneration
    processor_class = Sam2ImageProcessorPil

    def encode(self, image: np.ndarray) -> EncodedImage:
        padded = pad_slender(image)
        pixels = torch.from_numpy(np.stack(self.processor(padded, input_data_format="channels_last")["pixel_values"]))
        with self.weights_at_hand():
            embeddings = self.network.get_image_embeddings(pixels.to(self.device, self.network.dtype))
        side = pixels.shape[-1]
        frame = Frame(side, (side, side), is_padded=False)
        size = image.shape[:2]
        return EncodedImage({"image_embeddings": embeddings}, size, frame.within(padded.shape[:2], size))


SEGMENTERS: dict[str, type[Segmenter]] = {
    "sam": SamSegmenter,
    "sam_hq": SamHQSegmenter,
    "sam2": Sam2Segmenter,
    "sam2_video": Sam2Segmenter,  # as the Hub's repositories call themselves: weights of images and of videos
    "edgetam": Sam2Segmenter,
    "edgetam_video": Sam2Segmenter,
}
PROPOSERS: dict[str, type[Proposer]] = {**SEGMENTERS, **WITHOUT_PROMPTS}


__all__ = [
    "EncodedImage",
    "Frame",
    "PROPOSERS",
    "SEGMENTERS",
    "SamHQSegmenter",
    "SamSegmenter",
    "Sam2Segmenter",
    "Segmenter",
]
