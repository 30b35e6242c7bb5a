"""Trains with Mask Grounding and the alignment loss, and measures whether each moves what it should.

python scripts/check_losses.py runs/check-losses docs/training.md   # goes on where it was stopped

The model is that of the bundled checkpoint, and so is its training up to the first whole expressions: what things look like, what
that is called, and then a number of steps on small images, with all losses together. Whoever has run the first stage, which
knows neither loss, can copy its folder `stage-1`. Then come questions about scenes of the val split that it has never seen.
"""

import argparse
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from refshapes_checker import RELATIONS
from tiny_models import build_magnet_mini
from tiny_recipes import RECIPES

from hf_ris.data import ReferringSegmentationCollator, load_refshapes
from hf_ris.data.refshapes import CATEGORIES, COLOURS, NAMES
from hf_ris.modeling.grounding_losses import AlignmentLoss
from hf_ris.modeling.layers import average_pool
from hf_ris.reporting import machine, table, write_section
from hf_ris.training import train
from hf_ris.training.building import load_checkpoint
from hf_ris.training.checkpoints import number_of_steps


# The words of each kind that are asked for, by what they mean: no image distinguishes "big" from "large".
KINDS = {
    "colour": {**{colour: [colour] for colour in COLOURS}, "gray": ["gray", "grey"], "purple": ["purple", "violet"]},
    "size": {
        "big": ["big", "large", "huge", "biggest", "largest"],
        "small": ["small", "little", "tiny", "smallest", "tiniest"],
    },
    "direction": {
        "left": ["left"],
        "right": ["right"],
        "top": ["top", "upper"],
        "bottom": ["bottom", "lower"],
    },
    "category": {
        name: words for name, category in CATEGORIES.items() if (words := [w for w in category.words if " " not in w])
    },
}
OTHER_OBJECT = re.compile(rf"\b({'|'.join(RELATIONS.values())})\b")
LOSSES = {"mask_grounding_loss_weight": 1.0, "alignment_loss_weight": 0.5}
MINI = RECIPES["magnet-mini-refshapes"]
SEED = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output_dir", type=Path)
    parser.add_argument("document", nargs="?", help="Markdown file with a section named losses")
    parser.add_argument(
        "--steps", type=int, default=1500, help="of whole expressions, 48 at a time, at 80 x 80 pixels"
    )
    parser.add_argument("--rows", type=int, default=400, help="referents of each variant that are asked about")
    arguments = parser.parse_args()

    *earlier, referring, _ = MINI.stages
    referring = replace(referring, arguments={**referring.arguments, "max_steps": arguments.steps})
    recipe = replace(MINI, stages=(*earlier, referring), config=LOSSES)
    if not (arguments.output_dir / "config.json").exists():
        begun = any(arguments.output_dir.glob("stage-*/checkpoint-*"))
        train(recipe, arguments.output_dir, resume=begun, logging_steps=50, seed=SEED)
    untrained, _ = build_magnet_mini(SEED, LOSSES)
    trained, processor = load_checkpoint(SEED, {}, str(arguments.output_dir))
    report = "\n\n".join(
        [
            losses_report(arguments.output_dir),
            naming_report(untrained.eval(), trained.eval(), processor, arguments.rows),
            alignment_report(untrained, trained, processor, arguments.rows),
            f"{arguments.steps} steps of 48 referents at 80 x 80 pixels, after looks and their names; measured on "
            f"{3 * arguments.rows} referents of unseen scenes, {machine()}.",
        ]
    )
    print(report)
    if arguments.document:
        write_section(arguments.document, "losses", report)


