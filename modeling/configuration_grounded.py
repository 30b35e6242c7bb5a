"""Configuration of a detector with a segmenter."""

from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .configuration_zero_shot import ComposedConfig, check_least


SELECTIONS = ("best", "all", "place")


@strict
class GroundedConfig(ComposedConfig):
    r"""
    Configuration of [`GroundedForReferringSegmentation`].

    Args:
        detector_config (`dict` or `PreTrainedConfig`, *optional*, defaults to Grounding DINO's):
            The detector; its `model_type` is "grounding-dino", "mm-grounding-dino" or "owlv2".
        segmenter_config (`dict` or `PreTrainedConfig`, *optional*, defaults to SAM's):
            The segmenter; its `model_type` is "sam", "sam_hq", "sam2" or "edgetam", or that of a video model of the last two.
        select (`str`, *optional*, defaults to `"best"`):
            Which instances are the answer, "best", "all" or "place", where a call says nothing else; see
            [`InstanceSelection.iterate_segments`].
        max_instances (`int`, *optional*, defaults to 20):
            Boxes of the detector that are segmented for an expression, at most.
        cache_size, cache_bytes, parts:
            See [`ComposedConfig`].

    Example:

    ```python
    >>> from hf_ris import GroundedConfig, GroundedForReferringSegmentation

    >>> model = GroundedForReferringSegmentation(GroundedConfig())  # random weights; see `hf_ris.grounded` for trained ones
    ```
    """

    model_type = "grounded"
    sub_configs: ClassVar[dict[str, Any]] = {
        "detector_config": PreTrainedConfig,
        "segmenter_config": PreTrainedConfig,
    }

    detector_config: dict[str, Any] | PreTrainedConfig | None = None
    segmenter_config: dict[str, Any] | PreTrainedConfig | None = None
    select: str = "best"
    max_instances: int = 20

    def __post_init__(self, **kwargs: Any) -> None:
        if self.detector_config is None:
            self.detector_config = {"model_type": "grounding-dino"}
        if self.segmenter_config is None:
            self.segmenter_config = {"model_type": "sam"}
        super().__post_init__(**kwargs)

    def validate_architecture(self):
        super().validate_architecture()
        if self.select not in SELECTIONS:
            raise ValueError(f"`select` must be one of {list(SELECTIONS)}, got {self.select!r}.")
        check_least(self, max_instances=1)


__all__ = ["GroundedConfig", "SELECTIONS"]
