"""What the models of all systems share: how they are trained and saved."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
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
    _keys_to_ignore_on_load_unexpected = [r"^auxiliary_losses\."]  # whoever sets their weights to 0 leaves them out
    accepts_loss_kwargs = False  # losses are means over the batch: Trainer must divide them when it accumulates

    def save_pretrained(
        self, save_directory: str | os.PathLike, *args: Any, save_original_format: bool = False, **kwargs: Any
    ) -> None:
        """
        Saves the model with the code it needs, the pipeline's included; arguments as `PreTrainedModel.save_pretrained`.

        By default transformers would write Swin's tensors under their old names, which a resumed training cannot read.
        """
        with _own_class(self):
            super().save_pretrained(save_directory, *args, save_original_format=save_original_format, **kwargs)


@contextmanager
def _own_class(model: PreTrainedModel) -> Iterator[None]:
    """torch's FSDP gives models a class of its own, whose code would be saved instead of this library's."""
    spread = type(model)
    if spread.__name__.startswith("FSDP"):
        model.__class__ = spread.__bases__[-1]
    try:
        yield
    finally:
        model.__class__ = spread


__all__ = ["ReferringSegmentationPreTrainedModel"]
