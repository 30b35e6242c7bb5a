"""Configuration of Global-Local."""

from huggingface_hub.dataclasses import strict

from .configuration_zero_shot import ZeroShotSegmentationConfig


@strict
class GlobalLocalConfig(ZeroShotSegmentationConfig):
    r"""
    Configuration of [`GlobalLocalForReferringSegmentation`] ("Zero-shot Referring Image Segmentation with Global-Local Context
    Features", CVPR 2023).

    Args:
        image_text_config, proposer_config, proposer_options, mode, parser, max_size, cache_size, cache_bytes, batch_size, parts:
            See [`ZeroShotSegmentationConfig`].
        visual_mix (`float`, *optional*, defaults to 0.95):
            Weight of a region's features within the whole picture against those of its crop (section 3.2); published are 0.95 for
            RefCOCO and RefCOCO+, 0.85 for RefCOCOg.
        text_mix (`float`, *optional*, defaults to 0.5):
            Weight of the sentence against its noun phrase (section 3.3).
        masking_block (`int`, *optional*):
            The block of a ViT, counted from 0, before which and before all after it patches outside of a region are blanked. By
            default before the last three, as published for ViT-B/32.

    Example:

    ```python
    >>> from hf_ris import GlobalLocalConfig, GlobalLocalForReferringSegmentation

    >>> config = GlobalLocalConfig(proposer_config={"model_type": "felzenszwalb"})
    >>> model = GlobalLocalForReferringSegmentation(config)  # random weights; see `hf_ris.zero_shot` for trained ones
    ```
    """

    model_type = "global_local"

    visual_mix: float | int = 0.95
    text_mix: float | int = 0.5
    masking_block: int | None = None

    def validate_architecture(self):
        super().validate_architecture()
        for name in ("visual_mix", "text_mix"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be between 0 and 1, got {getattr(self, name)}")
        if self.masking_block is not None and self.masking_block < 0:
            raise ValueError(f"masking_block must be 0 or larger, got {self.masking_block}")


__all__ = ["GlobalLocalConfig"]
