"""Configuration of the example system."""

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from .configuration_referring_segmentation import TrainableSegmentationConfig


@strict
class ExampleConfig(TrainableSegmentationConfig):
    """
    Args:
        text_config (`dict` or `BertConfig`, *optional*, defaults to BERT-base): The text encoder.
        hidden_dim (`int`, *optional*, defaults to 32): Channels of the image maps.
    """

    model_type = "example"
    sub_configs_defaults = {"text_config": SubConfigSpec(AutoConfig, model_type="bert")}

    text_config: dict | PreTrainedConfig | None = None
    hidden_dim: int = 32

    @property
    def fused_widths(self) -> list[int]:
        return [self.hidden_dim]


__all__ = ["ExampleConfig"]
