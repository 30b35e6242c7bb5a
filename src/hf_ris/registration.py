"""Makes transformers know this package's task and models, whichever of the two is imported first.

Nothing here imports transformers: each registration waits until the module that holds the registry is imported.
"""

import importlib
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import wrapt


TASK = "referring-segmentation"
BUNDLED_CHECKPOINT = Path(__file__).parent / "checkpoints" / "magnet-tiny-refshapes"
BUNDLED_CHECKPOINT_NOTICE = (
    "This is the small checkpoint that comes with hf_ris: it was trained on drawn shapes and does not understand photos. "
    f'For photos, name a model that was trained on them: pipeline("{TASK}", model="folder-or-hub-id").'
)


class System(NamedTuple):
    """One published system: its `model_type`, which is also its file suffix, and the prefix of its classes."""

    model_type: str
    prefix: str

    def module(self, kind: str) -> str:
        return f"hf_ris.modeling.{kind}_{self.model_type}"

    def load(self, kind: str, name: str) -> Any:
        return getattr(importlib.import_module(self.module(kind)), f"{self.prefix}{name}")


SYSTEMS = (System("magnet", "MagNet"),)


def register() -> None:
    """Register now what transformers has already imported, and the rest as soon as it does."""
    auto = "transformers.models.auto"
    for system in SYSTEMS:
        _when_imported(f"{auto}.configuration_auto", system.module("configuration"), partial(_register_config, system))
        _when_imported(
            f"{auto}.image_processing_auto",
            system.module("image_processing"),
            partial(_register_image_processor, system),
        )
        _when_imported(f"{auto}.processing_auto", system.module("processing"), partial(_register_processor, system))
    _when_imported("transformers.pipelines", "hf_ris.modeling.pipeline_referring_segmentation", _register_task)


def _when_imported(registry: str, ours: str, action: Callable[[], None]) -> None:
    """
    Run `action` once transformers' module `registry` is imported, importing our module for it.

    Our module may be the one that causes the registry's import; then it cannot give its classes yet, and the action waits
    until it is complete.
    """
    complete: set[str] = set()

    def note(name: str) -> None:
        complete.add(name)
        if complete == {registry, ours}:
            action()

    def on_registry(_: Any) -> None:
        note(registry)
        if ours not in sys.modules:
            importlib.import_module(ours)

    wrapt.when_imported(ours)(lambda _: note(ours))
    wrapt.when_imported(registry)(on_registry)


def _register_config(system: System) -> None:
    from transformers import AutoConfig

    AutoConfig.register(system.model_type, system.load("configuration", "Config"), exist_ok=True)


def _register_image_processor(system: System) -> None:
    from transformers import AutoImageProcessor

    config, image_processor = system.load("configuration", "Config"), system.load("image_processing", "ImageProcessor")
    # There is one class, for PIL. Where torchvision is installed, transformers asks for that back end and would warn.
    classes = {"pil": image_processor, "torchvision": image_processor}
    AutoImageProcessor.register(config, image_processor_classes=classes, exist_ok=True)


def _register_processor(system: System) -> None:
    from transformers import AutoProcessor

    config = system.load("configuration", "Config")
    AutoProcessor.register(config, system.load("processing", "Processor"), exist_ok=True)


def _register_task() -> None:
    from transformers.pipelines import PIPELINE_REGISTRY

    from .auto import AutoModelForReferringSegmentation
    from .modeling.pipeline_referring_segmentation import ReferringSegmentationPipeline

    if TASK in PIPELINE_REGISTRY.supported_tasks:
        return
    PIPELINE_REGISTRY.register_pipeline(
        TASK,
        pipeline_class=ReferringSegmentationPipeline,
        pt_model=AutoModelForReferringSegmentation,
        default={"model": (str(BUNDLED_CHECKPOINT), "main")},
        type="multimodal",
    )
    # With this attribute a saved pipeline would call itself remote code, and loading it would demand to be trusted.
    del ReferringSegmentationPipeline._registered_impl
    ReferringSegmentationPipeline.model_notices[str(BUNDLED_CHECKPOINT)] = BUNDLED_CHECKPOINT_NOTICE
