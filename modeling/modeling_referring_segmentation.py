"""What the models of all systems share: how they are trained and saved."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from huggingface_hub import file_exists
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
    takes_regions = False  # whether it chooses among regions, which a call may give
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

    def card(self) -> str | None:
        """What a repository of this model says of it; `None` for the form that transformers has."""
        return None

    def _upload_modified_files(self, working_dir: str, repo_id: str, *args: Any, **kwargs: Any) -> Any:
        put_card(self, working_dir, repo_id, kwargs)
        return super()._upload_modified_files(working_dir, repo_id, *args, **kwargs)


def put_card(model: PreTrainedModel, folder: str, repo_id: str, options: dict[str, Any]) -> None:
    """
    What `push_to_hub` uploads has either main's card or an empty form: instead of the form, a model's own card. The card that a branch
    already has stays.

    Args:
        model ([`ReferringSegmentationPreTrainedModel`]): What is uploaded, alone or with its pipeline.
        folder (`str`): The files that go up.
        repo_id (`str`): Where they go.
        options (`dict[str, Any]`): Of the upload: `token` and `revision`.
    """
    card, path = model.card(), os.path.join(folder, "README.md")
    revision, token = options.get("revision"), options.get("token")
    if revision is not None and file_exists(repo_id, "README.md", revision=revision, token=token):
        os.remove(path)
    elif card is not None and not file_exists(repo_id, "README.md", token=token):
        with open(path, "w", encoding="utf-8") as file:
            file.write(card)


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


__all__ = ["ReferringSegmentationPreTrainedModel", "put_card"]
