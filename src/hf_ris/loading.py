"""Load a pipeline for a command, with messages that name its options."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import GatedRepoError
from transformers import PreTrainedConfig, pipeline
from transformers.utils import logging

from .systems import SYSTEMS, TASK, find_model


def load_pipeline(
    model: str,
    device: str | None = None,
    task: str | None = TASK,
    note: Callable[[str], None] = lambda message: None,
    **options: Any,
) -> Any:
    """
    Load a model for a task.

    Args:
        model (`str`): Folder or Hub id, "bundled" or "bundled-zero-shot".
        device (`str`, *optional*): Such as "cpu" or "cuda:0"; by default the first accelerator.
        task (`str`, *optional*): The pipeline's task; `None` for the one that asks the model with all its options.
        note (`Callable`, *optional*): Takes messages about the progress.
        options: Options of `transformers.pipeline`, such as `revision` or `dtype`, and of the pipeline's call.

    Raises:
        ValueError: If there is no such device or folder.
        OSError: If the model cannot be had; the message says what to do about a gated one.
    """
    if device is not None:
        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:
            raise ValueError(
                f"--device must name a device of this machine, such as cpu or cuda:0, got {device!r}."
            ) from error
    source = find_model(model)
    if source.startswith((".", "/")) and not Path(source).is_dir():
        raise ValueError(f"--model must be a folder or a Hub id; there is no folder {model!r}.")

    start = time.perf_counter()
    note(f"loading model {model} ...")
    logging.disable_progress_bar()
    try:
        if task is None:
            kind = PreTrainedConfig.get_config_dict(source)[0].get("model_type")
            task = SYSTEMS[kind].task if kind in SYSTEMS else TASK
        ris = pipeline(task, model=source, device=device, **options)
    except OSError as error:
        if isinstance(error.__cause__, GatedRepoError):
            raise OSError(
                f"--model {source} is gated: ask for access at https://huggingface.co/{source}, then run `hf auth login`, or set HF_TOKEN."
            ) from error
        if "/" not in source:
            raise OSError(
                f"--model {model} is no folder here, and it cannot be fetched from the Hub: {error}"
            ) from error
        raise
    if device is not None:  # under `torchrun`, transformers leaves the model where it is
        ris.model.to(device)
        ris.device = ris.model.device
    note(f"loaded in {time.perf_counter() - start:.1f} s onto {ris.device}")
    return ris


__all__ = ["load_pipeline"]
