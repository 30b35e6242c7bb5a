"""`hf-ris data`, and what the commands share: dataset options, progress notes, error messages."""

import re
from pathlib import Path
from typing import Annotated, Any

import typer


DRAWN = ("refshapes", "refshapes+", "refshapesg")
READ = ("refcoco", "refcoco+", "refcocog", "grefcoco", "refclef", "folder")
DatasetName = Annotated[
    str,
    typer.Argument(help=f"{', '.join(DRAWN)} (drawn); {', '.join(READ)} (these need --root)."),
]
Root = Annotated[
    str | None,
    typer.Option(help="Folder with the annotations in their authors' layout, or folder or Hub id of a copy."),
]
SplitBy = Annotated[
    str | None, typer.Option(help="For refcocog: umd or google; refcoco: unc or google; refclef: unc or berkeley.")
]
Images = Annotated[
    Path | None, typer.Option(help="Folder of the photos (COCO's train2014), if not below the annotations.")
]

Threshold = Annotated[
    float | None,
    typer.Option(min=0, max=1, help="Foreground probability above which a pixel counts; by default the model's own."),
]
NoTargetThreshold = Annotated[
    float | None, typer.Option(min=0, max=1, help="A score below this means that nothing was found. Off by default.")
]


class Command(typer.core.TyperCommand):
    """A command that ends with an error's message and exit code 2 instead of a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (ValueError, OSError, ImportError, MemoryError, FloatingPointError) as error:
            typer.echo(f"hf-ris: {self._name_options(str(error))}", err=True)
            raise typer.Exit(2) from error

    def _name_options(self, message: str) -> str:
        """Write the arguments that a message names as the options that were typed: `batch_size` as --batch-size."""
        options = self._options()
        return re.sub(r"`(\w+)`", lambda found: options.get(found[1], found[0]), message)

    def _options(self) -> dict[str, str]:
        """Options as they are typed, by the argument's name."""
        return {each.name: each.opts[0] for each in self.params if each.opts[0].startswith("--")}


def note(message: str) -> None:
    """Print progress to stderr, so that stdout holds the result alone."""
    typer.echo(message, err=True)


def chosen_options(**options: Any) -> dict[str, Any]:
    """Leave out options that were not given: each then has its default where it is used."""
    return {name: value for name, value in options.items() if value is not None}


data = typer.Typer(help="Look at and convert datasets.", no_args_is_help=True, rich_markup_mode=None)


@data.command(cls=Command)
def check(
    root: Annotated[
        Path,
        typer.Argument(help="Folder with refcoco, refcoco+, refcocog, grefcoco or refclef in it, or one of them."),
    ],
    images: Images = None,
) -> None:
    """Count referents, images and expressions of RefCOCO's files, and tell what is missing."""
    from .data.check import PHOTOS, check_refer

    whole = True
    absent: dict[str, None] = {}
    row = "{:<18} {:<6} {:>9} {:>11} {:>7}  {}"
    typer.echo(row.format("dataset", "split", "referents", "expressions", "images", ""))
    for found in check_refer(root, images):
        verdict = "" if not found.published else "as published"
        if found.differing:
            verdict = "published: " + ", ".join(f"{number:,} {key}" for key, number in found.differing.items())
        if found.left_out:
            verdict += f"{'; ' if verdict else ''}{found.left_out:,} more are left out"
        if found.missing:
            verdict += f"{'; ' if verdict else ''}{len(found.missing):,} images are missing"
        counts = [f"{found.counts[key]:,}" for key in ("referents", "expressions", "images")]
        typer.echo(row.format(f"{found.name} ({found.split_by})", found.split, *counts, verdict).rstrip())
        whole = whole and not found.differing and not found.missing
        absent |= dict.fromkeys(found.missing)
    for name in absent:
        typer.echo(f"missing: {name}")
    if absent:
        note(PHOTOS)
    if not whole:
        raise typer.Exit(1)


@data.command(cls=Command)
def export(
    dataset: DatasetName,
    output: Annotated[Path, typer.Argument(help="The folder; it may hold other splits of the dataset.")],
    split: Annotated[str, typer.Option(help="Such as train, val, testA or testB.")] = "train",
    root: Root = None,
    split_by: SplitBy = None,
    images: Images = None,
    num_rows: Annotated[int | None, typer.Option(min=1, help="The first referents only.")] = None,
) -> None:
    """Write a split as Parquet files with the images inside, which load anywhere."""
    note("loading libraries ...")
    from .data.export import export_parquet

    folder = export_parquet(load_rows(dataset, split, root, split_by, images, num_rows), output)
    note(f"wrote {folder}")


def check_drawn(dataset: str, root: str | None, split_by: str | None, images: Path | None) -> None:
    if root or split_by or images:
        raise ValueError(f"--root, --split-by and --images must be left out for {dataset}, which is drawn.")


def load_rows(
    dataset: str, split: str, root: str | None, split_by: str | None, images: Path | None, num_rows: int | None
) -> Any:
    from .data import load_image_folder, load_refcoco, load_refshapes

    if dataset not in (*DRAWN, *READ):
        raise ValueError(f"The dataset must be one of {[*DRAWN, *READ]}, got {dataset!r}.")
    if dataset in DRAWN:
        check_drawn(dataset, root, split_by, images)
        return load_refshapes(dataset, split, num_rows=num_rows)
    if dataset == "folder":
        if root is None or split_by or images:
            raise ValueError("--root must be given and --split-by and --images left out for the dataset folder.")
        rows = load_image_folder(root, split)
    elif root is None:
        raise ValueError(f"--root must name a folder or the Hub id of a copy, such as jxu124/refcoco, for {dataset}.")
    else:
        rows = load_refcoco(dataset, split, root, split_by, images)
    return rows if num_rows is None else rows.select(range(min(num_rows, len(rows))))
