"""The folder that a long run writes to: it belongs to one run, and a stopped run goes on where it was."""

import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any

import filelock
import torch
from transformers import Pipeline, PreTrainedModel


SETTINGS = "settings.json"
LOCK = ".lock"


@contextmanager
def hold_folder(output: Path) -> Iterator[None]:
    """
    Keep other runs out of a folder. The operating system releases it when the process ends, however it ends.

    Args:
        output (`Path`): The folder; made if missing.

    Raises:
        ValueError: If another run holds it.
    """
    output.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(output / LOCK, thread_local=False)  # a generator may be ended by another thread
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout as error:
        raise ValueError(
            f"`output` {str(output)!r} is being written by another run; wait for its end, or name another folder."
        ) from error
    try:
        yield
    finally:
        lock.release()


def claim_folder(output: Path, settings: dict[str, Any], results: str) -> None:
    """
    Write down what a run depends on, or compare it with what an earlier run wrote.

    Args:
        output (`Path`): The folder; made if missing.
        settings (`dict[str, Any]`): What the results depend on.
        results (`str`): Pattern of the files that such a run writes.

    Raises:
        ValueError: If the folder holds results of another run, or of an unknown one.
    """
    output.mkdir(parents=True, exist_ok=True)
    path = output / SETTINGS
    if path.exists():
        compare_settings(output, read_json(path), settings)
    elif any(output.glob(results)):
        raise ValueError(f"`output` {str(output)!r} holds {results} of unknown origin; name another folder.")
    else:
        write_whole(path, json.dumps(settings, indent=2, ensure_ascii=False))


def compare_settings(output: str | Path, before: dict[str, Any], settings: dict[str, Any]) -> None:
    """
    Compare what a run depends on with what an earlier run wrote down. A model may be called otherwise, such as by another path, if its
    weights are the same.

    Raises:
        ValueError: If they differ; the message names the first difference.
    """
    has_same_weights = before.get("weights") == settings.get("weights") is not None
    for name in sorted(before.keys() | settings.keys()):
        if before.get(name) != settings.get(name) and not (name == "model" and has_same_weights):
            raise ValueError(
                f"`output` {str(output)!r} holds results made with {name}={before.get(name)!r}, not {settings.get(name)!r}; "
                "name another folder."
            )


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file that is there as a whole or not at all."""
    unfinished = path.with_name(f".{path.name}-{uuid.uuid4().hex[:12]}")  # threads may write the same file
    unfinished.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    os.replace(unfinished, path)


def read_json(path: Path) -> dict[str, Any]:
    """
    Read a file of JSON.

    Raises:
        ValueError: If it is cut off, or no JSON; the message names it.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}.") from error


def describe_model(ris: Pipeline) -> dict[str, Any]:
    """Describe what a pipeline's masks depend on: model, revision, weights, settings and thresholds."""
    # Without the place where its files lie, which differs between machines. It is quoted there; alone it may be a letter.
    settings = (ris.model.describe_settings() + repr(ris.processor)).replace(repr(ris.model.name_or_path), "''")
    return {
        "model": ris.model.name_or_path,
        "revision": getattr(ris.model.config, "_commit_hash", None),
        "weights": weights_fingerprint(ris.model),
        "configuration": blake2b(settings.encode(), digest_size=8).hexdigest(),
        **{key: value for key, value in ris._postprocess_params.items() if key != "output_format"},
    }


def weights_fingerprint(model: PreTrainedModel) -> str:
    """Hash a model's weights."""
    digest = blake2b(digest_size=8)
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


__all__ = [
    "claim_folder",
    "compare_settings",
    "describe_model",
    "hold_folder",
    "read_json",
    "weights_fingerprint",
    "write_whole",
]
