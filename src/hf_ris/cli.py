"""The `hf-ris` command. Commands import what they need inside, so that `hf-ris --help` answers at once."""

import dataclasses
import json
import os
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from . import __version__
from .cli_data import (
    DRAWN,
    Command,
    DatasetName,
    Images,
    NoTargetThreshold,
    Root,
    SplitBy,
    Threshold,
    check_drawn,
    chosen_options,
    data,
    load_rows,
    note,
)
from .cli_label import label
from .cli_segment import segment
from .systems import SYSTEMS, find_model


app = typer.Typer(
    name="hf-ris",
    help="Point at things with words: an image and an expression in, the mask of what it refers to out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(data, name="data")
app.command(cls=Command)(segment)
app.command(cls=Command)(label)


def _show_version(shown: bool) -> None:
    if shown:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Point at things with words: an image and an expression in, the mask of what it refers to out."""


@app.command(cls=Command)
def evaluate(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL",
            help="Folders or Hub ids of models, bundled or bundled-zero-shot. Several are compared with the first one.",
        ),
    ],
    dataset: DatasetName,
    split: Annotated[str, typer.Option(help="Such as val, testA or testB.")] = "val",
    root: Root = None,
    split_by: SplitBy = None,
    images: Images = None,
    num_rows: Annotated[int | None, typer.Option(min=1, help="Evaluate on the first referents only.")] = None,
    protocol: Annotated[
        str,
        typer.Option(
            help="How masks are scored: original (at the image's size), lavt (at the model's) or cris (P@t above t)."
        ),
    ] = "original",
    text_column: Annotated[
        str, typer.Option("--text", help="Which text is asked: sent (cleaned) or raw (as written).")
    ] = "sent",
    threshold: Threshold = None,
    no_target_threshold: NoTargetThreshold = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Expressions in one forward pass.")] = 16,
    num_workers: Annotated[int, typer.Option(min=0, help="Processes that read and prepare images.")] = 0,
    on_error: Annotated[
        str,
        typer.Option(
            help="What to do with images that cannot be read: raise (end the run) or report (count as misses)."
        ),
    ] = "raise",
    output: Annotated[
        Path | None,
        typer.Option(
            help="Folder for predicted masks, results.json and report.html; a stopped run goes on there. Of several models it holds "
            "a folder for each, and comparison.json and comparison.html."
        ),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="Such as cpu or cuda:0; by default the first accelerator, one for each process.")
    ] = None,
) -> None:
    """
    Evaluate models on a dataset: oIoU, mIoU and P@0.5 to P@0.9 under a named protocol. Several models are compared on the same
    rows, one after the other. Runs under torchrun, too.
    """
    if len(models) > 1 and output is None:
        raise ValueError("--output must be given for several models.")
    if len(set(models)) < len(models):
        raise ValueError(f"MODEL must name each model once, got {' '.join(models)}.")
    note("loading libraries ...")
    from .evaluation import check_options, join_processes
    from .evaluation import evaluate as run
    from .evaluation_comparison import check_found, compare
    from .loading import load_pipeline

    check_options(protocol, batch_size, text_column, on_error)  # before rows are drawn
    if len(models) > 1:
        check_found(models)
    state = join_processes()
    with state.main_process_first():
        rows = load_rows(dataset, split, root, split_by, images, num_rows)
    options = chosen_options(threshold=threshold, no_target_threshold=no_target_threshold)
    loaders = {
        model: partial(load_pipeline, model, device or str(state.device), note=note, **options) for model in models
    }
    shared: dict[str, Any] = {
        "protocol": protocol,
        "batch_size": batch_size,
        "text_column": text_column,
        "num_workers": num_workers,
        "name": f"{dataset} {split}",
        "on_error": on_error,
    }
    if output is None or len(models) == 1:
        results = run(loaders[models[0]](), rows, output=output, **shared)
        if state.is_main_process:
            typer.echo(json.dumps(results, indent=2))
            if output is not None:
                note(f"wrote {output / 'results.json'} and {output / 'report.html'}")
        return

    from .evaluation_comparison_page import comparison_table

    comparison = compare(loaders, rows, output, **shared)
    if state.is_main_process:
        if comparison["models"]:
            typer.echo(comparison_table(comparison))
            note(f"wrote {output / 'comparison.json'} and {output / 'comparison.html'}")
        for model, error in comparison["errors"].items():
            note(f"hf-ris: {model}: {error}")
    if comparison["errors"]:
        raise typer.Exit(1)


class _TrainCommand(Command):
    """Lists the recipes below its help. They are read when they are asked for: importing them takes seconds."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        from .training import describe_recipes

        self.epilog = f"Recipes:\n\n{describe_recipes()}"
        super().format_help(ctx, formatter)

    def _options(self) -> dict[str, str]:
        from transformers import TrainingArguments

        names = [field.name for field in dataclasses.fields(TrainingArguments)]
        return {name: f"--{name.replace('_', '-')}" for name in names} | super()._options()


@app.command(cls=_TrainCommand, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def train(
    context: typer.Context,
    output_dir: Annotated[Path, typer.Option(help="Where checkpoints and the trained model go.")],
    recipe: Annotated[str, typer.Option(help="What is trained, and how; all recipes are listed below.")] = "finetune",
    dataset: Annotated[
        str | None,
        typer.Option(
            help="folder (one's own) or labels (of hf-ris label), refcoco, refcoco+, refcocog, grefcoco or refclef (all need --root), or "
            "refshapes, refshapes+ or refshapesg, drawn on the way (need --max-steps)."
        ),
    ] = None,
    root: Root = None,
    split_by: SplitBy = None,
    images: Images = None,
    eval_split: Annotated[str, typer.Option(help="The split that is evaluated on, or none.")] = "val",
    min_score: Annotated[
        float | None, typer.Option(min=0, max=1, help="Of labels: leave out those with a lower score.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Folder or Hub id of a model to start from, or bundled.")] = None,
    backbone: Annotated[str | None, typer.Option(help="Folder or Hub id of a pretrained Swin to start from.")] = None,
    text: Annotated[
        str | None,
        typer.Option(help="Folder or Hub id of a pretrained BERT to start from; for CRIS, of its tokenizer alone."),
    ] = None,
    init_from: Annotated[
        str | None,
        typer.Option(help="For CRIS: the CLIP to start from, such as RN50.pt, hub-id::file, or an id of open_clip."),
    ] = None,
    from_scratch: Annotated[
        bool, typer.Option("--from-scratch", help="Take only the sizes and the vocabulary of these.")
    ] = False,
    mask_grounding: Annotated[float | None, typer.Option(min=0, help="Weight of the Mask Grounding loss.")] = None,
    alignment_loss: Annotated[float | None, typer.Option(min=0, help="Weight of the alignment loss.")] = None,
    alignment_module: Annotated[
        bool | None, typer.Option(help="Whether the model has the alignment module; by default it has.")
    ] = None,
    lora: Annotated[int | None, typer.Option(min=1, help="Train adapters of this rank alone.")] = None,
    text_column: Annotated[
        str | None,
        typer.Option(help="Which text is read: sent (cleaned) or raw (as written); by default the recipe's."),
    ] = None,
    flip_probability: Annotated[
        float,
        typer.Option(min=0, max=1, help="How often an image is mirrored, with left and right swapped in its text."),
    ] = 0.0,
    eval_rows: Annotated[int | None, typer.Option(min=1, help="Evaluate on the first referents of val only.")] = None,
    samples: Annotated[int, typer.Option(min=0, help="Predictions drawn at each evaluation.")] = 8,
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the last checkpoint in OUTPUT_DIR.")] = False,
) -> None:
    """
    Train a model from a recipe. Runs under torchrun and accelerate launch, too.

    Every argument of transformers' TrainingArguments is an option as well and wins over the recipe's, such as --max-steps,
    --learning-rate, --per-device-train-batch-size, --gradient-accumulation-steps, --activation-checkpointing, --bf16,
    --torch-compile, --report-to tensorboard, --push-to-hub or --seed.
    """
    # On a shared machine, threads that spin while they wait for each other cost several times the work itself. This is
    # read when torch is first imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    note("loading libraries ...")
    from .evaluation import join_processes
    from .training import read_arguments
    from .training import train as run

    overrides = read_arguments(context.args)
    state = join_processes(cpu=overrides.get("use_cpu", False))
    rows: dict[str, Any] = {}
    if dataset is None and (root or split_by or images):
        raise ValueError("--root, --split-by and --images must be left out without --dataset.")
    if min_score is not None and dataset != "labels":
        raise ValueError("--min-score must be left out without --dataset labels.")
    if dataset in DRAWN:
        check_drawn(dataset, root, split_by, images)
        rows["refshapes"] = (dataset,)
    elif dataset == "labels":
        rules = {
            "--root must be given": root is not None,
            "--split-by must be left out": not split_by,
            "--images must be left out": not images,
            "--eval-split must be none": eval_split == "none",
        }
        if broken := [rule for rule, holds in rules.items() if not holds]:
            raise ValueError(f"{', '.join(broken)} for the dataset labels, whose rows are all of one split.")
        assert root is not None, "the first rule"
        from .data import load_labels

        with state.main_process_first():
            rows["train_dataset"] = load_labels(root, min_score or 0.0)
    elif dataset is not None:
        with state.main_process_first():
            rows["train_dataset"] = load_rows(dataset, "train", root, split_by, images, None)
            if eval_split != "none":
                rows["eval_dataset"] = load_rows(dataset, eval_split, root, split_by, images, None)
    parts = {
        "model": model and find_model(model),
        "backbone": backbone,
        "text": text,
        "init_from": init_from,
        "from_scratch": from_scratch or None,
    }
    config = {
        "mask_grounding_loss_weight": mask_grounding,
        "alignment_loss_weight": alignment_loss,
        "alignment_module": alignment_module,
    }
    metrics = run(
        recipe,
        output_dir,
        **rows,
        parts={name: value for name, value in parts.items() if value is not None},
        config={name: value for name, value in config.items() if value is not None},
        lora=lora,
        text_column=text_column,
        flip_probability=flip_probability,
        eval_rows=eval_rows,
        samples=samples,
        resume=resume,
        **overrides,
    )
    if state.is_main_process:
        note(f"wrote {output_dir}")
        typer.echo(json.dumps(metrics, indent=2))


@app.command(cls=Command)
def convert(
    system: Annotated[
        str,
        typer.Argument(
            help=f"The published system of the checkpoint: {' or '.join(each.model_type for each in SYSTEMS.values() if not each.is_zero_shot)}."
        ),
    ],
    source: Annotated[
        str, typer.Argument(help="The file, or hub-id::file, such as yxchng/magnet_weights::magnet_refcoco.pth.")
    ],
    output: Annotated[Path, typer.Argument(help="The folder to make.")],
    config: Annotated[
        Path | None, typer.Option(help="A config.json, for weights that differ from the published network.")
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="Folder or Hub id of the tokenizer; by default the published one, from the Hub.")
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(min=32, help="Side of the model's input in pixels; by default as published.")
    ] = None,
    text_length: Annotated[
        int | None,
        typer.Option(min=2, help="Tokens that expressions are cut and padded to; for CRIS of RefCOCOg, 22."),
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of the Hub repository.")] = None,
) -> None:
    """Convert a checkpoint that a paper's authors published."""
    note("loading libraries ...")
    from .conversion import convert as run

    run(system, source, output, config, tokenizer, image_size, text_length, revision, note)
    note(f"wrote {output}")


@app.command(cls=Command)
def push(
    source: Annotated[
        str,
        typer.Argument(
            help="Folder or Hub id of a model, bundled or bundled-zero-shot; with --dataset or --space, a folder."
        ),
    ],
    repo: Annotated[str, typer.Argument(help="Where it goes on the Hub, such as me/my-model; made if missing.")],
    results: Annotated[
        list[Path] | None, typer.Option(help="results.json of hf-ris evaluate, for the card. May be given often.")
    ] = None,
    licence: Annotated[
        str | None, typer.Option("--license", help="Licence of the weights, such as apache-2.0, if no card names it.")
    ] = None,
    is_dataset: Annotated[bool, typer.Option("--dataset", help="SOURCE is a folder of hf-ris data export.")] = False,
    space: Annotated[
        Literal["gradio", "static"] | None,
        typer.Option(help="Kind of Space that SOURCE is: of spaces_demo, or of spaces_demo/web."),
    ] = None,
    wheel: Annotated[
        Path | None,
        typer.Option(help="With --space gradio: this package's wheel; by default built from its checkout."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="With --space static: a MagNet, or what hf-ris export wrote; by default bundled."),
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="Make it public. By default it is private.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Prepare and check all, show it, upload nothing.")
    ] = False,
    revision: Annotated[str | None, typer.Option(help="A branch; made if missing.")] = None,
) -> None:
    """Publish a model, a dataset or the demo on the Hub, once it has been loaded and has answered."""
    if is_dataset and space:
        raise ValueError("--dataset and --space must not be given together.")
    if (results or licence) and (is_dataset or space):
        raise ValueError("--results and --license must be left out with --dataset and --space: they describe a model.")
    if (wheel or model) and not space:
        raise ValueError("--wheel and --model must be left out without --space.")
    note("loading libraries ...")
    from .hub import push_dataset, push_model, push_space

    options: dict[str, Any] = {"public": public, "dry_run": dry_run, "revision": revision, "note": note}
    if is_dataset:
        pushed = push_dataset(source, repo, **options)
    elif space:
        pushed = push_space(source, repo, space, wheel, model, **options)
    else:
        pushed = push_model(source, repo, results or [], licence, **options)
    if pushed is not None:
        typer.echo(pushed)


@app.command(cls=Command)
def export(
    model: Annotated[str, typer.Argument(help="Folder or Hub id of a MagNet, CRIS or CLIPSeg, or bundled.")],
    output: Annotated[Path, typer.Argument(help="A new folder.")],
    dtype: Annotated[str, typer.Option(help="float32, or float16 for GPUs and browsers.")] = "float32",
    quantize: Annotated[str | None, typer.Option(help="int8: weights of matrix products in 8 bits, for CPUs.")] = None,
    expressions: Annotated[
        int | None, typer.Option(min=1, help="Expressions that a run takes, if fixed; by default any number.")
    ] = None,
) -> None:
    """Write a model as ONNX graphs, which answer without torch: in onnxruntime, or in a browser."""
    note("loading libraries ...")
    from .export import export_model

    export_model(model, output, dtype, quantize, expressions, note)


@app.command(cls=Command)
def demo(
    model: Annotated[
        list[str] | None, typer.Option(help="Folder or Hub id to offer, too. May be given often.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to serve at; 0.0.0.0 for the whole network.")] = "127.0.0.1",
    port: Annotated[int | None, typer.Option(help="By default the first free one from 7860.")] = None,
    share: Annotated[bool, typer.Option("--share", help="Make a public link for a few days.")] = False,
    open_browser: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    web: Annotated[bool, typer.Option("--web", help="The page without a server: the browser runs --model.")] = False,
) -> None:
    """Try it out on a page in the browser. Photos need a connection to the Hub, where their models come from."""
    note("loading libraries ...")
    if web:
        if host != "127.0.0.1" or share or len(model or []) > 1:
            raise ValueError("--host, --share and a second --model must be left out with --web.")
        from .web import serve

        serve(model[0] if model else "bundled", port, open_browser, note)
        return
    from .demo import launch

    launch(model or [], server_name=host, server_port=port, share=share, inbrowser=open_browser)


if __name__ == "__main__":  # what `torchrun -m hf_ris.cli` runs
    app()
