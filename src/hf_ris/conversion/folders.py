"""Convert published checkpoint files to folders that `pipeline` loads."""

import errno
import gc
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from safetensors.torch import save_file
from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedModel, ProcessorMixin
from transformers.dynamic_module_utils import custom_object_save
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME

from ..modeling.configuration_magnet import MagNetConfig
from ..modeling.modeling_referring_segmentation import render_card
from ..modeling.without_torch import check_integer
from ..reporting import table
from ..systems import CRIS, MAGNET, System
from .files import CLIP_TOKENIZER, Checkpoint, locate, read_state_dict
from .mapping_cris import convert_state_dict as convert_cris
from .mapping_cris import read_cris_config
from .mapping_magnet import convert_state_dict as convert_magnet


# Conversion reads and writes one shard at a time, so small ones keep its memory small.
SHARD_SIZE = 256 * 2**20


@dataclass(frozen=True)
class PublishedSystem:
    """
    Settings to convert one system's checkpoints.

    Attributes:
        system (`System`): Its paper and its classes.
        licence (`str`, *optional*): SPDX identifier of the published weights' licence, where one was stated with them.
        config (`Callable`): Makes the published configuration from a released state dict.
        convert_state_dict (`Callable`): Maps a released state dict to the model's names and shapes.
        tokenizer (`str`): Hub id of the tokenizer.
        image_sizes (`dict[str, int]`): Side of the square input in pixels, for files that differ from `image_size`.
        image_size (`int`): Side of the square input in pixels, for all other files.
        text_length (`int`): Tokens that expressions are cut and padded to.
    """

    system: System
    licence: str | None
    config: Callable[[Mapping[str, torch.Tensor]], PreTrainedConfig]
    convert_state_dict: Callable[[Mapping[str, torch.Tensor], torch.nn.Module], dict[str, torch.Tensor]]
    tokenizer: str
    image_sizes: Mapping[str, int]
    image_size: int
    text_length: int


PUBLISHED_SYSTEMS = {
    "magnet": PublishedSystem(
        system=MAGNET,
        licence="agpl-3.0",
        config=lambda state: MagNetConfig(language_attention_mask="published"),
        convert_state_dict=convert_magnet,
        tokenizer="google-bert/bert-base-uncased",
        image_sizes={"magnet_all.pth": 448},
        image_size=480,
        text_length=20,
    ),
    "cris": PublishedSystem(
        system=CRIS,
        licence=None,
        config=read_cris_config,
        convert_state_dict=convert_cris,
        tokenizer=CLIP_TOKENIZER,
        image_sizes={},
        image_size=416,
        text_length=17,
    ),
}


