"""Writes measured figures into documents, with the machine and the date."""

import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import torch


def machine() -> str:
    """Describe the machine and software that figures were measured on, in one line."""
    processor = platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [line.split(":", 1)[1] for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        processor = models[0].strip() if models else processor
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} cores of {processor}"
    return f"{device}, torch {torch.__version__}, {datetime.now(UTC).date()}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Make a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def draw_curves(
    path: str | Path,
    curves: Mapping[str, Mapping[float, float]],
    x_label: str,
    y_label: str,
    marks: Sequence[float] = (),
) -> None:
    """
    Draw curves.

    Args:
        path (`str` or `Path`): The image file to write.
        curves (`Mapping`): Name -> x -> y.
        x_label, y_label (`str`): Labels of the axes.
        marks (`Sequence[float]`): The x of vertical lines.
    """
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for name, points in curves.items():
        axes.plot(list(points), list(points.values()), marker=".", label=name)
    for mark in marks:
        axes.axvline(mark, color="0.7", linestyle=":")
    axes.set(xlabel=x_label, ylabel=y_label)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def write_section(path: str | Path, name: str, text: str) -> None:
    """
    Replace the text between `<!-- name -->` and `<!-- /name -->` in a document.

    Raises:
        ValueError: If the document has no such section.
    """
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    document = Path(path).read_text(encoding="utf-8")
    if begin not in document or end not in document:
        raise ValueError(f"{path} has no section between {begin!r} and {end!r}.")
    before, after = document.split(begin, 1)[0], document.split(end, 1)[1]
    Path(path).write_text(f"{before}{begin}\n{text.strip()}\n{end}{after}", encoding="utf-8")


__all__ = ["draw_curves", "machine", "table", "write_section"]
