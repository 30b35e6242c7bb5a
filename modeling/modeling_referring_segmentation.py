"""What the models of all systems share: how they are trained and saved."""

import os
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedModel

from .configuration_referring_segmentation import AUTO_MODEL


if TYPE_CHECKING:
    # A saved model brings along the code of every module that is imported anywhere in its own: this line adds the pipeline.
    from .pipeline_referring_segmentation import ReferringSegmentationPipeline  # noqa: F401


class ReferringSegmentationPreTrainedModel(PreTrainedModel):
    """Base of the models."""

    _auto_class = AUTO_MODEL
    main_input_name = "pixel_values"
    input_modalities = ("image", "text")
    accepts_loss_kwargs = False  # losses are means over the batch: Trainer must divide them when it accumulates

    def save_pretrained(
        self, save_directory: str | os.PathLike, *args: Any, save_original_format: bool = False, **kwargs: Any
    ) -> None:
        """
        Saves the model with the code it needs, the pipeline's included; arguments as `PreTrainedModel.save_pretrained`.

        By default transformers would write Swin's tensors under their old names, which a resumed training cannot read.
        """
        super().save_pretrained(save_directory, *args, save_original_format=save_original_format, **kwargs)


__all__ = ["ReferringSegmentationPreTrainedModel"]
