"""Configuration of CLIP with a ResNet for images, which transformers lacks."""

from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig


@strict
class CLIPResNetConfig(PreTrainedConfig):
    """
    Args:
        text_config (`CLIPTextConfig` or `dict`, *optional*): The text encoder; images are projected to its `projection_dim`, too.
        layers (`Sequence[int]`, *optional*, defaults to `(3, 4, 6, 3)`): Blocks of each stage; the default is RN50's.
        width (`int`, *optional*, defaults to 64): Channels after the stem; the last stage has 32 times as many.
        image_size (`int`, *optional*, defaults to 224): Side of the images it was trained on, in pixels.
        logit_scale_init_value (`float`, *optional*, defaults to 2.6592): Logarithm of the scale of similarities.
    """

    model_type = "clip_resnet"
    sub_configs: ClassVar[dict[str, Any]] = {"text_config": PreTrainedConfig}

    text_config: dict[str, Any] | PreTrainedConfig | None = None
    layers: tuple[int, ...] | list[int] = (3, 4, 6, 3)
    width: int = 64
    image_size: int = 224
    logit_scale_init_value: float | int = 2.6592

    def __post_init__(self, **kwargs: Any) -> None:
        if not isinstance(self.text_config, PreTrainedConfig):
            # Imported here: this module may be imported while transformers is still importing CLIP.
            from transformers import CLIPTextConfig

            self.text_config = CLIPTextConfig(**(self.text_config or {}))
        super().__post_init__(**kwargs)

    def validate_architecture(self):
        super().validate_architecture()
        if len(self.layers) != 4 or min(self.layers) < 1:
            raise ValueError(f"`layers` must be 4 numbers of blocks, got {list(self.layers)}.")
        if self.width < 2 or self.width % 2:
            raise ValueError(f"`width` must be positive and even, got {self.width}.")
        if self.image_size < 32 or self.image_size % 32:
            raise ValueError(f"`image_size` must be a multiple of 32, got {self.image_size}.")

    @property
    def embed_dim(self) -> int:
        """Channels of the last stage's map."""
        return 32 * self.width


__all__ = ["CLIPResNetConfig"]
