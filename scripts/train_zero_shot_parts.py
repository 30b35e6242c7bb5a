"""Trains the smallest CLIP and BLIP that see something in RefShapes, and composes TAS of them.

python scripts/train_zero_shot_parts.py runs/parts                       # goes on where it was stopped
python scripts/train_zero_shot_parts.py runs/parts --output tas-tiny-refshapes

As CLIP and BLIP learn from images and their captions, these learn from windows of drawn scenes, near and far, and from single
things on plain ground (black, white or of any colour, filled or squeezed into a square), each with a caption such as "a red striped mug and
a green tree". Neither sees an expression that refers to one thing among others, or a word for a place: those stand for an unknown word.
"""

import argparse
from collections.abc import Iterator
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from tiny_models import build_tokenizer
from torch.utils.data import IterableDataset
from transformers import (
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessor,
    BlipProcessor,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    Trainer,
    TrainingArguments,
)

from hf_ris.composition import zero_shot
from hf_ris.data.refshapes import SPLITS, Scene, draw_scene, sample_scene
from hf_ris.data.refshapes.phrasing import noun_phrase
from hf_ris.data.refshapes.predicates import Description
from hf_ris.data.refshapes.scene import generator
from hf_ris.modeling.zero_shot_regions import cut_out


SIDE, PATCH = 96, 12
WIDTH = 128
LAYER = {"hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_attention_heads": 4, "hidden_act": "gelu"}
POOL, WINDOWS = 48, 32  # scenes to cut windows from, and how many are cut before another takes its place
MOST_THINGS = 3  # that a caption speaks of
PLAIN_GROUND = 0.3  # share of images with a single thing
LENGTH = 24  # tokens of a text at most
UNKNOWN = 0.1  # share of captions in which a word is unknown, so that one does no harm


class Drawing(NamedTuple):
    scene: Scene
    image: np.ndarray  # (height, width, 3) bytes
    masks: np.ndarray  # (N, height, width)
    areas: np.ndarray  # (N,) pixels that can be seen
    boxes: list[tuple[slice, slice]]  # rows and columns; empty ones where nothing can be seen


def draw(split: str, index: int) -> Drawing:
    scene = sample_scene(split, index)
    image, masks = draw_scene(scene)
    boxes = []
    for mask in masks:
        rows, columns = mask.any(1).nonzero()[0], mask.any(0).nonzero()[0]
        boxes.append(np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] if len(rows) else np.s_[:0, :0])
    return Drawing(scene, np.asarray(image), masks, masks.sum(axis=(1, 2)), boxes)


class CaptionedWindows(IterableDataset):
    """
    Endless images, (SIDE, SIDE, 3) bytes, and their captions.

    Args:
        split (`str`): Of RefShapes.
        seed (`int`, *optional*, defaults to 0): Decides what is cut out and said.
        start (`int`, *optional*, defaults to 0): The first scene.
    """

    def __init__(self, split: str, seed: int = 0, start: int = 0) -> None:
        self.split, self.seed, self.start = split, seed, start

    def __iter__(self) -> Iterator[dict[str, Any]]:
        rng = generator(7, SPLITS.index(self.split), self.seed, self.start)
        pool: list[Drawing] = []
        used: list[int] = []
        index = self.start
        while True:
            place = int(rng.integers(POOL))
            if place >= len(pool) or used[place] == WINDOWS:
                drawing = draw(self.split, index)
                index += 1
                if place >= len(pool):
                    place = len(pool)
                    pool.append(drawing)
                    used.append(0)
                else:
                    pool[place], used[place] = drawing, 0
            used[place] += 1
            thing = int(rng.integers(len(pool[place].scene.objects)))
            if pool[place].areas[thing]:
                cut = cut_single if rng.random() < PLAIN_GROUND else cut_window
                image, shown = cut(rng, pool[place], thing)
                yield {"image": image, "caption": describe(rng, pool[place].scene, shown)}


