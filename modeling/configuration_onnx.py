"""The configuration of a model that was exported to ONNX."""

from transformers import PreTrainedConfig


class OnnxReferringSegmentationConfig(PreTrainedConfig):
    """
    The content of a `config.json` that `hf-ris export` wrote; [`~hf_ris.onnx.ExportedModel`] reads the rest of it.

    Args:
        system (`str`, *optional*, defaults to `"magnet"`): The `model_type` of the model that was exported.
    """

    model_type = "onnx_referring_segmentation"

    system: str = "magnet"


__all__ = ["OnnxReferringSegmentationConfig"]
