"""Trains with Mask Grounding and the alignment loss, and measures whether each moves what it should.

python scripts/check_losses.py runs/check-losses docs/training.md   # goes on where it was stopped

The model is that of the bundled checkpoint, and so is the first stage of its training, in which the image encoder alone learns what
things look like: whoever has run it can copy its folder `stage-1`. Then all losses together; and questions about scenes of the val
split that it has never seen.
"""

import argparse
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from hf_ris.data import ReferringSegmentationCollator, load_refshapes
from hf_ris.data.refshapes import CATEGORIES, COLOURS, NAMES
from hf_ris.modeling.alignment_loss import AlignmentLoss
from hf_ris.modeling.pooling import average_pool
from hf_ris.reporting import machine, table, write_section
from hf_ris.training import RECIPES, train
from hf_ris.training.building import build_magnet_tiny, load_checkpoint
from hf_ris.training.checkpoints import number_of_steps


KINDS = {
    "colour": {*COLOURS, "grey", "violet"},
    "size": {"big", "large", "huge", "small", "little", "tiny", "biggest", "largest", "smallest", "tiniest"},
    "direction": {"left", "right", "top", "bottom", "upper", "lower", "above", "below"},
    "category": {name for name in CATEGORIES if " " not in name},
}
LOSSES = {"mask_grounding_loss_weight": 1.0, "alignment_loss_weight": 0.5}
BUNDLED = RECIPES["magnet-tiny-refshapes"]
SEED = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output_dir", type=Path)
    parser.add_argument("document", nargs="?", help="Markdown file with a section named losses")
    parser.add_argument("--steps", type=int, default=750, help="of 48 referents at 80 x 80 pixels")
    parser.add_argument("--rows", type=int, default=200, help="referents of each manner that are asked about")
    arguments = parser.parse_args()

    looks, _, referring, _ = BUNDLED.stages
    referring = replace(referring, arguments={**referring.arguments, "max_steps": arguments.steps})
    RECIPES["losses"] = replace(BUNDLED, stages=(looks, referring), config=LOSSES)
    if not (arguments.output_dir / "config.json").exists():
        begun = any(arguments.output_dir.glob("stage-*/checkpoint-*"))
        train("losses", arguments.output_dir, resume=begun, logging_steps=50, seed=SEED)
    untrained, _ = build_magnet_tiny(SEED, LOSSES)
    trained, processor = load_checkpoint(SEED, {}, str(arguments.output_dir))
    report = "\n\n".join(
        [
            losses_report(arguments.output_dir),
            naming_report(untrained.eval(), trained.eval(), processor, arguments.rows),
            alignment_report(untrained, trained, processor, arguments.rows),
            f"{arguments.steps} steps of 48 referents at 80 x 80 pixels, after the image encoder's own training; measured on "
            f"{3 * arguments.rows} referents of unseen scenes, {machine()}.",
        ]
    )
    print(report)
    if arguments.document:
        write_section(arguments.document, "losses", report)


def losses_report(folder: Path) -> str:
    """The terms of the loss on the way."""
    last = max(folder.glob("stage-2/checkpoint-*"), key=number_of_steps)
    log = json.loads((last / "trainer_state.json").read_text())["log_history"]
    log = [entry for entry in log if "loss" in entry]
    names = [name for name in log[0] if name.startswith("loss_")]
    rows = [[str(entry["step"]), *(f"{entry[name]:.3f}" for name in names)] for entry in log[:: max(1, len(log) // 6)]]
    return table(["step", *(name.removeprefix("loss_").replace("_", " ") for name in names)], rows)


def batches(processor: Any, num_rows: int, size: int = 25) -> Iterator[dict[str, torch.Tensor]]:
    """The first expression of unseen referents, of all manners."""
    collator = ReferringSegmentationCollator(processor, expression="first")
    for name in NAMES:
        rows = load_refshapes(name, "val", num_rows=num_rows)
        for first in range(0, num_rows, size):
            yield collator([rows[index] for index in range(first, min(first + size, num_rows))])


def naming_report(untrained: Any, trained: Any, processor: Any, num_rows: int) -> str:
    """How often each kind of word is named when it alone is hidden."""
    asked: dict[str, Counter[int]] = {kind: Counter() for kind in KINDS}
    right: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS}
    ids = {
        kind: torch.tensor(processor.tokenizer.convert_tokens_to_ids(sorted(words))) for kind, words in KINDS.items()
    }
    for batch in batches(processor, num_rows):
        blank = torch.zeros_like(batch["pixel_values"])
        for kind in KINDS:
            # One word of a kind, the first, is hidden in each expression that has one.
            of_kind = torch.isin(batch["input_ids"], ids[kind])
            is_first = of_kind & (of_kind.cumsum(dim=1) == 1)
            if not is_first.any():
                continue
            hidden = batch["input_ids"][is_first]
            masked = batch["input_ids"].masked_fill(is_first, processor.tokenizer.mask_token_id)
            asked[kind].update(hidden.tolist())
            for name, model, pictures in (
                ("before", untrained, batch["pixel_values"]),
                ("after", trained, batch["pixel_values"]),
                ("blanked", trained, blank),
            ):
                with torch.no_grad():
                    logits = model.name_words(pictures, masked, batch["attention_mask"], batch["labels"])
                right[kind][name] += int((logits[is_first].argmax(dim=-1) == hidden).sum())
    rows = []
    for kind, counts in asked.items():
        total = counts.total()
        shares = [right[kind][name] / total for name in ("before", "after", "blanked")]
        rows.append([kind, str(total), f"{max(counts.values()) / total:.3f}", *(f"{share:.3f}" for share in shares)])
    headings = ["hidden word", "asked", "always the commonest", "before training", "after", "after, picture blanked"]
    return f"Share of hidden words named rightly, of the whole vocabulary:\n\n{table(headings, rows)}"


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
    output = model.eval()(**inputs, output_features=True)
    pixels, sentences = loss.embed(output.pixel_features, output.word_features, batch["attention_mask"])
    cosines = (sentences @ pixels.mT).squeeze(1)
    covered = average_pool(batch["labels"].float(), output.pixel_features.shape[-2:]).flatten(1)
    means = [(cosines * share).sum(dim=1) / share.sum(dim=1).clamp(min=1e-6) for share in (covered, 1 - covered)]
    return torch.stack([mean.sum() for mean in means])


if __name__ == "__main__":
    main()
