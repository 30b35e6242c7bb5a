"""Configurations of the zero-shot systems and of the proposer without weights."""

from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .configuration_clip_resnet import CLIPResNetConfig
from .configuration_referring_segmentation import ReferringSegmentationConfig, custom_pipeline


TASK = "zero-shot-referring-segmentation"
MODES = ("default", "paper")


def check_least(config: PreTrainedConfig, **least: int) -> None:
    """Raise a ValueError if a field is below its least value, or infinite."""
    for name, value in least.items():
        if getattr(config, name) is not None and not value <= getattr(config, name) < float("inf"):
            raise ValueError(f"`{name}` must be {value} or larger, got {getattr(config, name)}.")


@strict
class FelzenszwalbConfig(PreTrainedConfig):
    """
    Configuration of a proposer without weights: regions of like colour.

    Args:
        scales (`Sequence[float]`, *optional*, defaults to `(100, 300, 1000)`): Scales, whose regions are all taken; a larger one gives
            larger regions.
        sigma (`float`, *optional*, defaults to 0.5): Deviation of the Gaussian that smooths the image, in pixels.
        min_share (`float`, *optional*, defaults to 0.001): Share of the image that a region must fill.
        max_overlap (`float`, *optional*, defaults to 0.9): IoU above which two regions are one.
        max_pixels (`int`, *optional*, defaults to 640 * 480): Larger images are reduced to so many before regions are looked for.
        max_mask_pixels (`int`, *optional*, defaults to 2**28): Pixels of all masks of an image together, a byte each; beyond it the
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
            raise ValueError(f"`scales` must be one or more numbers above 0, got {list(self.scales)}.")
        check_least(self, sigma=0, min_share=0, max_overlap=0, max_pixels=1, max_mask_pixels=1)


OWN_CONFIGS = {config.model_type: config for config in (CLIPResNetConfig, FelzenszwalbConfig)}


def make_config(values: dict[str, Any]) -> PreTrainedConfig:
    """Make a configuration of the class that its `model_type` names, transformers' or one of this package."""
    # Imported late: this module is imported while transformers fills its Auto classes.
    from transformers import AutoConfig

    name = values.get("model_type", "")
    return OWN_CONFIGS[name](**values) if name in OWN_CONFIGS else AutoConfig.for_model(**values)


@strict
class ComposedConfig(ReferringSegmentationConfig):
    """
    Base class of the configurations of composed models.

    Args:
        cache_size (`int`, *optional*, defaults to 8):
            Number of images whose regions and features are kept for further expressions.
        cache_bytes (`int`, *optional*, defaults to 2**29):
            Bytes that these may take; a mask takes one for each pixel.
        parts (`dict`, *optional*):
            Where each part came from and under which licence: `{"image_text": {"source": …, "license": …, "is_on_hub": …, "has_weights": …}, …}`.
    """

    cache_size: int = 8
    cache_bytes: int = 2**29
    parts: dict[str, Any] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        for name in self.sub_configs:
            values = getattr(self, name)
            if isinstance(values, dict):
                setattr(self, name, make_config(values))
        super().__post_init__(**kwargs)

    def validate_architecture(self):
        super().validate_architecture()
        check_least(self, cache_size=0, cache_bytes=0)


@strict
class ZeroShotSegmentationConfig(ComposedConfig):
    """
    Base class of the zero-shot systems' configurations.

    Args:
        image_text_config (`dict` or `PreTrainedConfig`, *optional*, defaults to CLIP's):
            The network that compares images with texts; its `model_type` is "clip", "clip_resnet", "metaclip_2", "siglip" or
            "siglip2".
        proposer_config (`dict` or `PreTrainedConfig`, *optional*):
            The proposer of regions; its `model_type` is "sam", "sam_hq", "sam2", "edgetam", "mask2former", "maskformer" or "felzenszwalb".
            Without it, regions must come with each image.
        proposer_options (`dict`, *optional*):
            Further arguments of the proposer's class, such as `points_per_side`.
        detector_config (`dict` or `PreTrainedConfig`, *optional*):
            A detector, whose boxes the proposer segments for each expression; its `model_type` is "grounding-dino", "mm-grounding-dino" or
            "owlv2", and the proposer is one of the first four. A call that brings its regions does not ask it.
        detector_threshold (`float`, *optional*):
            A box counts if its score is above this; by default the detector's own threshold.
        detector_weight (`float`, *optional*, defaults to 10.0):
            Weight of D, the detector's score of a region, from 0 to 1. It is chosen here, not published.
        mode (`str`, *optional*, defaults to `"default"`):
            `"paper"` does what the authors' code does; `"default"` mends its defects.
        parser (`str`, *optional*, defaults to `"auto"`):
            The parser of expressions: `"rules"`, a model of spaCy, or `"auto"` for the best that is installed.
        max_size (`int`, *optional*, defaults to 1024):
            Longest side of an image in pixels; larger ones are reduced.
        batch_size (`int`, *optional*, defaults to 16):
            Crops of regions that go through the image-text network at once.
        cache_size, cache_bytes, parts:
            See [`ComposedConfig`].
    """

    _pipelines = {
        **ReferringSegmentationConfig._pipelines,
        TASK: custom_pipeline("pipeline_zero_shot_referring_segmentation.ZeroShotReferringSegmentationPipeline"),
    }
    sub_configs: ClassVar[dict[str, Any]] = {
        "image_text_config": PreTrainedConfig,
        "proposer_config": PreTrainedConfig,
        "detector_config": PreTrainedConfig,
    }

    image_text_config: dict[str, Any] | PreTrainedConfig | None = None
    proposer_config: dict[str, Any] | PreTrainedConfig | None = None
    proposer_options: dict[str, Any] | None = None
    detector_config: dict[str, Any] | PreTrainedConfig | None = None
    detector_threshold: float | int | None = None
    detector_weight: float | int = 10.0
    mode: str = "default"
    parser: str = "auto"
    max_size: int = 1024
    batch_size: int = 16

    def __post_init__(self, **kwargs: Any) -> None:
        if self.image_text_config is None:
            self.image_text_config = {"model_type": "clip"}
        super().__post_init__(**kwargs)

    def validate_architecture(self):
        super().validate_architecture()
        if self.proposer_options and self.proposer_config is None:
            raise ValueError(f"`proposer_options` must be left out without a proposer, got {self.proposer_options}.")
        if self.mode not in MODES:
            raise ValueError(f"`mode` must be one of {list(MODES)}, got {self.mode!r}.")
        if self.detector_config is not None and self.proposer_config is None:
            raise ValueError("`detector_config` must be left out without a proposer, which segments its boxes.")
        if self.detector_threshold is not None and not 0 <= self.detector_threshold <= 1:
            raise ValueError(f"`detector_threshold` must be between 0 and 1, got {self.detector_threshold}.")
        check_least(self, max_size=32, batch_size=1, detector_weight=0)


