"""Measures how fine masks can become at a mask's resolution, and which errors the bundled checkpoint makes, on RefShapes.

python scripts/report_mask_bounds.py docs/training.md --answers runs/report   # as report_bundled_checkpoint.py left them
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from report_bundled_checkpoint import RIGHT, Answer, read_answers
from torch import nn

from hf_ris.data import decode_mask, load_refshapes
from hf_ris.data.refshapes import NAMES, draw_scene
from hf_ris.data.refshapes.rows import ROWS_PER_SCENE, scene_targets
from hf_ris.modeling.masks import enlarge_logits
from hf_ris.reporting import machine, table, write_section


INPUTS = (160, 240, 320)
STRIDES = (8, 4, 2)
STEPS = 60  # of the search for the best logits
IOU_EDGES = (0.5, 0.7, 0.8, 0.9)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("documents", nargs="*", help="Markdown files with sections mask-bounds and mask-errors")
    parser.add_argument("--answers", type=Path, help="folder that report_bundled_checkpoint.py wrote")
    parser.add_argument("--scenes", type=int, default=200, help="scenes of the bounds")
    parser.add_argument("--answered-scenes", type=int, default=1000, help="scenes of each variant in the answers")
    parser.add_argument("--split", default="val", help="split of RefShapes")
    arguments = parser.parse_args()
    sections = {"mask-bounds": report_bounds(arguments.split, arguments.scenes)}
    if arguments.answers:
        sections["mask-errors"] = report_errors(arguments.split, arguments.answered_scenes, arguments.answers)
    for section, report in sections.items():
        print(report, end="\n\n")
        for document in arguments.documents:
            write_section(document, section, report)


def report_bounds(split: str, scenes: int) -> str:
    """Report figures of masks that are as right as their resolution allows."""
    truths = torch.from_numpy(np.stack(list(referents(split, scenes))))
    rows = []
    for cells in sorted({size // stride for size in INPUTS for stride in STRIDES}):
        coverage = nn.functional.interpolate(truths[:, None].float(), (cells, cells), mode="area")[:, 0]
        of = ", ".join(f"{size}/{size // cells}" for size in INPUTS if size // cells in STRIDES and size % cells == 0)
        figures = []
        for logits in (coverage - 0.5, search_logits(coverage, truths)):
            ious = measure_ious(logits, truths)
            figures += [f"{ious.mean():.3f}", f"{(ious >= 0.9).float().mean():.3f}"]
        rows.append([f"{cells} x {cells}", of, *figures])
    headings = ["mask", "input/stride", "coverage: mIoU", "P@0.9", "best logits: mIoU", "P@0.9"]
    return f"{table(headings, rows)}\n\n" + (
        f"{len(truths)} referents of {scenes} scenes of `{split}`, masks of 320 x 320 pixels. Logits are enlarged as a model's are, and "
        "a mask is where they are positive. Coverage is the share of a cell that the referent covers, less a half; the best logits were "
        f"sought by gradient descent, {STEPS} steps. Measured on {machine()}."
    )


def referents(split: str, scenes: int) -> Iterator[np.ndarray]:
    for index in range(scenes):
        scene, targets = scene_targets("refshapes", split, index)
        _, masks = draw_scene(scene)
        for number, _ in targets:
            yield masks[number]


def measure_ious(logits: torch.Tensor, truths: torch.Tensor) -> torch.Tensor:
    masks = enlarge_logits(logits, truths.shape[-2:]) > 0
    return (masks & truths).sum((1, 2)) / (masks | truths).sum((1, 2))


def search_logits(coverage: torch.Tensor, truths: torch.Tensor) -> torch.Tensor:
    found = []
    for start, truth in zip((8 * (coverage - 0.5)).split(32), truths.float().split(32), strict=True):
        logits = start.clone().requires_grad_()
        optimizer = torch.optim.Adam([logits], lr=0.5)
        for _ in range(STEPS):
            optimizer.zero_grad()
            loss = nn.functional.binary_cross_entropy_with_logits(enlarge_logits(logits, truth.shape[-2:]), truth)
            loss.backward()
            optimizer.step()
        found.append(logits.detach())
    return torch.cat(found)


def report_errors(split: str, scenes: int, folder: Path) -> str:
    """Report how much of the lost IoU is due to wrong things, and how much to ragged masks."""
    rows = []
    for name in NAMES:
        answers = list(read_answers(load_refshapes(name, split, num_rows=ROWS_PER_SCENE * scenes), folder / name))
        ious = np.array([answer.iou for answer in answers])
        right = np.array([answer.verdict == RIGHT for answer in answers])
        rows.append(
            [
                f"`{name}`",
                f"{ious.mean():.3f}",
                f"{((1 - ious) * ~right).mean():.3f}",
                f"{((1 - ious) * right).mean():.3f}",
                *(f"{share:.1%}" for share in shares(ious)),
                *(f"{p90:.3f}" for p90 in by_size(answers)),
            ]
        )
    headings = ["variant", "mIoU", "lost by wrong masks", "by ragged ones"]
    headings += [f"IoU below {edge}" for edge in IOU_EDGES] + [
        "P@0.9 of the smallest third",
        "middle",
        "largest",
    ]
    return f"{table(headings, rows)}\n\nA mask is wrong where its IoU is below 0.5. Thirds are of the right ones, by the referent's area. {scenes} scenes of each variant. Measured on {machine()}."


def shares(ious: np.ndarray) -> list[float]:
    """Share of answers below each edge."""
    return [float((ious < edge).mean()) for edge in IOU_EDGES]


def by_size(answers: list[Answer]) -> list[float]:
    """P@0.9 of right answers, by thirds of the referents' areas."""
    right = [
        (decode_mask(answer.row["mask"]).sum(), answer.iou >= 0.9) for answer in answers if answer.verdict == RIGHT
    ]
    right.sort(key=lambda each: each[0])
    return [float(np.mean([fine for _, fine in third])) for third in np.array_split(np.array(right), 3)]


if __name__ == "__main__":
    main()
