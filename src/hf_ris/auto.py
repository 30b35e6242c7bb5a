"""`AutoModelForReferringSegmentation`: the model class of a checkpoint's system."""

from collections import OrderedDict
from functools import partial
from typing import Any, NoReturn

from huggingface_hub import ResolvedRevision
from safetensors import SafetensorError
from transformers import AutoConfig, PreTrainedModel
from transformers.models.auto.auto_factory import _BaseAutoModelClass, _LazyAutoMapping
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_MASK_GENERATION_MAPPING_NAMES,
    MODEL_FOR_ZERO_SHOT_OBJECT_DETECTION_MAPPING_NAMES,
)

import hf_ris

from .systems import HUB_MODELS, ONNX_TYPE, SYSTEMS, System


HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")
# What a model of another task can be here, by the `model_type` of its configuration.
USES = {
    **dict.fromkeys(MODEL_FOR_ZERO_SHOT_OBJECT_DETECTION_MAPPING_NAMES, "the `detector` of `hf_ris.grounded`"),
    **dict.fromkeys(
        MODEL_FOR_MASK_GENERATION_MAPPING_NAMES,
        "the `segmenter` of `hf_ris.grounded`, or the `proposer` of `hf_ris.zero_shot`",
    ),
    **dict.fromkeys(("clip", "siglip"), "the `image_text` of `hf_ris.zero_shot`"),
}


def _find_system(config_class: Any) -> System | None:
    return next((system for system in SYSTEMS.values() if system.config() is config_class), None)


def _find_model(config_class: Any) -> Any:
    """A function that gives the model class, or `None`."""
    system = _find_system(config_class)
    if system:
        return system.model
    if config_class.model_type == ONNX_TYPE:
        return lambda: hf_ris.OnnxForReferringSegmentation
    is_native = config_class.__module__.startswith("transformers.models.")
    return HUB_MODELS.get(config_class.model_type) if is_native else None


class _ModelMapping(_LazyAutoMapping):
    """Configuration class to model class; a model is imported when one of its checkpoints is loaded."""

    def __getitem__(self, config_class: Any) -> Any:
        model = _find_model(config_class)
        return model() if model else super().__getitem__(config_class)

    def __contains__(self, config_class: object) -> bool:
        return _find_model(config_class) is not None or super().__contains__(config_class)

    def keys(self) -> list[Any]:
        return [system.config() for system in SYSTEMS.values()] + super().keys()


class AutoModelForReferringSegmentation(_BaseAutoModelClass):
    """
    Loads the model of any system for referring image segmentation from a folder or the Hub.

    Example:

    ```python
    >>> from hf_ris import AutoModelForReferringSegmentation

    >>> model = AutoModelForReferringSegmentation.from_pretrained("folder-or-hub-id")
    ```
    """

    _model_mapping = _ModelMapping(CONFIG_MAPPING_NAMES, OrderedDict())

    @classmethod
    def from_pretrained(cls, source: str, *args: Any, **options: Any) -> Any:
        """
        Load a model; arguments as in `PreTrainedModel.from_pretrained`.

        Raises:
            ValueError: If the model is of another task, its weights do not fit, or it is one of transformers' and lacks some.
            OSError: If there is no such model, or a file is damaged.
        """
        wants_report = options.pop("output_loading_info", False)
        is_for_pipeline = "_from_pipeline" in options
        named = {name: options[name] for name in HUB_OPTIONS if name in options}
        try:
            found, report = super().from_pretrained(source, *args, output_loading_info=True, **options)
            is_of_hub = found.config.model_type in HUB_MODELS
            if is_of_hub and not wants_report:
                _check_whole(found, source, report)
        except (OSError, RuntimeError, SafetensorError, TypeError, ValueError) as error:
            explained = _explain(error, source, named)
            if is_for_pipeline:
                return _Refused(explained)
            if explained is error:
                raise
            raise explained from error
        if isinstance(named.get("revision"), ResolvedRevision):  # `pipeline()` has looked it up
            found.config._commit_hash = named["revision"].resolved
        if is_for_pipeline and is_of_hub:
            # The pipeline finds the processor where the model was found, and then forgets how.
            load = found.processor_class.from_pretrained
            found.load_processor = partial(load, source, text_length=found.max_text_length, **named)
        return (found, report) if wants_report else found


class _Refused:
    """Stands for a model that cannot be loaded: upon an error `pipeline()` would try other classes. The pipeline raises it instead."""

    device = None

    def __init__(self, error: Exception) -> None:
        self.error = error

    def find_processor(self, given: Any) -> NoReturn:
        raise self.error


def _explain(error: Exception, source: str, named: dict[str, Any]) -> Exception:
    """An error that names the model, where transformers' own does not."""
    if isinstance(error, SafetensorError):
        return OSError(f"`model` {str(source)!r} has a damaged file of weights: {error}.")
    if "ignore_mismatched_sizes" in str(error):
        return ValueError(
            f"`model` {str(source)!r} has weights of other shapes than its configuration says; the report above names them."
        )
    if str(error).startswith("Unrecognized configuration class"):
        kind = AutoConfig.from_pretrained(source, **named).model_type
        use = f" It can be {USES[kind]}." if kind in USES else ""
        return ValueError(
            "`model` must be for referring segmentation, such as MagNet, CRIS, Global-Local, TAS, CLIPSeg, Florence-2 or SAM 3, "
            f"got {str(source)!r}, which is of type {kind}.{use}"
        )
    return error


def _check_whole(model: PreTrainedModel, source: str, report: dict[str, Any]) -> None:
    """
    Raises:
        ValueError: If weights are missing, which are random then.
    """
    random, hint = set(report["missing_keys"]), ""
    if model.config.model_type in HUB_MODELS:
        random &= {name for name, _ in model.named_parameters()}  # their buffers are computed
        hint = f" Weights in transformers' form are at {model.native_id}."
    if random:
        raise ValueError(
            f"`model` {str(source)!r} lacks weights of {type(model).__name__}, such as {min(random)!r}.{hint}"
        )


def load_whole(source: str, **options: Any) -> PreTrainedModel:
    """
    Load a model and refuse one that lacks weights, which would be random; options of `from_pretrained`.

    Raises:
        ValueError: If a weight is missing.
        OSError: If there is no such model.
    """
    model, report = AutoModelForReferringSegmentation.from_pretrained(source, output_loading_info=True, **options)
    _check_whole(model, source, report)
    return model


__all__ = ["AutoModelForReferringSegmentation", "load_whole"]