def cut_window(rng: np.random.Generator, drawing: Drawing, thing: int) -> tuple[np.ndarray, list[int]]:
    """A square around a thing, and the things that can be seen in it, largest first."""
    scene, image, masks, areas, boxes = drawing
    rows, columns = boxes[thing]
    extent = max(rows.stop - rows.start, columns.stop - columns.start)
    side = int(min(scene.width, scene.height, max(28, extent * np.exp(rng.uniform(0.0, 1.9)))))
    slack = max(1, side - extent)
    left = int(np.clip(columns.start - rng.uniform(0, slack), 0, scene.width - side))
    top = int(np.clip(rows.start - rng.uniform(0, slack), 0, scene.height - side))
    window = np.s_[top : top + side, left : left + side]
    seen = masks[:, *window].sum(axis=(1, 2))
    shown = [
        number for number in np.argsort(-seen) if seen[number] > 0.6 * areas[number] and seen[number] > 0.02 * side**2
    ]
    return shrink(image[window]), shown[:MOST_THINGS] or [thing]


def cut_single(rng: np.random.Generator, drawing: Drawing, thing: int) -> tuple[np.ndarray, list[int]]:
    """A thing alone on plain ground: black, white or any colour."""
    box = drawing.boxes[thing]
    mask, inner = drawing.masks[thing][box], drawing.image[box]
    kind = rng.random()
    ground = [0] * 3 if kind < 0.5 else [255] * 3 if kind < 0.65 else rng.integers(0, 256, 3).tolist()
    side = round(max(mask.shape) * rng.uniform(1.0, 1.4))
    sides = mask.shape if rng.random() < 0.3 else (side, side)  # squeezed, or filled up
    canvas = np.empty((*sides, 3), np.uint8)
    canvas[:] = ground
    top, left = ((length - inside) // 2 for length, inside in zip(sides, mask.shape, strict=True))
    canvas[top : top + mask.shape[0], left : left + mask.shape[1]][mask] = inner[mask]
    return shrink(canvas), [thing]


def shrink(image: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def describe(rng: np.random.Generator, scene: Scene, things: list[int]) -> str:
    """A caption: each thing with its article, joined by "and"."""
    phrases = []
    for number in things:
        item = scene.objects[number]
        is_patterned = item.pattern != "plain" and rng.random() < 0.5
        plan = Description(
            noun=item.category,
            colour=item.colour if rng.random() < 0.85 else "",
            pattern=item.pattern if is_patterned else "",
            accent=item.accent if is_patterned and rng.random() < 0.3 else "",
        )
        phrase = noun_phrase(rng, plan)
        phrases.append(f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}")
    words = " and ".join(phrases).split()
    if rng.random() < UNKNOWN:
        words.insert(int(rng.integers(len(words) + 1)), "[UNK]")
    return " ".join(words)


@cache
def caption_words() -> list[str]:
    """Words of captions; all others of RefShapes are unknown to these models."""
    rows = islice(CaptionedWindows("train", seed=9), 20000)
    return sorted({word for row in rows for word in row["caption"].split()} - {"[UNK]"})


def build_clip() -> tuple[Any, Any]:
    tokenizer = build_tokenizer(caption_words(), spell=False)
    tokenizer.model_max_length = LENGTH
    shared = {**LAYER, "projection_dim": WIDTH}
    text = {
        **shared,
        "vocab_size": len(tokenizer),
        "num_hidden_layers": 3,
        "max_position_embeddings": LENGTH,
        "bos_token_id": tokenizer.cls_token_id,
        "eos_token_id": tokenizer.sep_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {**shared, "num_hidden_layers": 4, "image_size": SIDE, "patch_size": PATCH}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=WIDTH))
    images = CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    return model, CLIPProcessor(images, tokenizer)


def build_blip() -> tuple[Any, Any]:
    tokenizer = build_tokenizer(caption_words(), spell=False)
    tokenizer.model_max_length = LENGTH
    text = {
        **LAYER,
        "encoder_hidden_size": WIDTH,
        "vocab_size": len(tokenizer),
        "num_hidden_layers": 2,
        "max_position_embeddings": LENGTH,
        "bos_token_id": tokenizer.cls_token_id,
        "eos_token_id": tokenizer.sep_token_id,
        "sep_token_id": tokenizer.sep_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    # BLIP's default leaves a new image encoder at zero.
    vision = {
        **LAYER,
        "num_hidden_layers": 4,
        "image_size": SIDE,
        "patch_size": PATCH,
        "initializer_range": 0.02,
    }
    model = BlipForConditionalGeneration(BlipConfig(text_config=text, vision_config=vision))
    return model, BlipProcessor(BlipImageProcessor(size={"height": SIDE, "width": SIDE}), tokenizer)


@torch.no_grad()
def copy_image_encoder(clip: CLIPModel, blip: BlipForConditionalGeneration, pixel_values: torch.Tensor) -> None:
    """
    Copy a CLIP's image encoder into a BLIP of the same size, which captions alone teach slowly.

    CLIP normalises its tokens before the first block and BLIP does not. Their means can be taken off the weights that make them; the
    spread of patches becomes a constant, that of some images.
    """
    eye, taught = blip.vision_model, clip.vision_model
    norm = taught.pre_layrnorm
    made = taught.embeddings(pixel_values)
    spread = made.std(-1, correction=0).mean(0)  # of each token
    spread[1:] = spread[1:].mean()

    def normalise(weights: torch.Tensor, spread: torch.Tensor) -> torch.Tensor:
        return (weights - weights.mean(-1, keepdim=True)) * norm.weight / spread

    eye.embeddings.class_embedding.copy_(normalise(taught.embeddings.class_embedding, spread[0]) + norm.bias)
    eye.embeddings.position_embedding.copy_(normalise(taught.embeddings.position_embedding.weight, spread[:, None]))
    kernel = taught.embeddings.patch_embedding.weight  # (width, 3, patch, patch)
    eye.embeddings.patch_embedding.weight.copy_(normalise(kernel.movedim(0, -1), spread[1]).movedim(-1, 0))
    eye.embeddings.patch_embedding.bias.copy_(norm.bias)
    for layer, other in zip(eye.encoder.layers, taught.encoder.layers, strict=True):
        attention = other.self_attn
        for name in ("weight", "bias"):
            parts = [getattr(part, name) for part in (attention.q_proj, attention.k_proj, attention.v_proj)]
            getattr(layer.self_attn.qkv, name).copy_(torch.cat(parts))
        layer.self_attn.projection.load_state_dict(attention.out_proj.state_dict())
        for name in ("layer_norm1", "layer_norm2", "mlp"):
            getattr(layer, name).load_state_dict(getattr(other, name).state_dict())
    eye.post_layernorm.load_state_dict(taught.post_layernorm.state_dict())


def collate(processor: Any, is_captioner: bool, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    images = processor.image_processor
    pixels = torch.from_numpy(np.stack([row["image"] for row in rows])) / 255
    pixels = ((pixels - torch.tensor(images.image_mean)) / torch.tensor(images.image_std)).permute(0, 3, 1, 2)
    texts = processor.tokenizer(
        [row["caption"] for row in rows], padding=True, truncation=True, max_length=LENGTH, return_tensors="pt"
    )
    batch = {"pixel_values": pixels, "input_ids": texts["input_ids"], "attention_mask": texts["attention_mask"]}
    if is_captioner:
        batch["labels"] = texts["input_ids"].masked_fill(texts["attention_mask"] == 0, -100)
    else:
        batch["return_loss"] = True
    return batch


def fit(name: str, folder: Path, steps: int, batch_size: int, learning_rate: float) -> Path:
    """Trains one of the parts, or goes on with it; returns the folder that it is saved in."""
    done = folder / name
    if done.exists():
        return done
    is_captioner = name == "blip"
    torch.manual_seed(0)
    model, processor = build_blip() if is_captioner else build_clip()
    if is_captioner:
        some = list(islice(CaptionedWindows("train", seed=8), 64))
        copy_image_encoder(
            CLIPModel.from_pretrained(folder / "clip"), model, collate(processor, True, some)["pixel_values"]
        )
    checkpoints = sorted((folder / f"{name}-run").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    first = int(checkpoints[-1].name.split("-")[1]) if checkpoints else 0
    # What a stopped run has seen is not seen again.
    rows = CaptionedWindows(
        "train", seed=int(is_captioner), start=2 * first * batch_size // WINDOWS + bool(first) * POOL
    )
    trainer = Trainer(
        model,
        TrainingArguments(
            str(folder / f"{name}-run"),
            max_steps=steps,
            per_device_train_batch_size=batch_size,
            learning_rate=learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=steps // 20,
            weight_decay=0.05,
            logging_steps=50,
            save_steps=200,
            save_total_limit=1,
            ignore_data_skip=True,
            remove_unused_columns=False,
            report_to="none",
            disable_tqdm=True,
        ),
        data_collator=partial(collate, processor, is_captioner),
        train_dataset=rows,
    )
    trainer.train(resume_from_checkpoint=bool(checkpoints) or None)
    unfinished = folder / f"{name}-unfinished"
    save_halved(model, unfinished)
    processor.save_pretrained(unfinished)
    return unfinished.rename(done)


def save_halved(model: Any, folder: Path) -> None:
    """With half the bytes; the configuration says that they are read in full."""
    model.eval().half().save_pretrained(folder)
    model.config.dtype = torch.float32
    model.config.save_pretrained(folder)


@torch.no_grad()
def check(clip: Path, blip: Path) -> str:
    """How often an image of another split finds its caption among 50, and a caption names all that its image shows."""
    rows = [row for row, _ in zip(CaptionedWindows("val"), range(300), strict=False)]
    model, processor = CLIPModel.from_pretrained(clip).eval(), CLIPProcessor.from_pretrained(clip)
    batch = collate(processor, False, rows)
    batch.pop("return_loss")
    logits = model(**batch).logits_per_image.view(6, 50, 6, 50)
    found = np.mean(
        [float((logits[group, :, group].argmax(1) == torch.arange(50)).float().mean()) for group in range(6)]
    )
    model, processor = BlipForConditionalGeneration.from_pretrained(blip).eval(), BlipProcessor.from_pretrained(blip)
    pixels = collate(processor, True, rows)["pixel_values"]
    captions = processor.batch_decode(model.generate(pixel_values=pixels, max_new_tokens=30), skip_special_tokens=True)
    for row, caption in list(zip(rows, captions, strict=True))[:12]:
        print(f"  {row['caption']!r}  ->  {caption!r}")
    words = [set(row["caption"].split()) - {"a", "an", "and", "with"} for row in rows]
    said = np.mean(
        [len(true & set(caption.split())) / len(true) for true, caption in zip(words, captions, strict=True)]
    )
    return (
        f"CLIP finds a caption among 50: {found:.1%}; BLIP says {said:.1%} of a caption's words; {check_looks(clip)}"
    )


@torch.no_grad()
def check_looks(clip: Path, scenes: int = 60) -> str:
    """How often what CLIP takes for "a striped red mug", among a scene's things on black, has these looks."""
    model, processor = CLIPModel.from_pretrained(clip).eval(), CLIPProcessor.from_pretrained(clip)
    right = []
    for index in range(scenes):
        drawing = draw("val", index)
        seen = [number for number, area in enumerate(drawing.areas) if area > 50]
        items = [drawing.scene.objects[number] for number in seen]
        texts = [
            f"a {'' if item.pattern == 'plain' else item.pattern} {item.colour} {item.category}" for item in items
        ]
        crops = [cut_out(drawing.image, drawing.masks[number]) for number in seen]
        inputs = processor(images=crops, text=texts, padding=True, return_tensors="pt")
        for item, pick in zip(items, model(**inputs).logits_per_text.argmax(1).tolist(), strict=True):
            found = items[pick]
            right.append((found.category == item.category, found.colour == item.colour, found.pattern == item.pattern))
    category, colour, pattern = np.mean(right, axis=0)
    return f"of {len(right)} things on black: category {category:.1%}, colour {colour:.1%}, pattern {pattern:.1%}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of runs and parts")
    parser.add_argument("--output", type=Path, help="folder for TAS, composed of both and regions of like colour")
    parser.add_argument("--clip-steps", type=int, default=2800)
    parser.add_argument("--blip-steps", type=int, default=1500)
    arguments = parser.parse_args()
    clip = fit("clip", arguments.folder, arguments.clip_steps, batch_size=128, learning_rate=1e-3)
    blip = fit("blip", arguments.folder, arguments.blip_steps, batch_size=64, learning_rate=5e-4)
    print(check(clip, blip))
    if arguments.output:
        # What its captions speak of is too often not there to count against a region: docs/zero_shot.md has the figures.
        parts = {"image_text": clip, "captioner": blip, "proposer": "felzenszwalb"}
        ris = zero_shot("tas", **parts, device="cpu", parser="rules", negative_weight=0.0)
        save_halved(ris.model, arguments.output)
        for path in arguments.output.glob("*.py"):  # it is to lie in the package, which is this code
            path.unlink()


if __name__ == "__main__":
    main()
