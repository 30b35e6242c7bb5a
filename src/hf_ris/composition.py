"""Composes models of parts from the Hub: `hf_ris.zero_shot("tas", proposer="facebook/sam-vit-huge")`, `hf_ris.grounded()`."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import ModelCard
from huggingface_hub.errors import RemoteEntryNotFoundError
from transformers import (
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    CLIPTokenizer,
    Pipeline,
    PreTrainedConfig,
    pipeline,
)

from .conversion.files import CLIP_TOKENIZER, Checkpoint, locate, read_state_dict, released_clip_file
from .conversion.mapping_clip import convert_clip_state_dict, read_clip_config
from .fields import check_fields
from .modeling.clip_resnet import CLIPResNetModel
from .modeling.configuration_zero_shot import FelzenszwalbConfig
from .modeling.modeling_global_local import GlobalLocalForReferringSegmentation
from .modeling.modeling_grounded import GroundedForReferringSegmentation
from .modeling.modeling_tas import TASForReferringSegmentation
from .modeling.zero_shot_parts import Part
from .modeling.zero_shot_segmenters import SEGMENTERS
from .systems import TASK, ZERO_SHOT_TASK


NONE = "none"
WEIGHT_FREE = "felzenszwalb"


class Composition(NamedTuple):
    """A system's model, and its default parts."""

    model_class: Any
    parts: dict[str, str]


# Small enough for a laptop. The papers used facebook/sam-vit-huge and Salesforce/blip2-opt-2.7b.
COMPOSITIONS = {
    "global-local": Composition(
        GlobalLocalForReferringSegmentation,
        {"image_text": "openai/clip-vit-base-patch32", "proposer": "facebook/sam-vit-base"},
    ),
    "tas": Composition(
        TASForReferringSegmentation,
        {
            "image_text": "openai/clip-vit-base-patch32",
            "proposer": "facebook/sam-vit-base",
            "captioner": "Salesforce/blip-image-captioning-base",
        },
    ),
}


def zero_shot(
    system: str,
    image_text: str | Path | None = None,
    proposer: str | Path | Sequence[str | Path] | None = None,
    captioner: str | Path | None = None,
    device: str | int | torch.device | None = None,
    dtype: torch.dtype | str = torch.float32,
    **options: Any,
) -> Pipeline:
    """
    Compose a pipeline of parts that were trained elsewhere.

    Args:
        system (`str`):
            `"global-local"` or `"tas"`.
        image_text (`str` or `Path`, *optional*, defaults to `"openai/clip-vit-base-patch32"`):
            Folder or Hub id of a CLIP, MetaCLIP 2, SigLIP or SigLIP 2 of transformers, or of a CLIP of open_clip such as
            "timm/resnet50_clip.openai"; or a file that OpenAI published, such as "RN50.pt".
        proposer (`str` or `Path`, *optional*, defaults to `"facebook/sam-vit-base"`):
            Folder or Hub id of a SAM, SAM-HQ, SAM 2 or EdgeTAM, or of a model for instance segmentation; `"felzenszwalb"` for regions of
            like colour, which need no weights; `"none"` where each call brings its regions. A pair of ids is a detector and a
            segmenter, as in [`grounded`]: regions are then found for each expression, and the detector's scores count.
        captioner (`str` or `Path`, *optional*, defaults to `"Salesforce/blip-image-captioning-base"`):
            Folder or Hub id of a BLIP, BLIP-2 or Florence-2; `"none"` for V alone. TAS only.
        device (*optional*):
            Where it runs; by default the first accelerator.
        dtype (`torch.dtype` or `str`, *optional*, defaults to `torch.float32`):
            The networks' precision, or its name; `"auto"` keeps what each part was saved in.
        options:
            Fields of the system's configuration, such as `mode` or `caption_weight`.

    Returns:
        A [`ZeroShotReferringSegmentationPipeline`]. Its `model.push_to_hub(repo_id)` or `save_pretrained(folder)` save all parts as one
        model, which `pipeline("referring-segmentation", model=…)` loads.

    Raises:
        ValueError: If there is no such system, or a part or an option is of no use to it.
        OSError: If a part cannot be found.
    """
    if system not in COMPOSITIONS:
        raise ValueError(f"`system` must be one of {list(COMPOSITIONS)}, got {system!r}.")
    model_class, sources = COMPOSITIONS[system]
    given: dict[str, Any] = {"image_text": image_text, "proposer": proposer, "captioner": captioner}
    detector = None
    if isinstance(proposer, list | tuple):
        if len(proposer) != 2:
            raise ValueError(
                f"`proposer` must be one source, or a detector and a segmenter, got {len(proposer)} sources."
            )
        detector, given["proposer"] = proposer
    for name, source in given.items():
        if name not in sources and source is not None and source != NONE:
            raise ValueError(f"`{name}` must be left out: {system!r} has none.")
    sources = {name: default if given[name] is None else str(given[name]) for name, default in sources.items()}
    if sources["image_text"] == NONE:
        raise ValueError("`image_text` must be a folder or a Hub id: nothing works without it.")
    if detector is not None:
        sources = {"detector": str(detector), **sources}
    return compose(model_class, sources, ZERO_SHOT_TASK, device, dtype, options)


