"""
What a model learns before whole expressions: what things look like, and what that is called.

The published systems start from encoders that already know photos and language. A model trained from nothing learns shapes
slowly through expressions alone: each shows it one object, and mostly its colour gives it away. So the image encoder first
learns from every object of a picture what it shows (`AttributeRows`), then the model what that is called (`NameRows`).
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import nn
from transformers import EvalPrediction, PreTrainedTokenizerBase, SwinModel
from transformers.image_processing_base import ImageProcessingMixin

from ..data.refshapes import CATEGORIES, COLOURS, PATTERNS, describe_looks, draw_scene, sample_scene
from ..data.refshapes.scene import generator
from ..modeling.clip_resnet import CLIPResNetVision
from ..modeling.magnet_decoders import sine_positions
from ..modeling.masks import mask_to_rle
from .rows import RowsOfDrawings


STRIDE = 4  # pixels of a cell of the attribute maps, as of an image encoder's finest
IGNORED = -100
NOTHING = "nothing"
ATTRIBUTES = {"category": (NOTHING, *CATEGORIES), "colour": tuple(COLOURS), "pattern": PATTERNS}
VIEWS = 4  # of each scene in training: whole and three cut-outs
NOTHING_WEIGHT = 0.1  # most cells show no object


class AttributeRows(RowsOfDrawings):
    """
    Pictures of RefShapes, with the category, colour and pattern of what each cell of 4 x 4 pixels shows.

    Items hold `pixel_values`, a float tensor of shape `(3, H, W)`, and `labels`, a long tensor of shape `(3, H/4, W/4)` with
    positions in the lists of `ATTRIBUTES`. Where there is no object, the category is 0 and the others are ignored.

    Each scene is drawn once, which costs more than learning from it, and in reading order shown in several views: whole, then
    cut out at random, enlarged up to twice and mirrored half the time.

    Args:
        image_processor (`ImageProcessingMixin`): The model's image processor.
        num_rows (`int`): How many items.
        split (`str`, *optional*, defaults to `"train"`): Split whose scenes are drawn.
        views (`int`, *optional*, defaults to 1): Items that show the same scene.
    """

    def __init__(
        self, image_processor: ImageProcessingMixin, num_rows: int, split: str = "train", views: int = 1
    ) -> None:
        self.image_processor = image_processor
        self.num_rows = num_rows
        self.split = split
        self.views = views

    def __len__(self) -> int:
        return self.num_rows

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        index, view = divmod(number, self.views)
        picture, maps = self.drawn(index)
        return self.show(picture, maps, generator(index, 6, view) if view else None)

    def draw(self, index: int) -> tuple[Image.Image, np.ndarray]:
        """A picture, and the attributes of each of its pixels, of shape (3, height, width)."""
        scene = sample_scene(self.split, index)
        picture, masks = draw_scene(scene)
        maps = np.full((len(ATTRIBUTES), scene.height, scene.width), IGNORED, dtype=np.int8)
        maps[0] = 0
        for fact, mask in zip(scene.objects, masks, strict=True):
            maps[:, mask] = [[words.index(getattr(fact, name))] for name, words in ATTRIBUTES.items()]
        return picture, maps

    def show(self, picture: Image.Image, maps: np.ndarray, rng: np.random.Generator | None) -> dict[str, torch.Tensor]:
        """One view of a picture: a cut-out, or without `rng` all of it."""
        if rng is not None:
            width, height = (int(side * rng.uniform(0.5, 1.0)) for side in picture.size)
            left, top = int(rng.uniform(0, picture.width - width)), int(rng.uniform(0, picture.height - height))
            picture = picture.crop((left, top, left + width, top + height))
            maps = maps[:, top : top + height, left : left + width]
            if rng.random() < 0.5:
                picture, maps = ImageOps.mirror(picture), maps[:, :, ::-1]
        pixel_values = self.image_processor(picture, return_tensors="pt")["pixel_values"][0]
        height, width = (side // STRIDE for side in pixel_values.shape[-2:])
        # Each cell shows what lies under its centre.
        rows = ((np.arange(height) + 0.5) * picture.height / height).astype(int)
        columns = ((np.arange(width) + 0.5) * picture.width / width).astype(int)
        labels = maps[:, rows[:, None], columns].astype(np.int64)
        return {"pixel_values": pixel_values, "labels": torch.from_numpy(labels)}


class NameRows(RowsOfDrawings):
    """
    Rows whose expression tells looks alone, true of all objects that look like it: "teapot", "red one", "striped fish".

    They have the columns of RefShapes that training reads. Each picture gives `ROWS_PER_PICTURE` of them.

    Args:
        num_rows (`int`): How many.
    """

    ROWS_PER_PICTURE = 3

    def __init__(self, num_rows: int) -> None:
        self.num_rows = num_rows

    def __len__(self) -> int:
        return self.num_rows

    def __getitem__(self, number: int) -> dict[str, Any]:
        index, place = divmod(number, self.ROWS_PER_PICTURE)
        return {**self.drawn(index)[place], "draw": number}

    def draw(self, index: int) -> list[dict[str, Any]]:
        """The rows of one picture."""
        scene = sample_scene("train", index)
        picture, masks = draw_scene(scene)
        rng = generator(index, 5)
        rows = []
        for _ in range(self.ROWS_PER_PICTURE):
            text, shown = describe_looks(rng, scene)
            rows.append(
                {
                    "image": picture,
                    "image_id": index,
                    "mask": mask_to_rle(np.logical_or.reduce(masks[shown])),
                    "expressions": [{"sent": text, "raw": text}],
                }
            )
        return rows


ImageEncoder: TypeAlias = SwinModel | CLIPResNetVision


def stage_widths(image_encoder: ImageEncoder) -> list[int]:
    """Channels of each stage's map, fine to coarse."""
    if isinstance(image_encoder, SwinModel):
        return [image_encoder.config.embed_dim * 2**stage for stage in range(len(image_encoder.config.depths))]
    return image_encoder.stage_widths


