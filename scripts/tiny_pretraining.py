"""Stages that come before whole expressions: what things look like, and what that is called.

The published systems start from encoders that already know photos and language. A model trained from nothing learns shapes
slowly through expressions alone: each shows it one object, and mostly its colour gives it away. So the image encoder first
learns from every object of an image what it shows (`AttributeRows`), then the model what that is called (`NameRows`).
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import nn
from transformers import EvalPrediction, PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin, SwinModel
from transformers.image_processing_base import ImageProcessingMixin

from hf_ris.data.refshapes import CATEGORIES, COLOURS, PATTERNS, Scene, draw_scene, sample_scene
from hf_ris.data.refshapes.phrasing import noun_phrase
from hf_ris.data.refshapes.predicates import TRUE, UNSURE, Description, truth
from hf_ris.data.refshapes.scene import generator, pick
from hf_ris.modeling.clip_resnet import CLIPResNetVision
from hf_ris.modeling.magnet_decoders import sine_positions
from hf_ris.modeling.without_torch import mask_to_rle
from hf_ris.training.recipes import Pretraining
from hf_ris.training.rows import RenderedRows


STRIDE = 4  # pixels of a cell of the attribute maps, like those of an image encoder's finest map
IGNORED = -100
NOTHING = "nothing"
ATTRIBUTES = {"category": (NOTHING, *CATEGORIES), "colour": tuple(COLOURS), "pattern": PATTERNS}
VIEWS = 4  # of each scene in training: whole and three cut-outs
NOTHING_WEIGHT = 0.1  # most cells show no object


class AttributeRows(RenderedRows):
    """
    Images of RefShapes, with the category, colour and pattern of what each cell of 4 x 4 pixels shows.

    Items hold `pixel_values`, a float tensor of shape `(3, H, W)`, and `labels`, a long tensor of shape `(3, H/4, W/4)` with
    positions in the lists of `ATTRIBUTES`. Where there is no object, the category is 0 and the others are ignored.

    Each scene is drawn once, which costs more than learning from it, and shown in several views: whole, then cut out at random,
    enlarged up to twice and mirrored half the time.

    Args:
        image_processor (`ImageProcessingMixin`): The model's image processor.
        num_rows (`int`): Length.
        split (`str`, *optional*, defaults to `"train"`): Split of RefShapes.
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
        image, maps = self.cached_render(index)
        return self.show(image, maps, generator(index, 6, view) if view else None)

    def render(self, index: int) -> tuple[Image.Image, np.ndarray]:
        """Draw an image, with the attributes of each of its pixels, (3, height, width)."""
        scene = sample_scene(self.split, index)
        image, masks = draw_scene(scene)
        maps = np.full((len(ATTRIBUTES), scene.height, scene.width), IGNORED, dtype=np.int8)
        maps[0] = 0
        for item, mask in zip(scene.objects, masks, strict=True):
            maps[:, mask] = [[words.index(getattr(item, name))] for name, words in ATTRIBUTES.items()]
        return image, maps

    def show(self, image: Image.Image, maps: np.ndarray, rng: np.random.Generator | None) -> dict[str, torch.Tensor]:
        """Cut out a view of an image, or take all of it where there is no `rng`."""
        if rng is not None:
            width, height = (int(side * rng.uniform(0.5, 1.0)) for side in image.size)
            left, top = int(rng.uniform(0, image.width - width)), int(rng.uniform(0, image.height - height))
            image = image.crop((left, top, left + width, top + height))
            maps = maps[:, top : top + height, left : left + width]
            if rng.random() < 0.5:
                image, maps = ImageOps.mirror(image), maps[:, :, ::-1]
        pixel_values = self.image_processor(image, return_tensors="pt")["pixel_values"][0]
        height, width = (side // STRIDE for side in pixel_values.shape[-2:])
        # Each cell shows what lies under its centre.
        rows = ((np.arange(height) + 0.5) * image.height / height).astype(int)
        columns = ((np.arange(width) + 0.5) * image.width / width).astype(int)
        labels = maps[:, rows[:, None], columns].astype(np.int64)
        return {"pixel_values": pixel_values, "labels": torch.from_numpy(labels)}


class NameRows(RenderedRows):
    """
    Rows whose expression describes looks alone, true of all objects that look like it: "teapot", "red one", "striped fish".

    They have the columns of RefShapes that training reads. Each image has `ROWS_PER_IMAGE` of them.

    Args:
        num_rows (`int`): Length.
    """

    ROWS_PER_IMAGE = 3

    def __init__(self, num_rows: int) -> None:
        self.num_rows = num_rows

    def __len__(self) -> int:
        return self.num_rows

    def __getitem__(self, number: int) -> dict[str, Any]:
        index, place = divmod(number, self.ROWS_PER_IMAGE)
        return {**self.cached_render(index)[place], "seed": number}

    def render(self, index: int) -> list[dict[str, Any]]:
        scene = sample_scene("train", index)
        image, masks = draw_scene(scene)
        rng = generator(index, 5)
        rows = []
        for _ in range(self.ROWS_PER_IMAGE):
            text, shown = describe_looks(rng, scene)
            rows.append(
                {
                    "image": image,
                    "image_id": index,
                    "mask": mask_to_rle(np.logical_or.reduce(masks[shown])),
                    "expressions": [{"sent": text, "raw": text}],
                }
            )
        return rows


# What a phrase says. Categories are many, and the hardest to learn.
LOOKS = (
    *["noun"] * 10,
    *["colour"] * 3,
    *["pattern"] * 2,
    *["colour noun"] * 3,
    "pattern noun",
    "colour pattern noun",
)


def describe_looks(rng: np.random.Generator, scene: Scene) -> tuple[str, list[int]]:
    """
    Write a phrase about looks alone, mostly in a word or two, such as "teapot", "red one" or "striped fish".

    Returns:
        The text, and the positions of all objects that it is clearly true of; of all others it is clearly false.
    """
    while True:
        item = pick(rng, scene.objects)
        look = pick(rng, LOOKS)
        plan = Description(
            noun=item.category if "noun" in look else "one",
            colour=item.colour if "colour" in look else "",
            pattern=item.pattern if "pattern" in look else "",
        )
        values = truth(scene, plan)
        if UNSURE not in values:
            return noun_phrase(rng, plan), [number for number, value in enumerate(values) if value == TRUE]


ImageEncoder: TypeAlias = SwinModel | CLIPResNetVision


def stage_widths(image_encoder: ImageEncoder) -> list[int]:
    """Return the channels of each stage's map, fine to coarse."""
    if isinstance(image_encoder, SwinModel):
        return [image_encoder.config.embed_dim * 2**stage for stage in range(len(image_encoder.config.depths))]
    return image_encoder.stage_widths


def stage_maps(image_encoder: ImageEncoder, pixel_values: torch.Tensor) -> Sequence[torch.Tensor]:
    """Encode images (B, 3, H, W) to each stage's map, fine to coarse, from stride 4."""
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
        image_encoder (`SwinModel` or `CLIPResNetVision`): Trained in place.
        width (`int`): Channels in which the stages are summed.
    """

    def __init__(self, image_encoder: ImageEncoder, width: int) -> None:
        super().__init__()
        widths = stage_widths(image_encoder)
        self.image_encoder = image_encoder
        if isinstance(image_encoder, CLIPResNetVision):
            image_encoder.attnpool.requires_grad_(False)  # not part of the maps; trained again after this stage
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
    def init_word_embeddings(self, words: nn.Embedding, tokenizer: PreTrainedTokenizerBase) -> None:
        """
        Copy the classifier's rows into the word embeddings of the attributes' names, so that words and features begin in one space.

        Args:
            words (`nn.Embedding`): The text encoder's word embeddings, as wide as this model.
            tokenizer (`PreTrainedTokenizerBase`): Maps words to embeddings; words that it does not know are left out.
        """
        ids = tokenizer.get_vocab()
        names = [name for attribute in ATTRIBUTES.values() for name in attribute]
        for name, weight in zip(names, self.head.weight, strict=True):
            if name in ids and name != NOTHING:
                words.weight[ids[name]] = weight


@torch.no_grad()
def add_sine_positions(image_encoder: ImageEncoder, scale: float = 0.2) -> None:
    """
    Add waves to the position table, which distinguish left from right and top from bottom: the shortest turns once over the image.

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
    """Count the right cells of each attribute, and all cells, (B, 4), on objects alone (`preprocess_logits_for_metrics`)."""
    labels = labels.flatten(2)
    on_object = labels[:, 0] > 0
    right = [
        ((part.argmax(dim=1) == label) & on_object).sum(dim=1)
        for part, label in zip(logits, labels.unbind(1), strict=True)
    ]
    return torch.stack([*right, on_object.sum(dim=1)], dim=1)


def attribute_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """Compute the share of objects' cells that are right, from [`attribute_counts`] (`compute_metrics`)."""
    *right, cells = np.asarray(prediction.predictions).sum(axis=0)
    return {f"{name}_accuracy": float(count / cells) for name, count in zip(ATTRIBUTES, right, strict=True)}


def learn_attributes(model: PreTrainedModel, processor: ProcessorMixin, num_rows: int, eval_rows: int) -> Pretraining:
    """Train the image encoder alone, then begin word embeddings and positions with what it learned (`Stage.pretraining`)."""
    attributes = AttributeModel(model.image_encoder, model.config.text_config.hidden_size)
    trainer_arguments = {
        "model": attributes,
        "train_dataset": AttributeRows(processor.image_processor, num_rows, "train", VIEWS),
        "eval_dataset": AttributeRows(processor.image_processor, eval_rows, "val"),
        "compute_metrics": attribute_metrics,
        "preprocess_logits_for_metrics": attribute_counts,
    }
    return Pretraining(trainer_arguments, partial(_finish, attributes, model, processor))


def _finish(attributes: AttributeModel, model: PreTrainedModel, processor: ProcessorMixin) -> None:
    attributes.init_word_embeddings(model.get_input_embeddings(), processor.tokenizer)
    add_sine_positions(attributes.image_encoder)
    attributes.image_encoder.requires_grad_(True)