def grounded(
    detector: str | Path = "IDEA-Research/grounding-dino-tiny",
    segmenter: str | Path = "facebook/sam2.1-hiera-tiny",
    device: str | int | torch.device | None = None,
    dtype: torch.dtype | str = torch.float32,
    **options: Any,
) -> Pipeline:
    """
    Compose a pipeline of a detector, which finds what an expression names, and a segmenter, which gives each box a mask.

    Args:
        detector (`str` or `Path`, *optional*, defaults to `"IDEA-Research/grounding-dino-tiny"`):
            Folder or Hub id of a Grounding DINO, MM Grounding DINO, LLMDet or OWLv2.
        segmenter (`str` or `Path`, *optional*, defaults to `"facebook/sam2.1-hiera-tiny"`):
            Folder or Hub id of a SAM, SAM-HQ, SAM 2 or EdgeTAM.
        device (*optional*):
            Where it runs; by default the first accelerator.
        dtype (`torch.dtype` or `str`, *optional*, defaults to `torch.float32`):
            The networks' precision, or its name; `"auto"` keeps what each part was saved in.
        options:
            Fields of [`GroundedConfig`], such as `select` and `max_instances`.

    Returns:
        A [`ReferringSegmentationPipeline`], whose calls also take `select`, `instance_threshold` and `explain`. Its
        `push_to_hub(repo_id)` and `save_pretrained(folder)` save both parts as one model, which
        `pipeline("referring-segmentation", model=…)` loads.

    Raises:
        ValueError: If a part or an option is of no use.
        OSError: If a part cannot be found.
    """
    sources = {"detector": str(detector), "segmenter": str(segmenter)}
    return compose(GroundedForReferringSegmentation, sources, TASK, device, dtype, options)


def compose(
    model_class: Any,
    sources: dict[str, str],
    task: str,
    device: str | int | torch.device | None,
    dtype: torch.dtype | str,
    options: dict[str, Any],
) -> Pipeline:
    """Compose a model of parts from these sources, by name; `options` are fields of its configuration."""
    if isinstance(dtype, str) and dtype != "auto":
        dtype = getattr(torch, dtype, dtype)
    if dtype != "auto" and not isinstance(dtype, torch.dtype):
        raise ValueError(f"`dtype` must be a dtype of torch, its name or 'auto', got {dtype!r}.")
    config_class = model_class.config_class
    fields = config_class.__dataclass_fields__.keys() - PreTrainedConfig.__dataclass_fields__.keys() - {"parts"}
    options_of_system = [name for name in fields if not name.startswith("_") and "_config" not in name]
    check_fields(options, options_of_system, config_class.__name__)
    classes = dict(model_class.part_classes)
    if "detector" in sources and "proposer" in sources:
        classes["proposer"] = SEGMENTERS
    loaded = {
        name: load_part(name, source, classes[name], dtype) for name, source in sources.items() if source != NONE
    }
    if sources.get("proposer") == WEIGHT_FREE:  # its options are its configuration
        proposer_options = options.pop("proposer_options", None) or {}
        check_fields(proposer_options, FelzenszwalbConfig.__annotations__, "proposer_options")
        loaded["proposer"] = LoadedPart(FelzenszwalbConfig(**proposer_options))
    parts = {name: describe_part(sources[name], part.network is not None) for name, part in loaded.items()}
    for name, part in loaded.items():
        part.config.name_or_path = parts[name]["source"]  # a folder of this machine says nothing elsewhere
    configs = {f"{name}_config": part.config for name, part in loaded.items()}
    config = config_class(**configs, parts=parts, **options)
    with torch.device("meta"):  # all weights are the parts' own
        model = model_class._from_config(config, dtype=None if dtype == "auto" else dtype)
    for name, part in model.named_parts():
        if loaded[name].network is not None:
            part.network, part.processor = loaded[name].network, loaded[name].processor
            part.trim_network()
    model.name_or_path = " + ".join(part["source"] for part in parts.values())  # as results call it
    return pipeline(task, model=model.eval(), processor=model.make_processor(), device=device)