def stage_maps(image_encoder: ImageEncoder, pixel_values: torch.Tensor) -> Sequence[torch.Tensor]:
    """Images (B, 3, H, W) to each stage's map, fine to coarse, from stride 4."""
    if isinstance(image_encoder, SwinModel):
        encoded = image_encoder(
            pixel_values,
            interpolate_pos_encoding=True,
            always_partition=True,
            output_hidden_states=True,
            output_hidden_states_before_downsampling=True,
        )
        return encoded.reshaped_hidden_states[1:]
    return image_encoder(pixel_values)


class AttributeModel(nn.Module):
    """
    Reads category, colour and pattern of every cell from the features of all stages of an image encoder.

    Args:
        image_encoder (`SwinModel` or `CLIPResNetVision`): What is trained, in place.
        width (`int`): Channels in which the stages are summed.
    """

    def __init__(self, image_encoder: ImageEncoder, width: int) -> None:
        super().__init__()
        widths = stage_widths(image_encoder)
        self.image_encoder = image_encoder
        if isinstance(image_encoder, CLIPResNetVision):
            image_encoder.attnpool.requires_grad_(False)  # of which maps know nothing; until this is learned
        self.projections = nn.ModuleList(nn.Sequential(nn.LayerNorm(each), nn.Linear(each, width)) for each in widths)
        self.head_norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, sum(map(len, ATTRIBUTES.values())))
        self.category_weights: torch.Tensor
        weights = torch.tensor([NOTHING_WEIGHT] + [1.0] * len(CATEGORIES))
        self.register_buffer("category_weights", weights, persistent=False)

    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor) -> dict[str, Any]:
        """`pixel_values` (B, 3, H, W), `labels` (B, 3, H/4, W/4) -> `loss` and `logits` (B, h, w) for each attribute."""
        features = stage_maps(self.image_encoder, pixel_values)
        joined = torch.zeros((), device=pixel_values.device)
        for feature, project in zip(features, self.projections, strict=True):
            projected = project(feature.flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, feature.shape[-2:])
            joined = joined + nn.functional.interpolate(projected, labels.shape[-2:], mode="bilinear")
        logits = self.head(self.head_norm(joined.flatten(2).transpose(1, 2))).transpose(1, 2)
        parts = logits.split([len(words) for words in ATTRIBUTES.values()], dim=1)
        losses = [
            nn.functional.cross_entropy(part, label.flatten(1), weight=weight, ignore_index=IGNORED)
            for part, label, weight in zip(parts, labels.unbind(1), (self.category_weights, None, None), strict=True)
        ]
        return {"loss": torch.stack(losses).sum(), "logits": parts}

    @torch.no_grad()
    def lend_to(self, words: nn.Embedding, tokenizer: PreTrainedTokenizerBase) -> None:
        """
        Starts the attributes' words with what tells the attributes apart, so that words and features begin in one space.

        Args:
            words (`nn.Embedding`): The text encoder's word embeddings, as wide as this model.
            tokenizer (`PreTrainedTokenizerBase`): Tells which word is which embedding; words it does not know are left out.
        """
        ids = tokenizer.get_vocab()
        names = [name for attribute in ATTRIBUTES.values() for name in attribute]
        for name, direction in zip(names, self.head.weight, strict=True):
            if name in ids and name != NOTHING:
                words.weight[ids[name]] = direction


@torch.no_grad()
def tell_places(image_encoder: ImageEncoder, scale: float = 0.2) -> None:
    """
    Adds waves to the position table, which tell left from right and top from bottom: the shortest turns once over the picture.

    While it learns what things look like, wherever they are, an encoder has no use for places, and its table, which starts at
    zero, stays noise. A fifth of a patch's own strength hardly confuses it.

    Args:
        image_encoder (`SwinModel` or `CLIPResNetVision`): Changed in place, if it has absolute positions at all.
        scale (`float`, *optional*, defaults to 0.2): Amplitude.
    """
    if not isinstance(image_encoder, SwinModel):
        return
    embeddings = image_encoder.embeddings
    table = embeddings.position_embeddings
    if table is not None:
        table.add_(scale * sine_positions(table.shape[-1], temperature=10.0, size=embeddings.patch_grid, like=table))


def attribute_counts(logits: tuple[torch.Tensor, ...], labels: torch.Tensor) -> torch.Tensor:
    """`Trainer`'s `preprocess_logits_for_metrics`: right cells of each attribute, and cells, (B, 4), on objects alone."""
    labels = labels.flatten(2)
    on_object = labels[:, 0] > 0
    right = [
        ((part.argmax(dim=1) == label) & on_object).sum(dim=1)
        for part, label in zip(logits, labels.unbind(1), strict=True)
    ]
    return torch.stack([*right, on_object.sum(dim=1)], dim=1)


def attribute_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """`Trainer`'s `compute_metrics`, fed by [`attribute_counts`]: the share of objects' cells told rightly."""
    *right, cells = np.asarray(prediction.predictions).sum(axis=0)
    return {f"{name}_accuracy": float(count / cells) for name, count in zip(ATTRIBUTES, right, strict=True)}


__all__ = [
    "VIEWS",
    "AttributeModel",
    "AttributeRows",
    "NameRows",
    "attribute_counts",
    "attribute_metrics",
    "tell_places",
]