@strict
class GlobalLocalConfig(ZeroShotSegmentationConfig):
    r"""
    Configuration of [`GlobalLocalForReferringSegmentation`] ("Zero-shot Referring Image Segmentation with Global-Local Context
    Features", CVPR 2023).

    Args:
        image_text_config, proposer_config, proposer_options, detector_config, detector_threshold, detector_weight, mode, parser, max_size,
        cache_size, cache_bytes, batch_size, parts:
            See [`ZeroShotSegmentationConfig`].
        visual_mix (`float`, *optional*, defaults to 0.95):
            Weight of a region's features within the whole image against those of its crop (section 3.2); published are 0.95 for
            RefCOCO and RefCOCO+, 0.85 for RefCOCOg.
        text_mix (`float`, *optional*, defaults to 0.5):
            Weight of the expression against its noun phrase (section 3.3).
        masking_block (`int`, *optional*):
            The first block of a ViT, counted from 0, that sees patches outside of a region blanked; by default the third-last, as
            published for ViT-B/32.
        spatial_guidance (`float`, *optional*, defaults to 0.0):
            Weight, against a cosine similarity, of where in the image the noun phrase fits and of the sides that the expression names;
            see [`GlobalLocalForReferringSegmentation.guide`]. Must be 0 in the paper's mode.

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
    spatial_guidance: float | int = 0.0

    def validate_architecture(self):
        super().validate_architecture()
        for name in ("visual_mix", "text_mix"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"`{name}` must be between 0 and 1, got {getattr(self, name)}.")
        check_least(self, masking_block=0, spatial_guidance=0)
        if self.spatial_guidance and self.mode == "paper":
            raise ValueError(f"`spatial_guidance` must be 0 with mode='paper', got {self.spatial_guidance}.")
        if self.mode == "paper" and self.image_text_config.model_type == "siglip2":
            raise ValueError(
                "`mode` must be 'default' with a SigLIP 2 of any size: it reads patches, where the paper's code crops pixels."
            )


@strict
class TASConfig(ZeroShotSegmentationConfig):
    r"""
    Configuration of [`TASForReferringSegmentation`] ("Text Augmented Spatial-aware Zero-shot Referring Image Segmentation", EMNLP
    Findings 2023).

    Args:
        image_text_config, proposer_config, proposer_options, detector_config, detector_threshold, detector_weight, mode, parser, max_size,
        cache_size, cache_bytes, batch_size, parts:
            See [`ZeroShotSegmentationConfig`].
        captioner_config (`dict` or `PreTrainedConfig`, *optional*):
            The captioner of regions and images; its `model_type` is "blip", "blip-2" or "florence2". Without it there are neither P
            nor N.
        caption_weight (`float`, *optional*, defaults to 0.1):
            Weight of P, how well a region's caption fits the expression (alpha in the paper).
        negative_weight (`float`, *optional*, defaults to 0.7):
            Weight of N, how well a region fits the other things in the image (lambda in the paper).
        spatial_rectifier (`bool`, *optional*, defaults to `True`):
            Whether what the expression says of places has a part in the choice (section 3.4).
        min_region_area (`float`, *optional*):
            Smaller regions are left out: in pixels from 1 on, below as a share of the image. By default 2,000 pixels in the
            paper's mode, else their share of an image of 640 x 480.
        max_region_overlap (`float`, *optional*, defaults to 0.4):
            Share of the smaller of two regions that may lie in the larger; above it the smaller is left out.

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
        check_least(self, caption_weight=0, negative_weight=0, min_region_area=0, max_region_overlap=0)


__all__ = ["FelzenszwalbConfig", "GlobalLocalConfig", "OWN_CONFIGS", "TASConfig", "ZeroShotSegmentationConfig"]
