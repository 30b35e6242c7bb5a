"""Make transformers know this package's tasks and models, whichever of the two is imported first.

Nothing here imports transformers: each registration waits until the module that holds the registry is imported.
"""

import pkgutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import wrapt

import hf_ris

from . import modeling
from .systems import BUNDLED_CHECKPOINT, BUNDLED_ZERO_SHOT, NOTICES, ONNX_TYPE, SYSTEMS, TASK, ZERO_SHOT_TASK, System


CONFIGURATIONS = "transformers.models.auto.configuration_auto"
IMAGE_PROCESSORS = "transformers.models.auto.image_processing_auto"
PROCESSORS = "transformers.models.auto.processing_auto"
PIPELINES = "transformers.pipelines"
REGISTRIES = (CONFIGURATIONS, IMAGE_PROCESSORS, PROCESSORS, PIPELINES)

# The modules of `modeling` that are not imported yet, or not completely, and what waits until none is half imported.
_incomplete: set[str] = set()
_waiting: list[Callable[[], None]] = []


def register() -> None:
    """Register now what transformers has already imported, and the rest as soon as it does."""
    for module in pkgutil.iter_modules(modeling.__path__, f"{modeling.__name__}."):
        _incomplete.add(module.name)
        wrapt.when_imported(module.name)(_complete)
    for system in SYSTEMS.values():
        register_system(system)
    _when_imported(CONFIGURATIONS, _register_exports)
    _when_imported(
        PIPELINES, partial(_register_task, TASK, lambda: hf_ris.ReferringSegmentationPipeline, BUNDLED_CHECKPOINT)
    )
    _when_imported(
        PIPELINES,
        partial(
            _register_task, ZERO_SHOT_TASK, lambda: hf_ris.ZeroShotReferringSegmentationPipeline, BUNDLED_ZERO_SHOT
        ),
    )


def register_system(system: System) -> None:
    """Make the Auto classes, the pipelines and everything else here know a system."""
    SYSTEMS[system.model_type] = system
    _when_imported(CONFIGURATIONS, partial(_register_config, system))
    _when_imported(PROCESSORS, partial(_register_processor, system))
    _when_imported(IMAGE_PROCESSORS, partial(_register_image_processor, system))


def _when_imported(registry: str, action: Callable[[], None]) -> None:
    """
    Run `action` once transformers' module `registry` is imported.

    One of our modules may be what causes that import. It cannot give its classes yet, so the action waits until it is complete.
    """

    def run(_: Any) -> None:
        _waiting.append(action)
        _run_waiting()

    wrapt.when_imported(registry)(run)


def _complete(module: Any) -> None:
    _incomplete.discard(module.__name__)
    _run_waiting()


def _run_waiting() -> None:
    while _waiting and not _incomplete & sys.modules.keys():
        _waiting.pop(0)()


def _register_config(system: System) -> None:
    from transformers import AutoConfig

    AutoConfig.register(system.model_type, system.config(), exist_ok=True)


def _register_exports() -> None:
    from transformers import AutoConfig

    from .modeling.configuration_onnx import OnnxReferringSegmentationConfig

    AutoConfig.register(ONNX_TYPE, OnnxReferringSegmentationConfig, exist_ok=True)


def _register_image_processor(system: System) -> None:
    from transformers import AutoImageProcessor

    if image_processor := system.image_processor():
        # There is one class, for PIL. Where torchvision is installed, transformers asks for that back end and would warn.
        classes = {"pil": image_processor, "torchvision": image_processor}
        AutoImageProcessor.register(system.config(), image_processor_classes=classes, exist_ok=True)


def _register_processor(system: System) -> None:
    from transformers import AutoProcessor

    AutoProcessor.register(system.config(), system.processor(), exist_ok=True)


def _register_task(name: str, pipeline_class: Callable[[], type[Any]], default_model: Path) -> None:
    from transformers.pipelines import PIPELINE_REGISTRY

    from .auto import AutoModelForReferringSegmentation

    if name in PIPELINE_REGISTRY.supported_tasks:
        return
    PIPELINE_REGISTRY.register_pipeline(
        name,
        pipeline_class=pipeline_class(),
        pt_model=AutoModelForReferringSegmentation,
        default={"model": (str(default_model), "main")},
        type="multimodal",
    )
    # With this attribute a saved pipeline would call itself remote code, and loading it would demand to be trusted.
    del pipeline_class()._registered_impl
    pipeline_class().model_notices.update(NOTICES)