def losses_report(folder: Path) -> str:
    """The terms of the loss on the way."""
    last = max(folder.glob("stage-3/checkpoint-*"), key=number_of_steps)
    log = json.loads((last / "trainer_state.json").read_text())["log_history"]
    log = [entry for entry in log if "loss" in entry]
    names = [name for name in log[0] if name.startswith("loss_")]
    rows = [[str(entry["step"]), *(f"{entry[name]:.3f}" for name in names)] for entry in log[:: max(1, len(log) // 6)]]
    return table(["step", *(name.removeprefix("loss_").replace("_", " ") for name in names)], rows)


def batches(
    processor: Any, num_rows: int, of_one_object: bool = False, size: int = 25
) -> Iterator[dict[str, torch.Tensor]]:
    """Yield the first expression of unseen referents, of all variants; with `of_one_object`, of those that mention no other."""
    collator = ReferringSegmentationCollator(processor, expression="first")
    for name in NAMES:
        rows = load_refshapes(name, "val", num_rows=num_rows)
        texts = [expressions[0]["sent"] for expressions in rows["expressions"]]
        chosen = [index for index, text in enumerate(texts) if not (of_one_object and OTHER_OBJECT.search(text))]
        for first in range(0, len(chosen), size):
            yield collator([rows[index] for index in chosen[first : first + size]])


def naming_report(untrained: Any, trained: Any, processor: Any, num_rows: int) -> str:
    """Measure how often the meaning of a hidden word is found among those of its kind, when it alone is hidden."""
    asked: dict[str, Counter[int]] = {kind: Counter() for kind in KINDS}
    right: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS}
    listed = {kind: list_words(meanings, processor) for kind, meanings in KINDS.items()}
    for batch in batches(processor, num_rows, of_one_object=True):
        blanked = {**batch, "pixel_values": torch.zeros_like(batch["pixel_values"])}
        for kind, (ids, meaning_of) in listed.items():
            # One word of a kind, the first, is hidden in each expression that has one.
            of_kind = torch.isin(batch["input_ids"], ids)
            is_hidden = of_kind & (of_kind.cumsum(dim=1) == 1)
            if not is_hidden.any():
                continue
            hidden = batch["input_ids"][is_hidden]
            meant = meaning_of[(hidden.unsqueeze(1) == ids).int().argmax(dim=1)]
            asked[kind].update(meant.tolist())
            for name, model, shown in (
                ("before", untrained, batch),
                ("after", trained, batch),
                ("blanked", trained, blanked),
            ):
                shares = name_words(model, shown, is_hidden, processor.tokenizer.mask_token_id)[:, ids]
                of_meanings = torch.zeros(len(hidden), len(KINDS[kind])).index_add_(1, meaning_of, shares)
                right[kind][name] += int((of_meanings.argmax(dim=1) == meant).sum())
    rows = []
    for kind, counts in asked.items():
        total = counts.total()
        shares = [
            max(counts.values()) / total,
            *(right[kind][name] / total for name in ("before", "after", "blanked")),
        ]
        rows.append([kind, str(len(KINDS[kind])), str(total), *(f"{share:.3f}" for share in shares)])
    headings = ["hidden word", "meanings", "asked", "always the commonest", "before training", "after"]
    report = table([*headings, "after, image blanked"], rows)
    return (
        "Share of hidden words whose meaning is found among those of their kind (a hidden `big` from `small`, of whatever word "
        f"for it), in expressions that mention no other object than the referent:\n\n{report}"
    )


def list_words(meanings: dict[str, list[str]], processor: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids of all words of a kind, and the number of each one's meaning."""
    words = [word for of_meaning in meanings.values() for word in of_meaning]
    numbers = [number for number, of_meaning in enumerate(meanings.values()) for _ in of_meaning]
    return torch.tensor(processor.tokenizer.convert_tokens_to_ids(words)), torch.tensor(numbers)


@torch.no_grad()
def name_words(model: Any, batch: dict[str, torch.Tensor], is_hidden: torch.Tensor, mask_id: int) -> torch.Tensor:
    """Probabilities over the vocabulary of each hidden word."""
    masked = batch["input_ids"].masked_fill(is_hidden, mask_id)
    logits = model.name_words(batch["pixel_values"], masked, batch["attention_mask"], batch["labels"])
    return logits[is_hidden].softmax(dim=-1)


def alignment_report(untrained: Any, trained: Any, processor: Any, num_rows: int) -> str:
    """Mean cosine similarity of expressions with the pixels they refer to, and with the others."""
    rows = []
    for name, model in (("before", untrained), ("after", trained)):
        sums = torch.zeros(2)
        for batch in batches(processor, num_rows):
            sums += similarities(model, batch)
        inside, outside = (sums / (len(NAMES) * num_rows)).tolist()
        rows.append([name, f"{inside:.3f}", f"{outside:.3f}", f"{inside - outside:.3f}"])
    headings = ["training", "pixels it refers to", "other pixels", "gap"]
    return f"Cosine similarity of an expression with pixels:\n\n{table(headings, rows)}"


@torch.no_grad()
def similarities(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Sums over a batch of the two means."""
    loss: AlignmentLoss = model.auxiliary_losses.alignment
    inputs = {name: batch[name] for name in ("pixel_values", "input_ids", "attention_mask")}
    output = model.eval()(**inputs, output_hidden_states=True)
    pixels, sentences = loss.embed(output.pixel_features, output.word_features, batch["attention_mask"])
    cosines = (sentences @ pixels.mT).squeeze(1)
    covered = average_pool(batch["labels"].float(), output.pixel_features.shape[-2:]).flatten(1)
    means = [(cosines * share).sum(dim=1) / share.sum(dim=1).clamp(min=1e-6) for share in (covered, 1 - covered)]
    return torch.stack([mean.sum() for mean in means])


if __name__ == "__main__":
    main()
