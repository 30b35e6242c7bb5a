"""What the configurations of all systems share."""

import sys

from transformers import PreTrainedConfig


class ReferringSegmentationConfig(PreTrainedConfig):
    """Base of every configuration of this library.

    A folder written by `pipe.save_pretrained` names its pipeline class under `custom_pipelines`, so that it loads as
    remote code where `hf_ris` is not installed. Where it is installed, that entry would make transformers ask for
    `trust_remote_code` although the task is known: such entries are dropped here, and one folder serves both.
    """

    def __post_init__(self, **kwargs):
        pipelines = sys.modules.get("transformers.pipelines")
        if "custom_pipelines" in kwargs and pipelines is not None:
            known_tasks = pipelines.PIPELINE_REGISTRY.supported_tasks
            remaining = {
                task: spec for task, spec in kwargs.pop("custom_pipelines").items() if task not in known_tasks
            }
            if remaining:
                kwargs["custom_pipelines"] = remaining
        super().__post_init__(**kwargs)


__all__ = ["ReferringSegmentationConfig"]
