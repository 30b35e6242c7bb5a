"""Configuration of CRIS: every number of the published system is a named field."""

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from .configuration_clip_resnet import CLIPResNetConfig
from .configuration_referring_segmentation import TrainableSegmentationConfig


@strict
class CRISConfig(TrainableSegmentationConfig):
    r"""
    Configuration of [`CRISForReferringSegmentation`]. The defaults are the published network on CLIP's RN50, of "CRIS: CLIP-Driven
    Referring Image Segmentation" (CVPR 2022). The weights of Mask Grounding and of the alignment loss, which are not of that
    paper, are fields of [`TrainableSegmentationConfig`].

    Args:
        clip_config (`dict` or `CLIPResNetConfig`, *optional*, defaults to CLIP's RN50):
            Image and text encoder.
        neck_dims (`list[int]`, *optional*, defaults to `[256, 512, 1024]`):
            Channels that the neck's three image maps are brought to, fine to coarse.
        hidden_dim (`int`, *optional*, defaults to 512):
            Width of the neck's output and of the decoder; the mask is read from half as many channels.
        decoder_layers (`int`, *optional*, defaults to 3):
            Layers of the vision-language decoder.
        decoder_num_heads (`int`, *optional*, defaults to 8):
            Heads of its attentions.
        decoder_feedforward_dim (`int`, *optional*, defaults to 2048):
            Inner width of its feed-forward parts.
        dropout (`float`, *optional*, defaults to 0.1):
            Dropout of the decoder.
        kernel_size (`int`, *optional*, defaults to 3):
            Side of the kernel that is made of an expression and reads its mask.
        position_temperature (`float`, *optional*, defaults to 10000.0):
            Temperature of the sine positions.

    Example:

    ```python
    >>> from hf_ris import CRISConfig, CRISForReferringSegmentation

    >>> config = CRISConfig(clip_config={"layers": [3, 4, 23, 3], "text_config": {"projection_dim": 512}})
    >>> model = CRISForReferringSegmentation(config)
    ```
    """

    model_type = "cris"
    attribute_map = {"hidden_size": "hidden_dim"}  # the name other libraries look for
    sub_configs_defaults = {
        "clip_config": SubConfigSpec(
            CLIPResNetConfig,
            init_kwargs={"text_config": {"projection_dim": 1024}},
        ),
    }

    clip_config: dict | PreTrainedConfig | None = None
    neck_dims: list[int] | tuple[int, ...] = (256, 512, 1024)
    hidden_dim: int = 512
    decoder_layers: int = 3
    decoder_num_heads: int = 8
    decoder_feedforward_dim: int = 2048
    dropout: float = 0.1
    kernel_size: int = 3
    position_temperature: float = 10000.0

    @property
    def text_config(self) -> PreTrainedConfig:
        """Configuration of the text encoder."""
        return self.clip_config.text_config

    @property
    def fused_widths(self) -> list[int]:
        """Channels of the neck's map (0) and of the decoder's (1), both at stride 16."""
        return [self.hidden_dim, self.hidden_dim]

    def validate_architecture(self):
        super().validate_architecture()
        kind, heads = self.clip_config.model_type, self.decoder_num_heads
        if kind != "clip_resnet":
            raise ValueError(f"`clip_config` must be of model_type 'clip_resnet', got {kind!r}.")
        self.require(len(self.neck_dims) == 3, "neck_dims", "3 numbers")
        self.require(self.hidden_dim % heads == 0, "hidden_dim", f"a multiple of decoder_num_heads ({heads})")
        self.require(self.hidden_dim % 4 == 0, "hidden_dim", "a multiple of 4 (sine positions)")
        self.require(self.kernel_size > 0 and self.kernel_size % 2 == 1, "kernel_size", "positive and odd")
        self.require(0 <= self.dropout < 1, "dropout", "from 0 to below 1")


__all__ = ["CRISConfig"]