class LoadedPart(NamedTuple):
    """A network and its processor; both are `None` where nothing was trained."""

    config: PreTrainedConfig
    network: Any = None
    processor: Any = None


def load_part(name: str, source: str, classes: Mapping[str, type[Part]], dtype: torch.dtype | str) -> LoadedPart:
    """
    Load a part's network and processor from a source as in [`zero_shot`]; `classes` are the part's by `model_type`.

    Raises:
        ValueError: If the model is of no use as this part.
        OSError: If it cannot be found.
    """
    if name == "proposer" and source == WEIGHT_FREE:
        return LoadedPart(FelzenszwalbConfig())
    if name == "image_text" and ("::" in source or Path(source).is_file()):
        return load_released_clip(source, dtype)
    values, _ = PreTrainedConfig.get_config_dict(source)
    kind = values.get("model_type")
    if name == "image_text" and kind is None:
        return load_released_clip(released_clip_file(source), dtype, tokenizer=source)
    if kind not in classes:
        raise ValueError(f"`{name}` must be one of {list(classes)}, got the {kind!r} {source!r}.")
    network, report = classes[kind].network_class.from_pretrained(source, dtype=dtype, output_loading_info=True)
    if report["missing_keys"]:
        raise ValueError(f"`{name}={source!r}` lacks weights, such as {min(report['missing_keys'])}.")
    return LoadedPart(network.config, network, classes[kind].processor_class.from_pretrained(source))


def load_released_clip(source: str, dtype: torch.dtype | str, tokenizer: str = CLIP_TOKENIZER) -> LoadedPart:
    """
    Load a CLIP under OpenAI's names from a file or `hub-id::file`: OpenAI's own archives (ViT-B-32.pt, RN50.pt, …) and open_clip's
    weights. All of OpenAI's have one tokenizer.
    """
    checkpoint = locate(source)
    state = read_state_dict(checkpoint)
    if not {"token_embedding.weight", "visual.conv1.weight"} <= set(state):
        raise ValueError(f"`image_text={source!r}` holds no CLIP under OpenAI's names.")
    description = _read_open_clip_config(source, checkpoint)
    options, colours = description.get("model_cfg", {}), description.get("preprocess_cfg", {})
    config = read_clip_config(
        state,
        # OpenAI's own have no description, and a quick GELU.
        activation="quick_gelu" if not description or options.get("quick_gelu") else "gelu",
        head_width=options.get("vision_cfg", {}).get("head_width", 64),
        text_heads=options.get("text_cfg", {}).get("heads"),
    )
    network = (CLIPResNetModel if config.model_type == "clip_resnet" else CLIPModel)(config)
    network.load_state_dict(convert_clip_state_dict(state))
    side = config.image_size if config.model_type == "clip_resnet" else config.vision_config.image_size
    images = CLIPImageProcessor(
        size={"shortest_edge": side},
        crop_size={"height": side, "width": side},
        **{f"image_{name}": list(colours[name]) for name in ("mean", "std") if name in colours},
    )
    processor = CLIPProcessor(images, CLIPTokenizer.from_pretrained(tokenizer))
    return LoadedPart(config, (network if dtype == "auto" else network.to(dtype)).eval(), processor)


def _read_open_clip_config(source: str, checkpoint: Checkpoint) -> dict[str, Any]:
    """open_clip's description of its weights, in a file beside them; empty where there is none."""
    repository, separator, file = source.partition("::")
    path = checkpoint.path.with_name("open_clip_config.json")
    if separator:
        try:
            path = locate(f"{repository}::{Path(file).with_name(path.name).as_posix()}").path
        except RemoteEntryNotFoundError:  # where the Hub cannot be asked, that is an error
            return {}
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def describe_part(source: str, has_weights: bool = True) -> dict[str, Any]:
    """Describe where a part comes from, and its licence by its card; `None` where that says nothing."""
    local = Path(source)
    is_on_hub = has_weights and not local.exists()
    repository = source.partition("::")[0]
    licence = None
    if has_weights:
        card = repository if is_on_hub else (local if local.is_dir() else local.parent) / "README.md"
        with suppress(Exception):  # no card, or one that cannot be read
            licence = ModelCard.load(card).data.license
    return {
        "source": repository if is_on_hub or not has_weights else local.name,  # nobody else has this folder
        "license": licence if isinstance(licence, str) else None,
        "is_on_hub": is_on_hub,
        "has_weights": has_weights,
    }


__all__ = ["grounded", "zero_shot"]
