"""Configuration of TAS."""

from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .configuration_zero_shot import ZeroShotSegmentationConfig


@strict
class TASConfig(ZeroShotSegmentationConfig):
    r"""
    Configuration of [`TASForReferringSegmentation`] ("Text Augmented Spatial-aware Zero-shot Referring Image Segmentation", EMNLP
    Findings 2023).

    Args:
        image_text_config, proposer_config, proposer_options, mode, parser, max_size, cache_size, cache_bytes, batch_size, parts:
            See [`ZeroShotSegmentationConfig`].
        captioner_config (`dict` or `PreTrainedConfig`, *optional*):
            What says what regions and pictures show; its `model_type` is "blip", "blip-2" or "florence2". Without it there are
            neither P nor N.
        caption_weight (`float`, *optional*, defaults to 0.1):
            Of P, how well a region's caption fits the expression (alpha in the paper).
        negative_weight (`float`, *optional*, defaults to 0.7):
            Of N, how well a region fits the other things in the picture (lambda in the paper).
        spatial_rectifier (`bool`, *optional*, defaults to `True`):
            Whether what the expression says of places has a part in the choice (section 3.4).
        min_region_area (`float`, *optional*):
            Smaller regions are left out: in pixels from 1 on, below as a share of the picture. By default 2,000 pixels in the
            paper's mode, else what that is of a picture of 640 x 480.
        max_region_overlap (`float`, *optional*, defaults to 0.4):
            Of two regions that share more of the smaller one, that one is left out.

    Example:

    ```python
    >>> from hf_ris import TASConfig, TASForReferringSegmentation

    >>> config = TASConfig(proposer_config={"model_type": "felzenszwalb"})
    >>> model = TASForReferringSegmentation(config)  # random weights; see `hf_ris.zero_shot` for trained ones
    ```
    """

    model_type = "tas"
    sub_configs: ClassVar[dict[str, Any]] = {
        **ZeroShotSegmentationConfig.sub_configs,
        "captioner_config": PreTrainedConfig,
    }

    captioner_config: dict[str, Any] | PreTrainedConfig | None = None
    caption_weight: float | int = 0.1
    negative_weight: float | int = 0.7
    spatial_rectifier: bool = True
    min_region_area: float | int | None = None
    max_region_overlap: float | int = 0.4

    def validate_architecture(self):
        super().validate_architecture()
        for name in ("caption_weight", "negative_weight", "min_region_area", "max_region_overlap"):
            if getattr(self, name) is not None and not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be 0 or larger, got {getattr(self, name)}")


__all__ = ["TASConfig"]
