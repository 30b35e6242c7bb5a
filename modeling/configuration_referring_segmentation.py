"""What the configurations of all systems share: a saved folder loads without this package."""

import sys
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig


TASK = "referring-segmentation"
# Remote code may only name an Auto class of transformers itself; of its tasks, this one is the nearest.
AUTO_MODEL = "AutoModelForImageSegmentation"
CUSTOM_PIPELINES = {
    TASK: {
        "impl": "pipeline_referring_segmentation.ReferringSegmentationPipeline",
        "pt": [AUTO_MODEL],
        "type": "multimodal",
    }
}


@strict
class ReferringSegmentationConfig(PreTrainedConfig):
    """
    Base of the configurations. What it saves names the classes and the pipeline in the folder's own code, which
    transformers runs with `trust_remote_code=True`. Where the task is registered, nothing needs to be trusted.
    """

    _auto_class = "AutoConfig"

    def __post_init__(self, **kwargs: Any) -> None:
        pipelines = sys.modules.get("transformers.pipelines")
        if pipelines is not None and TASK in pipelines.PIPELINE_REGISTRY.supported_tasks:
            kwargs.pop("custom_pipelines", None)
        super().__post_init__(**kwargs)

    def to_dict(self) -> dict[str, Any]:
        return {**super().to_dict(), "custom_pipelines": CUSTOM_PIPELINES}


__all__ = ["AUTO_MODEL", "TASK", "ReferringSegmentationConfig"]
