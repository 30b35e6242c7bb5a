"""Base classes of the configurations of all systems: a saved folder loads without this package."""

from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig


TASK = "referring-segmentation"
# Remote code may only name an Auto class of transformers itself; this one's task is the nearest.
AUTO_MODEL = "AutoModelForImageSegmentation"


def custom_pipeline(implementation: str) -> dict[str, Any]:
    """Describe a pipeline class in a folder's own code, for `custom_pipelines` of its configuration."""
    return {"impl": implementation, "pt": [AUTO_MODEL], "type": "multimodal"}


@strict
class ReferringSegmentationConfig(PreTrainedConfig):
    """
    Base of the configurations. A saved one names the classes and the pipeline in the folder's own code, which transformers runs
    with `trust_remote_code=True`. Where the task is registered, nothing needs to be trusted.
    """

    _auto_class = "AutoConfig"
    _pipelines: ClassVar[dict[str, Any]] = {
        TASK: custom_pipeline("pipeline_referring_segmentation.ReferringSegmentationPipeline")
    }

    def __post_init__(self, **kwargs: Any) -> None:
        # This module lies in transformers' cache of remote code only where this package did not load the folder.
        if not type(self).__module__.startswith("transformers_modules."):
            kwargs.pop("custom_pipelines", None)
        super().__post_init__(**kwargs)

    def to_dict(self) -> dict[str, Any]:
        return {**super().to_dict(), "custom_pipelines": self._pipelines}

    def require(self, is_fit: bool, name: str, must_be: str) -> None:
        """Refuse the field `name` with a message, unless its value is fit."""
        if not is_fit:
            raise ValueError(f"`{name}` must be {must_be}, got {getattr(self, name)!r}.")


@strict
class TrainableSegmentationConfig(ReferringSegmentationConfig):
    """
    Base of the configurations of trained models, with the losses of "Mask Grounding for Referring Image Segmentation" (CVPR 2024),
    which any of them takes. The authors released no training code, so the numbers are this project's choice.

    Args:
        mask_grounding_loss_weight (`float`, *optional*, defaults to 0.0):
            Weight of the Mask Grounding loss (section 3.2). At 0 the model has no head for it.
        mask_grounding_layers (`int`, *optional*, defaults to 4):
            Transformer layers of the predictor of hidden words.
        mask_grounding_stages (`Sequence[int]`, *optional*, defaults to `(-1,)`):
            Which of the fused image maps the predictor sees, counted from the first; -1 is the deepest. For small images,
            MagNet's deepest map has few cells, each with several objects in it.
        alignment_loss_weight (`float`, *optional*, defaults to 0.0):
            Weight of the cross-modal alignment loss (section 3.4). At 0 the model has no projections for it.
        alignment_dim (`int`, *optional*, defaults to 256):
            Width of the space in which pixels and expressions are compared.
        alignment_temperature (`float`, *optional*, defaults to 0.1):
            Temperature of both terms of that loss.
        alignment_pixels (`int`, *optional*, defaults to 1024):
            Pixels sampled from each image at most, half of them from the referent.
    """

    # Outputs that `Trainer` leaves aside when it evaluates: the logits alone are compared with the labels.
    keys_to_ignore_at_inference = [
        "loss_dict",
        "auxiliary_logits",
        "class_logits",
        "confidence",
        "hidden_states",
        "pixel_features",
        "word_features",
    ]

    mask_grounding_loss_weight: float | int = 0.0
    mask_grounding_layers: int = 4
    mask_grounding_stages: tuple[int, ...] | list[int] = (-1,)
    alignment_loss_weight: float | int = 0.0
    alignment_dim: int = 256
    alignment_temperature: float | int = 0.1
    alignment_pixels: int = 1024

    @property
    def fused_widths(self) -> list[int]:
        """Channels of the image maps after each fusion with the words, in the order in which the model makes them."""
        raise NotImplementedError

    @property
    def grounding_stages(self) -> list[int]:
        """Indices of the fused maps that the predictor of hidden words sees, each once."""
        return sorted({stage % len(self.fused_widths) for stage in self.mask_grounding_stages})

    def validate_architecture(self):
        super().validate_architecture()
        number = len(self.fused_widths)
        stages_fit = (
            all(-number <= stage < number for stage in self.mask_grounding_stages) and self.mask_grounding_stages
        )
        self.require(bool(stages_fit), "mask_grounding_stages", f"one or more of {-number} to {number - 1}")
        for name in ("mask_grounding_loss_weight", "alignment_loss_weight"):
            self.require(0 <= getattr(self, name) < float("inf"), name, "0 or larger")
        for name, least in (("mask_grounding_layers", 1), ("alignment_dim", 1), ("alignment_pixels", 2)):
            self.require(getattr(self, name) >= least, name, f"at least {least}")
        self.require(self.alignment_temperature > 0, "alignment_temperature", "above 0")


__all__ = ["AUTO_MODEL", "TASK", "ReferringSegmentationConfig", "TrainableSegmentationConfig", "custom_pipeline"]
