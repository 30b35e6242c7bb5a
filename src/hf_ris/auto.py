"""`AutoModelForReferringSegmentation`: the model class of a checkpoint's system."""

from collections import OrderedDict
from functools import partial
from typing import Any

from transformers import PreTrainedModel
from transformers.models.auto.auto_factory import _BaseAutoModelClass, _LazyAutoMapping
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from .systems import HUB_MODELS, SYSTEMS, System


HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")


def _find_system(config_class: Any) -> System | None:
    return next((system for system in SYSTEMS.values() if system.config() is config_class), None)


def _find_model(config_class: Any) -> Any:
    """A function that gives the model class, or `None`."""
    system = _find_system(config_class)
    if system:
        return system.model
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
            ValueError: If the model is one of transformers' and lacks weights.
        """
        wants_report = options.pop("output_loading_info", False)
        found, report = super().from_pretrained(source, *args, output_loading_info=True, **options)
        if hasattr(found, "find_complaint"):
            complaint = found.find_complaint(str(source), set(report["missing_keys"]))
            if "_from_pipeline" in options:
                # `pipeline()` would try other classes upon an error: the pipeline raises it when it looks for the processor. It finds
                # that where the model was found, and then forgets how.
                found.complaint = complaint
                named = {name: options[name] for name in HUB_OPTIONS if name in options}
                load = found.processor_class.from_pretrained
                found.load_processor = partial(load, source, text_length=found.max_text_length, **named)
            elif complaint and not wants_report:
                raise ValueError(complaint)
        return (found, report) if wants_report else found


def load_whole(source: str, **options: Any) -> PreTrainedModel:
    """
    Load a model and refuse one that lacks weights, which would be random; options of `from_pretrained`.

    Raises:
        ValueError: If a weight is missing.
        OSError: If there is no such model.
    """
    model, report = AutoModelForReferringSegmentation.from_pretrained(source, output_loading_info=True, **options)
    missing = set(report["missing_keys"])
    if hasattr(model, "find_complaint"):  # of transformers' models some buffers are computed
        complaint = model.find_complaint(source, missing)
    else:
        complaint = f"source={source!r} lacks weights, such as {min(missing)}" if missing else None
    if complaint:
        raise ValueError(complaint)
    return model


__all__ = ["AutoModelForReferringSegmentation", "load_whole"]