def convert(
    system: str,
    source: str,
    output: str | Path,
    config: str | Path | None = None,
    tokenizer: str | Path | None = None,
    image_size: int | None = None,
    text_length: int | None = None,
    revision: str | None = None,
    note: Callable[[str], None] = lambda message: None,
) -> Path:
    """
    Convert a published checkpoint into a folder with weights, configuration, processor, code and card.

    Args:
        system (`str`): A key of `PUBLISHED_SYSTEMS`.
        source (`str`): A local file, or `hub-id::file`.
        output (`str` or `Path`): The folder to make. It appears complete or not at all.
        config (`str` or `Path`, *optional*): A `config.json`, or a folder with one, that differs from the published one.
        tokenizer (`str` or `Path`, *optional*): A folder or Hub id; by default the published one, from the Hub.
        image_size (`int`, *optional*): Side of the square input in pixels; by default the file's published size.
        text_length (`int`, *optional*): Tokens that expressions are cut and padded to; by default the published number (for CRIS
            17, although its weights for RefCOCOg need 22, which files do not say).
        revision (`str`, *optional*): Branch, tag or commit of the Hub repository.
        note (`Callable`, *optional*): Called with a line of progress.

    Returns:
        `Path`: `output`.

    Raises:
        ValueError: If an argument is not possible, or the file is damaged, holds more than weights, or does not fit the model.
        OSError: If something cannot be fetched, read or written.
    """
    if system not in PUBLISHED_SYSTEMS:
        raise ValueError(f"`system` must be one of {list(PUBLISHED_SYSTEMS)}, got {system!r}.")
    if image_size is not None:
        check_integer("image_size", image_size, 32)
    published = PUBLISHED_SYSTEMS[system]
    output = Path(output).resolve()
    if os.path.ismount(output) or output == Path.cwd():
        raise ValueError(f"`output` must be a folder that can be replaced; give one inside {str(output)!r}.")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ValueError(f"`output` must be a new or an empty folder, and {str(output)!r} exists.")
    checkpoint = locate(source, revision)
    note(f"reading {checkpoint.path} ({checkpoint.path.stat().st_size / 1e6:.0f} MB)")
    state = read_state_dict(checkpoint)  # names and shapes; the values stay on disk
    model_config = _load_config(published, state, config)
    with torch.device("meta"):
        model = published.system.model()(model_config)
    processor = _load_processor(published, model_config, checkpoint, tokenizer, image_size, text_length)
    try:
        published.convert_state_dict(state, model)
    except (ValueError, RuntimeError) as error:  # RuntimeError: a tensor cannot be cut in three
        raise ValueError(f"{source!r} does not fit {published.system.name} as configured: {error}.") from error
    with open(checkpoint.path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()

    with _complete_or_absent(output, needed=model.get_memory_footprint()) as folder:
        _write_weights(published, checkpoint, model, folder, note)
        model_config.architectures = [type(model).__name__]
        model_config.dtype = torch.float32
        custom_object_save(model, folder, config=model_config)
        model_config.save_pretrained(folder)
        processor.save_pretrained(folder)
        (folder / "README.md").write_text(_card(published, checkpoint, digest), encoding="utf-8")
    return output


def _load_config(
    published: PublishedSystem, state: Mapping[str, torch.Tensor], config: str | Path | None
) -> PreTrainedConfig:
    """Make the published configuration, with the fields of a file in place of its own."""
    default = published.config(state)
    if config is None:
        return default
    given, _ = type(default).get_config_dict(config)
    try:
        return type(default).from_dict({**default.to_dict(), **given})
    except StrictDataclassError as error:
        raise ValueError(f"`config` must be a configuration of this system, got {str(config)!r}: {error}.") from error


def _load_processor(
    published: PublishedSystem,
    config: PreTrainedConfig,
    checkpoint: Checkpoint,
    tokenizer: str | Path | None,
    image_size: int | None,
    text_length: int | None,
) -> ProcessorMixin:
    loaded = AutoTokenizer.from_pretrained(published.tokenizer if tokenizer is None else str(tokenizer))
    vocabulary = config.get_text_config().vocab_size
    if len(loaded) > vocabulary:
        raise ValueError(
            f"`tokenizer` must have at most {vocabulary} tokens, as the model's embedding; "
            f"{str(tokenizer or published.tokenizer)!r} has {len(loaded)}."
        )
    if image_size is None:
        file_name = checkpoint.origin.rpartition("::")[2].rpartition("/")[2]
        image_size = published.image_sizes.get(file_name, published.image_size)
    positions = config.get_text_config().max_position_embeddings
    if text_length is not None and not 1 <= text_length <= positions:
        raise ValueError(
            f"`text_length` must be between 1 and {positions}, the positions of the text encoder, got {text_length}."
        )
    images = published.system.image_processor()(size={"height": image_size, "width": image_size})
    return published.system.processor()(images, loaded, text_length=text_length or published.text_length)


@contextmanager
def _complete_or_absent(output: Path, needed: int) -> Iterator[Path]:
    """Make a folder beside `output` that takes its place at the end, or is removed after an error."""
    output.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(output.parent).free
    if free < needed:
        message = f"the folder needs {needed / 1e6:.0f} MB, its disk has {free / 1e6:.0f} MB left"
        raise OSError(errno.ENOSPC, message, str(output))
    with tempfile.TemporaryDirectory(
        prefix=f".{output.name}-", dir=output.parent, ignore_cleanup_errors=True
    ) as parent:
        folder = Path(parent) / output.name
        folder.mkdir()
        yield folder
        os.replace(folder, output)


def _write_weights(
    published: PublishedSystem,
    checkpoint: Checkpoint,
    model: PreTrainedModel,
    folder: Path,
    note: Callable[[str], None],
) -> None:
    """Write the model's tensors shard by shard, each from a new view of the file, so that memory stays small."""
    plan = split_torch_state_dict_into_shards(model.state_dict(), max_shard_size=SHARD_SIZE)
    for name, keys in plan.filename_to_tensors.items():
        note(f"writing {name}")
        converted = published.convert_state_dict(read_state_dict(checkpoint), model)
        shard = {}
        for key in keys:
            tensor = converted[key]
            # Integers, such as a batch norm's counter, stay as they are.
            dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
            shard[key] = tensor.to(dtype, copy=True).contiguous()
            if not tensor.isfinite().all():
                raise ValueError(f"{checkpoint.origin!r} is damaged: {key!r} holds values that are not finite.")
        del converted
        try:
            save_file(shard, folder / name, metadata={"format": "pt"})
        except SafetensorError as error:
            raise OSError(f"{folder.name!r} could not be written: {error}") from error
        del shard
        gc.collect()
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        (folder / SAFE_WEIGHTS_INDEX_NAME).write_text(json.dumps(index, indent=2), encoding="utf-8")


def _card(published: PublishedSystem, checkpoint: Checkpoint, digest: str) -> str:
    repository, separator, name = checkpoint.origin.partition("::")
    if separator:
        where = f"[{repository}](https://huggingface.co/{repository}), file `{name}`, revision `{checkpoint.revision}`"
    else:
        where = f"local file `{checkpoint.path.name}`"
    licence = "not stated with them"
    if published.licence:
        licence = f"{published.licence.upper()}, as their authors published them"
    rows = [
        ["weights", where],
        ["sha256 of the file", f"`{digest}`"],
        ["licence of the weights", licence],
        ["licence of the code here", "Apache-2.0"],
    ]
    return render_card(
        f"{published.system.name}, converted",
        f"The published weights of {published.system.name}, {published.system.citation}, under the names that `hf_ris` uses. Only names and the layout of some "
        "tensors were changed; no value was.",
        f"## Source\n\n{table(['', ''], rows)}\n\nNothing was measured during the conversion.",
        published.licence,
    )


__all__ = ["PUBLISHED_SYSTEMS", "Checkpoint", "PublishedSystem", "convert", "locate", "read_state_dict"]
