"""Makes transformers know this package's task and models, whichever of the two is imported first.

Nothing here imports transformers: each registration waits until the module that holds the registry is imported.
"""

import importlib
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import wrapt

from .systems import BUNDLED_CHECKPOINT, BUNDLED_ZERO_SHOT, NOTICES, SYSTEMS, TASK, ZERO_SHOT_TASK, System


def register() -> None:
    """Register now what transformers has already imported, and the rest as soon as it does."""
    auto = "transformers.models.auto"
    for system in SYSTEMS.values():
        _when_imported(f"{auto}.configuration_auto", system.module("config"), partial(_register_config, system))
        if system.image_processor is not None:
            _when_imported(
                f"{auto}.image_processing_auto",
                system.module("image_processor"),
                partial(_register_image_processor, system),
            )
        _when_imported(f"{auto}.processing_auto", system.module("processor"), partial(_register_processor, system))
    for name in _TASKS:
        _when_imported("transformers.pipelines", f"hf_ris.modeling.{name}", partial(_register_task, name))


# Of our own modules that registrations wait for: which they are, which are complete, and what waits until one is.
_complete: set[str] = set()
_waiting: dict[str, list[Callable[[], Any]]] = {}
_tracked: list[str] = []


def _when_imported(registry: str, ours: str, action: Callable[[], None]) -> None:
    """
    Run `action` once transformers' module `registry` is imported, importing our module for it.

    One of our modules may be what causes the registry's import; then it cannot give its classes yet, neither to the action nor to
    other modules of ours, and both wait until it is complete.
    """
    done: set[str] = set()

    def note(name: str) -> None:
        done.add(name)
        if done == {registry, ours}:
            action()

    def on_ours(_: Any) -> None:
        _complete.add(ours)
        note(ours)
        for import_waiting in _waiting.pop(ours, []):
            import_waiting()

    def on_registry(_: Any) -> None:
        note(registry)
        if ours in sys.modules:
            return
        halves = [name for name in _tracked if name in sys.modules and name not in _complete]
        if halves:
            _waiting.setdefault(halves[0], []).append(partial(importlib.import_module, ours))
        else:
            importlib.import_module(ours)

    _tracked.append(ours)
    wrapt.when_imported(ours)(on_ours)
    wrapt.when_imported(registry)(on_registry)


def _register_config(system: System) -> None:
    from transformers import AutoConfig

    AutoConfig.register(system.model_type, system.load("config"), exist_ok=True)


def _register_image_processor(system: System) -> None:
    from transformers import AutoImageProcessor

    config, image_processor = system.load("config"), system.load("image_processor")
    # There is one class, for PIL. Where torchvision is installed, transformers asks for that back end and would warn.
    classes = {"pil": image_processor, "torchvision": image_processor}
    AutoImageProcessor.register(config, image_processor_classes=classes, exist_ok=True)


def _register_processor(system: System) -> None:
    from transformers import AutoProcessor

    config = system.load("config")
    AutoProcessor.register(config, system.load("processor"), exist_ok=True)


def _register_task(module: str) -> None:
    from transformers.pipelines import PIPELINE_REGISTRY

    from .auto import AutoModelForReferringSegmentation

    name, class_name, default = _TASKS[module]
    if name in PIPELINE_REGISTRY.supported_tasks:
        return
    pipeline_class = getattr(importlib.import_module(f"hf_ris.modeling.{module}"), class_name)
    PIPELINE_REGISTRY.register_pipeline(
        name,
        pipeline_class=pipeline_class,
        pt_model=AutoModelForReferringSegmentation,
        default=default,
        type="multimodal",
    )
    # With this attribute a saved pipeline would call itself remote code, and loading it would demand to be trusted.
    del pipeline_class._registered_impl
    pipeline_class.model_notices.update(NOTICES)


# Each task, its class and what is loaded where no model is named, by the class's module.
_TASKS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "pipeline_referring_segmentation": (
        TASK,
        "ReferringSegmentationPipeline",
        {"model": (str(BUNDLED_CHECKPOINT), "main")},
    ),
    "pipeline_zero_shot_referring_segmentation": (
        ZERO_SHOT_TASK,
        "ZeroShotReferringSegmentationPipeline",
        {"model": (str(BUNDLED_ZERO_SHOT), "main")},
    ),
}
