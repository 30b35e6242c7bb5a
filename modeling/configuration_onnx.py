"""The configuration of a model that was exported to ONNX."""

from transformers import PreTrainedConfig


class OnnxReferringSegmentationConfig(PreTrainedConfig):
    """
    What `hf-ris export` wrote into `config.json`, which [`ExportedModel`] reads.

    Args:
        system (`str`, *optional*, defaults to `"magnet"`): The `model_type` of the model that was exported.
    """

    model_type = "onnx_referring_segmentation"

    system: str = "magnet"


__all__ = ["OnnxReferringSegmentationConfig"]
