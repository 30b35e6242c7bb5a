"""`hf-ris segment`."""

import os
import sys
import time
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any

import typer

from .cli_data import NoTargetThreshold, Threshold, chosen_options, note
from .systems import TASK


def segment(
    image: Annotated[str, typer.Argument(help="Path or URL of an image, or a folder of images.")],
    expressions: Annotated[
        list[str] | None, typer.Argument(help="What to look for, each in quotes.", metavar="EXPRESSION")
    ] = None,
    expressions_file: Annotated[
        Path | None,
        typer.Option(
            "--expressions",
            help="For a folder: a .csv with the columns image and text, or a .jsonl with these keys.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Folder or Hub id of a model, bundled or bundled-zero-shot. By default one of these."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            help="Write the image with the masks drawn over it here; for a folder of images, the folder for results.jsonl."
        ),
    ] = None,
    mask_dir: Annotated[
        Path | None, typer.Option(help="Write each mask as a PNG (0 and 255) into this folder.")
    ] = None,
    explain: Annotated[
        Path | None,
        typer.Option(
            help="For models that choose among regions or instances: write an image of these and of how one was chosen."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, masks as COCO run-length code.")] = False,
    threshold: Threshold = None,
    no_target_threshold: NoTargetThreshold = None,
    batch_size: Annotated[int, typer.Option(min=1, help="For a folder: images in one forward pass.")] = 1,
    device: Annotated[
        str | None, typer.Option(help="Such as cpu or cuda:0; by default the first accelerator.")
    ] = None,
) -> None:
    """Segment what expressions refer to in an image, or in a folder of images."""
    options = chosen_options(threshold=threshold, no_target_threshold=no_target_threshold)
    if os.path.isdir(image):  # unlike `Path.is_dir`, this takes any text
        if expressions or mask_dir or as_json or explain:
            raise ValueError(
                f"EXPRESSION, --mask-dir, --explain and --json must be left out for a folder, got {image!r}."
            )
        if expressions_file is None or output is None:
            raise ValueError(f"--expressions and --output are needed for a folder, got {image!r}.")
        _segment_folder(Path(image), expressions_file, output, model, device, batch_size, options)
    else:
        if expressions_file is not None:
            raise ValueError(f"--expressions goes with a folder of images; there is no folder {image!r}.")
        _segment_image(image, expressions or [], output, mask_dir, explain, as_json, model, device, options)


def _segment_image(
    image: str,
    expressions: list[str],
    output: Path | None,
    mask_dir: Path | None,
    explain: Path | None,
    as_json: bool,
    model: str | None,
    device: str | None,
    options: dict[str, Any],
) -> None:
    # Everything that can be wrong is checked before anything slow begins.
    if not expressions:
        raise ValueError("EXPRESSION is missing: write what to look for, in quotes.")
    note("loading libraries ...")
    from .loading import load_pipeline
    from .modeling.inputs import read_request
    from .results import to_json, to_table

    if output is not None:
        _check_writable(output)
    if explain is not None:
        _check_writable(explain, "--explain")
    if mask_dir is not None:
        _check_folder(mask_dir, "--mask-dir")
    request = read_request(image, expressions)
    model = model or ("bundled-zero-shot" if explain else "bundled")
    ris = load_pipeline(model, device, None if explain else TASK, note)
    if explain is not None:
        if ris.task == TASK and "explain" not in getattr(ris.processor, "answer_options", {}):
            raise ValueError(
                f"--explain must be left out: {type(ris.model).__name__} does not choose among regions or instances."
            )
        options = {**options, "explain": True}

    start = time.perf_counter()
    results = ris(request, output_format="array", **options)
    note(f"segmented {len(results)} expression(s) in {time.perf_counter() - start:.1f} s")

    if output is not None:
        from .visualization import draw_overlay

        output.parent.mkdir(parents=True, exist_ok=True)
        draw_overlay(request.image, results).save(output)
        note(f"wrote {output}")
    if explain is not None:
        from .visualization import draw_explanation

        explain.parent.mkdir(parents=True, exist_ok=True)
        draw_explanation(request.image, results).save(explain)
        note(f"wrote {explain}")
    if mask_dir is not None:
        _write_masks(mask_dir, results)
    typer.echo(to_json(results) if as_json else to_table(results))


def _segment_folder(
    folder: Path,
    expressions: Path,
    output: Path,
    model: str | None,
    device: str | None,
    batch_size: int,
    options: dict[str, float],
) -> None:
    note("loading libraries ...")
    from .folder import RESULTS, read_entries, segment_folder
    from .loading import load_pipeline

    entries = read_entries(expressions)
    ris = load_pipeline(model or "bundled", device, note=note)
    failed = []
    with typer.progressbar(length=len(entries), label="segmenting", file=sys.stderr) as progress:
        for lines in segment_folder(ris, folder, entries, output, batch_size, **options):
            failed += [line for line in lines[:1] if "error" in line]
            progress.update(1)
    for line in failed:
        note(f"hf-ris: {line['image']}: {line['error']}")
    note(f"wrote {output / RESULTS}: {len(entries) - len(failed)} of {len(entries)} images segmented")
    if failed:
        raise typer.Exit(1)


def _check_writable(output: Path, option: str = "--output") -> None:
    """Refuse an ending that PIL cannot write in colour, by writing a small image."""
    from PIL import Image

    try:
        Image.new("RGB", (64, 64)).save(BytesIO(), Image.registered_extensions()[output.suffix.lower()])
    except (KeyError, ValueError, OSError) as error:
        raise ValueError(
            f"{option} must end like an image that can be written (.png, .jpg, ...), got {str(output)!r}."
        ) from error
    _check_folder(output.parent, option)


def _check_folder(folder: Path, option: str) -> None:
    """Refuse a folder that cannot be made, or written to."""
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise ValueError(f"{option} must lie in a folder that can be written to; {str(nearest)!r} is none.")


def _write_masks(folder: Path, results: list[dict[str, Any]]) -> None:
    from .results import mask_images

    folder.mkdir(parents=True, exist_ok=True)
    for name, mask in mask_images(results):
        mask.save(folder / name)
        note(f"wrote {folder / name}")


__all__ = ["segment"]
