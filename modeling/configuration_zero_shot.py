"""What the configurations of the zero-shot systems share."""

from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .configuration_clip_resnet import CLIPResNetConfig
from .configuration_referring_segmentation import ReferringSegmentationConfig, custom_pipeline


TASK = "zero-shot-referring-segmentation"
MODES = ("default", "paper")


@strict
class FelzenszwalbConfig(PreTrainedConfig):
    """
    Of regions that need no weights.

    Args:
        scales (`Sequence[float]`, *optional*, defaults to `(100, 300, 1000)`): A larger one gives larger regions; those of all are
            taken.
        sigma (`float`, *optional*, defaults to 0.5): Of the Gaussian that the picture is smoothed with, in pixels.
        min_share (`float`, *optional*, defaults to 0.001): Of the picture, that a region must fill.
        max_overlap (`float`, *optional*, defaults to 0.9): IoU above which two regions are one.
        max_pixels (`int`, *optional*, defaults to 640 * 480): Larger pictures are reduced to so many before regions are looked for.
        max_mask_pixels (`int`, *optional*, defaults to 2**28): Of all masks of a picture together, a byte each; beyond it the
            smallest regions are left out.
    """

    model_type = "felzenszwalb"

    scales: tuple[float | int, ...] | list[float | int] = (100, 300, 1000)
    sigma: float | int = 0.5
    min_share: float | int = 0.001
    max_overlap: float | int = 0.9
    max_pixels: int = 640 * 480
    max_mask_pixels: int = 2**28

    def validate_architecture(self):
        super().validate_architecture()
        if not self.scales or min(self.scales) <= 0:
            raise ValueError(f"scales must be one or more numbers above 0, got {list(self.scales)}")
        for name, least in (
            ("sigma", 0),
            ("min_share", 0),
            ("max_overlap", 0),
            ("max_pixels", 1),
            ("max_mask_pixels", 1),
        ):
            if not least <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be {least} or larger, got {getattr(self, name)}")


OWN_CONFIGS = {config.model_type: config for config in (CLIPResNetConfig, FelzenszwalbConfig)}


def make_config(values: dict[str, Any]) -> PreTrainedConfig:
    """The configuration of the class that its `model_type` names, transformers' or one of our own."""
    # Not above: whoever registers configurations with transformers' Auto classes imports this module meanwhile.
    from transformers import AutoConfig

    name = values.get("model_type", "")
    return OWN_CONFIGS[name](**values) if name in OWN_CONFIGS else AutoConfig.for_model(**values)


@strict
class ZeroShotSegmentationConfig(ReferringSegmentationConfig):
    """
    Base of the configurations.

    Args:
        image_text_config (`dict` or `PreTrainedConfig`, *optional*, defaults to CLIP's):
            The network that compares pictures with texts; its `model_type` is "clip", "clip_resnet" or "siglip".
        proposer_config (`dict` or `PreTrainedConfig`, *optional*):
            What finds regions; its `model_type` is "sam", "mask2former", "maskformer" or "felzenszwalb". Without it, regions must come
            with each picture.
        proposer_options (`dict`, *optional*):
            Further arguments of the proposer's class, such as `points_per_side`.
        mode (`str`, *optional*, defaults to `"default"`):
            `"paper"` for what the authors' code does; `"default"` mends its defects.
        parser (`str`, *optional*, defaults to `"auto"`):
            What reads expressions: `"rules"`, a model of spaCy, or `"auto"` for the best that is installed.
        max_size (`int`, *optional*, defaults to 1024):
            Longest side of a picture in pixels; larger ones are reduced.
        cache_size (`int`, *optional*, defaults to 8):
            Pictures whose regions and features are kept for further expressions.
        cache_bytes (`int`, *optional*, defaults to 2**29):
            That these may take; a mask takes a byte for each pixel.
        batch_size (`int`, *optional*, defaults to 16):
            Crops of regions that go through the image-text network at once.
        parts (`dict`, *optional*):
            Where each part came from and under which licence: `{"image_text": {"source": …, "license": …, "is_on_hub": …, "has_weights": …}, …}`.
    """

    _pipelines = {
        **ReferringSegmentationConfig._pipelines,
        TASK: custom_pipeline("pipeline_zero_shot_referring_segmentation.ZeroShotReferringSegmentationPipeline"),
    }
    sub_configs: ClassVar[dict[str, Any]] = {
        "image_text_config": PreTrainedConfig,
        "proposer_config": PreTrainedConfig,
    }

    image_text_config: dict[str, Any] | PreTrainedConfig | None = None
    proposer_config: dict[str, Any] | PreTrainedConfig | None = None
    proposer_options: dict[str, Any] | None = None
    mode: str = "default"
    parser: str = "auto"
    max_size: int = 1024
    cache_size: int = 8
    cache_bytes: int = 2**29
    batch_size: int = 16
    parts: dict[str, Any] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if self.image_text_config is None:
            self.image_text_config = {"model_type": "clip"}
        for name in self.sub_configs:
            values = getattr(self, name)
            if isinstance(values, dict):
                setattr(self, name, make_config(values))
        super().__post_init__(**kwargs)

    def validate_architecture(self):
        super().validate_architecture()
        if self.proposer_options and self.proposer_config is None:
            raise ValueError(f"proposer_options={self.proposer_options} without a proposer")
        if self.mode not in MODES:
            raise ValueError(f"mode must be one of {list(MODES)}, got {self.mode!r}")
        for name, least in (("max_size", 32), ("cache_size", 0), ("cache_bytes", 0), ("batch_size", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")


__all__ = ["OWN_CONFIGS", "FelzenszwalbConfig", "ZeroShotSegmentationConfig"]
