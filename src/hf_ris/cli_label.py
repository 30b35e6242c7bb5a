"""`hf-ris label`."""

import sys
from typing import Annotated

import typer

from .cli_data import NoTargetThreshold, Threshold, chosen_options, note


def label(
    source: Annotated[
        str,
        typer.Argument(
            help="A folder of images, Parquet files or WebDataset shards; such files (data/*.parquet, shard-{000..099}.tar); here, or at "
            "hf://…, s3://… and the like; the id of a dataset; or refshapes, refshapes+, refshapesg, which are drawn."
        ),
    ],
    output: Annotated[str, typer.Option(help="Folder for the labels, here or at s3://… and the like.")],
    expressions: Annotated[
        list[str] | None,
        typer.Option(
            help="What to look for in every image; may be given often. For a folder of images also a .csv with the columns image and "
            "text, or a .jsonl with these keys. By default --text-column is read."
        ),
    ] = None,
    text_column: Annotated[
        str,
        typer.Option(
            help="Column of the expressions, one or several in a row; in shards a suffix, or a key of the .json."
        ),
    ] = "text",
    image_column: Annotated[
        str, typer.Option(help="Column of the images; in shards a suffix, by default the first that is an image's.")
    ] = "image",
    split: Annotated[
        str | None, typer.Option(help="Split of a dataset of the Hub, or of drawn scenes; by default train.")
    ] = None,
    subset: Annotated[str | None, typer.Option(help="Subset (configuration) of a dataset of the Hub.")] = None,
    source_revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a dataset of the Hub.")] = None,
    num_rows: Annotated[int | None, typer.Option(min=1, help="Number of drawn scenes.")] = None,
    partition_rows: Annotated[
        int,
        typer.Option(
            min=1,
            help="Images whose labels are written at once. A shard, or a row group of Parquet, is never divided.",
        ),
    ] = 200,
    format: Annotated[
        str,
        typer.Option(
            help="parquet (labels), dataset (labels and images, for hf-ris train --dataset labels) or coco (labels and instances.json)."
        ),
    ] = "parquet",
    model: Annotated[str, typer.Option(help="Folder or Hub id of a model, bundled or bundled-zero-shot.")] = "bundled",
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of the model on the Hub.")] = None,
    dtype: Annotated[str | None, typer.Option(help="Such as bfloat16; by default the model's own.")] = None,
    device: Annotated[
        str | None, typer.Option(help="Such as cpu or cuda:0; by default the first accelerator.")
    ] = None,
    threshold: Threshold = None,
    no_target_threshold: NoTargetThreshold = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images in one forward pass.")] = 8,
    num_workers: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Threads of each worker that prepare images, beside one that reads ahead: by default 2 with a GPU, or none.",
        ),
    ] = None,
    workers: Annotated[
        str | None,
        typer.Option(
            help="With Ray: how many workers, such as 4 or 1-8; 0 is this process without Ray. By default one for each GPU, or without "
            "any for each core."
        ),
    ] = None,
    cores: Annotated[
        int | None, typer.Option(min=1, help="CPU cores of a worker: by default 1, or a GPU's share of them.")
    ] = None,
    gpus: Annotated[
        float | None,
        typer.Option(min=0, help="GPUs of a worker: by default 1 where there are any; with 0.5 two share one."),
    ] = None,
    address: Annotated[
        str | None, typer.Option(help="A cluster of Ray to join, such as auto or 10.0.0.1:6379; none starts Ray here.")
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Label partitions with failed rows again.")
    ] = False,
) -> None:
    """
    Label a dataset of any size: the masks of expressions as Parquet files, a dataset to train on, or COCO JSON. A stopped run goes on
    where it was. Where Ray is installed (pip install "hf_ris[scale]"), several workers do it, here or on a cluster.
    """
    note("loading libraries ...")
    from .folder import read_entries
    from .labelling import ModelChoice, Workers, find_source
    from .labelling import label as run

    given = expressions or []
    table = given[0] if len(given) == 1 and given[0].lower().endswith((".csv", ".jsonl")) else None
    found = find_source(
        source,
        () if table else given,
        read_entries(table) if table else None,
        image_column=image_column,
        text_column=text_column,
        split=split,
        subset=subset,
        source_revision=source_revision,
        num_rows=num_rows,
        partition_rows=partition_rows,
    )
    options = chosen_options(threshold=threshold, no_target_threshold=no_target_threshold)
    least, most = _read_range(workers)
    with typer.progressbar(length=len(found.partitions), label="labelling", file=sys.stderr) as bar:
        summary = run(
            found,
            output,
            ModelChoice(model, revision, dtype, device, options),
            format=format,
            batch_size=batch_size,
            num_workers=num_workers,
            workers=Workers(least, most, cores, address, gpus),
            retry_failed=retry_failed,
            note=note,
            progress=lambda counts: bar.update(1),
        )
    note(f"wrote {output}: {summary.rows - summary.failed:,} of {summary.rows:,} expressions labelled")
    if summary.failed:
        note(f"hf-ris: {summary.failed:,} failed; the column error of its labels says why")
        raise typer.Exit(1)


def _read_range(workers: str | None) -> tuple[int | None, int | None]:
    """Read "4" or "1-8"."""
    if workers is None:
        return None, None
    try:
        numbers = [int(each) for each in workers.split("-", 1)]
    except ValueError as error:
        raise ValueError(f"`workers` must be a number, or two such as 1-8, got {workers!r}.") from error
    return numbers[0], numbers[-1]


__all__ = ["label"]
