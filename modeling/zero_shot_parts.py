"""
What the zero-shot systems are composed of: networks that others trained, each with the processor it was trained with, so that
whoever composes them need not know their sizes, colours or vocabularies.

There are three kinds: `image_text`, `region_proposals` and `captioners`. To add a network, write a class like those there.
"""

import inspect
import math
import os
from abc import ABC
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import AutoProcessor, GenerationConfig, PreTrainedConfig

from .text_inputs import TextWarnings


# What transformers asks a model's children for, and a network's parent must hand on.
COLLECTED = (
    "_keep_in_fp32_modules",
    "_keep_in_fp32_modules_strict",
    "_no_split_modules",
    "_skip_keys_device_placement",
    "_keys_to_ignore_on_load_unexpected",
    "_keys_to_ignore_on_load_missing",
)
PLAIN = bool | int | float | str | tuple | list | None


class Part(nn.Module, ABC):
    """
    A network and its processor.

    Args:
        config (`PreTrainedConfig`): The network's.

    Attributes:
        network_class: A model's class, an Auto class, or `None` where nothing was trained.
        uncalled (`tuple[str, ...]`): Modules of the network that use weights of their own modules without calling those.
    """

    network_class: ClassVar[Any]
    uncalled: ClassVar[tuple[str, ...]] = ()

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__()
        self.config = config
        self._processor: Any = None
        self.text_warnings = TextWarnings()
        if self.network_class is not None:
            _set_precision(config, torch.get_default_dtype())
            make = getattr(self.network_class, "from_config", None) or self.network_class
            self.network = make(config)
            for name in COLLECTED:
                setattr(self, name, getattr(self.network, name, None))

    @property
    def processor(self) -> Any:
        """
        The network's own.

        Raises:
            ValueError: If there is none: a model that is made from a configuration has none.
        """
        if self._processor is None:
            raise ValueError(
                f"{type(self).__name__} has no processor: compose a model with `hf_ris.zero_shot`, or load a saved one."
            )
        return self._processor

    @processor.setter
    def processor(self, processor: Any) -> None:
        self._processor = processor

    @property
    def device(self) -> torch.device:
        """Where the network computes; of an offloaded one, accelerate's hooks know it."""
        for module in self.modules():
            hook = vars(module).get("_hf_hook")
            for each in getattr(hook, "hooks", (hook,)):
                if getattr(each, "execution_device", None) is not None:
                    return torch.device(each.execution_device)
        return self.network.device

    @contextmanager
    def weights_at_hand(self) -> Iterator[None]:
        """
        Brings those weights of an offloaded network that are used without a call of the module they belong to: accelerate brings a
        module's weights when it is called.
        """
        modules = [self.network] if self.network_class is not None else []
        modules += [module for name in self.uncalled for module in self.network.get_submodule(name).modules()]
        hooked = [module for module in modules if hasattr(module, "_hf_hook")]
        try:
            for module in hooked:
                module._hf_hook.pre_forward(module)
            yield
        finally:
            for module in hooked:
                module._hf_hook.post_forward(module, None)

    @property
    def all_tied_weights_keys(self) -> dict[str, str]:
        """Weights that are one, as transformers asks a model's children for them."""
        keys = self.network.all_tied_weights_keys if self.network_class is not None else {}
        return {f"network.{name}": f"network.{other}" for name, other in keys.items()}

    def describe_settings(self) -> str:
        """All that it gives depends on besides weights and inputs: its options, its configuration, its processor."""
        owners = (*reversed(type(self).__mro__), self)
        options = {
            name: value
            for owner in owners
            for name, value in vars(owner).items()
            if isinstance(value, PLAIN) and not name.startswith("_")
        }
        described = [repr(options), self.config.to_json_string(), repr(self._processor)]
        if self.network_class is not None and self.network.can_generate():
            described.append(repr(vars(self.network.generation_config)))
        return "\n".join(described)

    def check_complete(self) -> None:
        """
        Raises:
            ValueError: If there is a network and no processor.
        """
        if self.network_class is not None:
            _ = self.processor

    def save_files(self, folder: str | os.PathLike) -> None:
        """Saves what is no weight: the processor, and how a network generates text."""
        if self.network_class is None:
            return
        self.processor.save_pretrained(folder)
        if self.network.can_generate():
            self.network.generation_config.save_pretrained(folder)

    def load_files(self, source: str, subfolder: str = "", **options: Any) -> None:
        """
        Loads what [`save_files`] saved.

        Args:
            source (`str`): Folder or Hub id.
            subfolder (`str`, *optional*, defaults to `""`): Of it.
            options: Of `from_pretrained`, such as `revision`.
        """
        if self.network_class is None:
            return
        # All parts are of transformers: code from their folders is not even asked about.
        self.processor = AutoProcessor.from_pretrained(source, subfolder=subfolder, trust_remote_code=False, **options)
        if self.network.can_generate():
            try:
                loaded = GenerationConfig.from_pretrained(source, subfolder=subfolder, **options)
            except OSError:  # the configuration says it all
                return
            self.network.generation_config = loaded


def _set_precision(config: PreTrainedConfig, dtype: torch.dtype) -> None:
    """At every depth: transformers sets the first two levels alone, and networks would obey what the others were saved with."""
    config.dtype = dtype
    for value in vars(config).values():
        if isinstance(value, PreTrainedConfig):
            _set_precision(value, dtype)


def build_part(name: str, classes: Mapping[str, type[Any]], config: PreTrainedConfig, **options: Any) -> Any:
    """
    The part for a network's configuration.

    Args:
        name (`str`): What to call it in an error message.
        classes (`Mapping[str, type[Part]]`): By `model_type`.
        config (`PreTrainedConfig`): The network's.
        options: Further arguments of the class.

    Raises:
        ValueError: If there is no class for it, or it has no such option.
    """
    if config.model_type not in classes:
        raise ValueError(f"{name} is a {config.model_type!r}; allowed are {', '.join(classes)}")
    part_class = classes[config.model_type]
    try:
        inspect.signature(part_class).bind(config, **options)
    except TypeError as error:
        raise ValueError(f"{name} of type {config.model_type!r} does not take {options}: {error}") from error
    return part_class(config, **options)


def in_batches(items: Any, size: int) -> list[Any]:
    """A sequence or tensor in parts of at most `size` items, and about as many each time: a small last batch would take as long as a larger one."""
    number = math.ceil(len(items) / size)
    return [items[len(items) * place // number : len(items) * (place + 1) // number] for place in range(number)]


__all__ = ["Part", "build_part", "in_batches"]
