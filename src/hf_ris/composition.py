"""Composes a zero-shot system of parts from the Hub: `hf_ris.zero_shot("tas", proposer="facebook/sam-vit-huge")`."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import ModelCard
from transformers import AutoConfig, Pipeline, PreTrainedConfig, pipeline

from .modeling.configuration_global_local import GlobalLocalConfig
from .modeling.configuration_tas import TASConfig
from .modeling.configuration_zero_shot import OWN_CONFIGS, FelzenszwalbConfig
from .modeling.modeling_global_local import GlobalLocalForReferringSegmentation
from .modeling.modeling_tas import TASForReferringSegmentation
from .modeling.modeling_zero_shot import ZeroShotPreTrainedModel
from .modeling.processing_zero_shot import ZeroShotSegmentationProcessor
from .registration import ZERO_SHOT_TASK


NONE = "none"
WEIGHT_FREE = "felzenszwalb"


class Composition(NamedTuple):
    """What a system is made of."""

    config_class: Any
    model_class: Any
    parts: dict[str, str]


# Small enough for a laptop. The papers used facebook/sam-vit-huge and Salesforce/blip2-opt-2.7b.
COMPOSITIONS = {
    "global-local": Composition(
        GlobalLocalConfig,
        GlobalLocalForReferringSegmentation,
        {"image_text": "openai/clip-vit-base-patch32", "proposer": "facebook/sam-vit-base"},
    ),
    "tas": Composition(
        TASConfig,
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
    proposer: str | Path | None = None,
    captioner: str | Path | None = None,
    device: str | int | torch.device | None = None,
    dtype: torch.dtype = torch.float32,
    **options: Any,
) -> Pipeline:
    """
    Composes a pipeline of parts that were trained elsewhere.

    Args:
        system (`str`):
            `"global-local"` or `"tas"`.
        image_text (`str` or `Path`, *optional*, defaults to `"openai/clip-vit-base-patch32"`):
            Folder or Hub id of a CLIP or SigLIP.
        proposer (`str` or `Path`, *optional*, defaults to `"facebook/sam-vit-base"`):
            Folder or Hub id of a SAM or of a model for instance segmentation; `"felzenszwalb"` for regions of like colour, which need no
            weights; `"none"` where each call brings its regions.
        captioner (`str` or `Path`, *optional*, defaults to `"Salesforce/blip-image-captioning-base"`):
            Of TAS: folder or Hub id of a BLIP, BLIP-2 or Florence-2; `"none"` for V alone.
        device (*optional*):
            Where it runs; by default the first accelerator.
        dtype (`torch.dtype`, *optional*, defaults to `torch.float32`):
            Of the networks.
        options:
            Of the system's configuration, such as `mode` or `caption_weight`.

    Returns:
        A [`ZeroShotReferringSegmentationPipeline`]. Its `model.push_to_hub(repo_id)` or `save_pretrained(folder)` save all parts as one
        model, which `pipeline("referring-segmentation", model=…)` loads.

    Raises:
        ValueError: If there is no such system, or a part is of no use to it.
        OSError: If a part cannot be found.
    """
    if system not in COMPOSITIONS:
        raise ValueError(f"system must be one of {list(COMPOSITIONS)}, got {system!r}")
    composition = COMPOSITIONS[system]
    given = {"image_text": image_text, "proposer": proposer, "captioner": captioner}
    sources = {}
    for name, source in given.items():
        if name not in composition.parts:
            if source is not None and source != NONE:
                raise ValueError(f"{name} must be left out: {system!r} has none")
            continue
        sources[name] = composition.parts[name] if source is None else str(source)
    model = compose(composition, sources, dtype, options)
    return pipeline(
        ZERO_SHOT_TASK,
        model=model,
        processor=ZeroShotSegmentationProcessor(max_size=model.config.max_size),
        device=device,
    )


def compose(
    composition: Composition, sources: dict[str, str], dtype: torch.dtype, options: dict[str, Any]
) -> ZeroShotPreTrainedModel:
    """
    A model of parts.

    Args:
        composition (`Composition`): Of the system.
        sources (`dict[str, str]`): Folder or Hub id of each part, "none" or "felzenszwalb".
        dtype (`torch.dtype`): Of the networks.
        options (`dict[str, Any]`): Of the configuration.
    """
    if sources["image_text"] == NONE:
        raise ValueError("image_text must be a folder or a Hub id; nothing works without it")
    known = set(composition.config_class.__dataclass_fields__)
    unknown = sorted(set(options) - known)
    if unknown:
        raise ValueError(f"{unknown[0]} is no option of {composition.config_class.__name__}")
    classes = composition.model_class.part_classes
    configs = {name: _read_config(name, source) for name, source in sources.items() if source != NONE}
    for name, config in configs.items():
        if config.model_type not in classes[name]:
            raise ValueError(
                f"{name}={sources[name]!r} is a {config.model_type!r}; allowed are {', '.join(classes[name])}"
            )
    networks = {
        name: classes[name][config.model_type].network_class.from_pretrained(sources[name], dtype=dtype)
        for name, config in configs.items()
        if classes[name][config.model_type].network_class is not None
    }
    described = {name: describe_part(sources[name], has_weights=name in networks) for name in configs}
    config = composition.config_class(
        **{f"{name}_config": config for name, config in configs.items()}, parts=described, **options
    )
    with torch.device("meta"):  # all weights are the parts' own
        model = composition.model_class(config)
    for name, part in model.named_parts():
        if name in networks:
            part.network = networks[name]
            part.load_files(sources[name])
    model.config.dtype = dtype
    return model.eval()


def _read_config(name: str, source: str) -> PreTrainedConfig:
    if name == "proposer" and source == WEIGHT_FREE:
        return FelzenszwalbConfig()
    values, _ = PreTrainedConfig.get_config_dict(source)
    if values.get("model_type") in OWN_CONFIGS:
        return OWN_CONFIGS[values["model_type"]].from_pretrained(source)
    return AutoConfig.from_pretrained(source)


def describe_part(source: str, has_weights: bool = True) -> dict[str, Any]:
    """Where a part comes from and under which licence, as its card says; `None` where it says nothing."""
    if not has_weights:
        return {"source": source, "license": None, "is_on_hub": False}
    folder = Path(source)
    try:
        card = ModelCard.load(folder / "README.md" if folder.is_dir() else source)
        licence = card.data.license
    except Exception:  # no card, or one that cannot be read: what it is under is then not known
        licence = None
    return {
        "source": folder.name if folder.is_dir() else source,
        "license": licence if isinstance(licence, str) else None,
        "is_on_hub": not folder.is_dir(),
    }


__all__ = ["zero_shot"]
