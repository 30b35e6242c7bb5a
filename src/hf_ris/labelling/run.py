"""Label a source, partition by partition, so that a stopped run goes on where it was and ends with the same labels."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .coco import write_coco
from .engines import ATTEMPTS, Job, ModelChoice, Workers, open_engine
from .output import LabelFolder
from .sources import Source


FORMATS = ("parquet", "dataset", "coco")


@dataclass(frozen=True)
class Summary:
    """
    The contents of a folder of labels.

    Attributes:
        partitions (`int`): All of the source.
        rows, failed (`int`): Expressions in all, and those without an answer.
        new_rows (`int`): Those of this run.
    """

    partitions: int
    rows: int
    failed: int
    new_rows: int


def label(
    source: Source,
    output: str | Path,
    choice: ModelChoice | None = None,
    *,
    format: str = "parquet",
    batch_size: int = 8,
    num_workers: int | None = None,
    workers: Workers | None = None,
    retry_failed: bool = False,
    note: Callable[[str], None] = lambda message: None,
    progress: Callable[[dict[str, int]], None] = lambda counts: None,
) -> Summary:
    """
    Find the masks of a source's expressions, and write them as labels.

    A stopped run goes on with the partitions that are not written yet, and ends with the same labels as one that was not stopped,
    whatever the number of workers.

    Args:
        source ([`Source`]): See [`find_source`].
        output (`str` or `Path`): The folder, here or anywhere that fsspec writes; made if missing. All workers have to reach it.
        choice ([`ModelChoice`], *optional*): By default the bundled model.
        format (`str`, *optional*, defaults to `"parquet"`):
            "parquet" writes labels alone, see [`~hf_ris.data.labels.LABEL_FEATURES`]; "dataset" puts the images beside them, for
            [`~hf_ris.data.load_labels`]; "coco" adds `instances.json`, in COCO's format, to the former.
        batch_size (`int`, *optional*, defaults to 8): Images in one forward pass.
        num_workers (`int`, *optional*): Threads of each worker that prepare images, beside one that reads ahead; by default 2 with a GPU,
            and none without.
        workers ([`Workers`], *optional*): Where the work is done.
        retry_failed (`bool`, *optional*, defaults to `False`): Whether partitions of earlier runs with failed rows are labelled again.
        note, progress (`Callable`, *optional*): Take messages, and the counts of each partition once it is written.

    Returns:
        [`Summary`]: What the folder then holds.

    Raises:
        ValueError: If an argument is unfit, `output` holds labels of another source or model, or a partition cannot be labelled.
        ImportError: If workers are asked for, and Ray is not installed.
    """
    if format not in FORMATS:
        raise ValueError(f"`format` must be one of {list(FORMATS)}, got {format!r}.")
    choice = choice or ModelChoice()
    folder = LabelFolder(output, len(source.partitions), with_images=format == "dataset")
    if format == "coco" and not folder.is_local:
        raise ValueError(f"`output` must be a folder of this machine for the format coco, got {folder.url!r}.")
    if source.root and folder.is_local and Path(folder.path).resolve().is_relative_to(Path(source.root).resolve()):
        raise ValueError(f"`output` must not lie in the source, got {folder.url!r} in {source.root!r}.")
    with folder.hold(), open_engine(choice, workers or Workers(), note) as engine:
        described = {**engine.describe(), "model": choice.model}  # the bundled one lies elsewhere on every machine
        folder.claim(_settings(source, folder, described, batch_size))
        done = folder.counts(folder.done())
        for number in [number for number, counts in done.items() if retry_failed and counts["failed"]]:
            folder.remove(number)
            del done[number]
        if done:
            note(f"{len(done)} of {len(source.partitions)} partitions are labelled already")
        for counts in done.values():
            progress(counts)

        # All workers load the commit that was described, whatever is pushed meanwhile.
        choice = replace(choice, revision=described["revision"] or choice.revision)
        job = Job(source.read, folder, choice, described, batch_size, num_workers)
        todo = [(number, each) for number, each in enumerate(source.partitions) if number not in done]
        new: dict[int, dict[str, int]] = {}
        for counts in engine.run(job, todo):
            new[counts["number"]] = counts
            progress(counts)
        if lost := [partition for number, partition in todo if number not in new]:
            raise ValueError(
                f"Of {len(todo)} partitions {len(lost)} cannot be labelled: their workers died {ATTEMPTS} times, perhaps for want of memory "
                f"(lower `batch_size`). The first is {str(lost[0])[:200]}. All others are written."
            )
        if format == "coco":
            note(f"wrote {write_coco(folder, source.fixed)}")
    counts_of_all = [*done.values(), *new.values()]
    return Summary(
        partitions=len(source.partitions),
        rows=sum(each["rows"] for each in counts_of_all),
        failed=sum(each["failed"] for each in counts_of_all),
        new_rows=sum(each["rows"] for each in new.values()),
    )


def _settings(source: Source, folder: LabelFolder, described: dict[str, Any], batch_size: int) -> dict[str, Any]:
    """Collect what the labels depend on."""
    return {
        **described,
        "source": source.name,
        "source_fingerprint": source.fingerprint,
        "partitions": len(source.partitions),
        "with_images": folder.with_images,
        "batch_size": batch_size,
    }


__all__ = ["Summary", "label"]
