"""Parts that the models of all systems share: the output, saving and uploading, and model cards as Markdown."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub import ModelCardData, file_exists
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from .configuration_referring_segmentation import AUTO_MODEL


if TYPE_CHECKING:
    # A saved model carries the code of every module that its own modules import: this line adds the pipeline.
    from .pipeline_referring_segmentation import ReferringSegmentationPipeline  # noqa: F401


REGION_LOGIT = 10.0  # inside the chosen region of a zero-shot model


@dataclass
class ReferringSegmentationOutput(ModelOutput):
    """
    Output of every model's `forward`. B images carry k expressions each; N = B·k counts (image, expression) pairs, image-major:
    pair `n` belongs to image `n // k`.

    Args:
        loss (`torch.FloatTensor` of shape `()`, *optional*, returned when `labels` is given):
            The weighted sum of `loss_dict`.
        loss_dict (`dict[str, torch.FloatTensor]`, *optional*, returned when `labels` is given):
            Every weighted term of the loss, detached, by name.
        logits (`torch.FloatTensor` of shape `(N, h, w)`):
            Per-pixel log-odds of belonging to the referent, at the model's own stride.
        auxiliary_logits (`tuple[torch.FloatTensor]`, *optional*, returned when training):
            The earlier predictions of a decoder that predicts more than once, each of the shape of `logits`.
        class_logits (`torch.FloatTensor` of shape `(N, 2)`, *optional*):
            Output of the published class head: a mask, or none.
        confidence (`torch.FloatTensor` of shape `(N,)`, *optional*):
            Probability that the mask is right, its IoU above 0.5; of models that were trained to know it. It is the answer's score.
        hidden_states (`tuple[torch.FloatTensor]`, *optional*, returned with `output_hidden_states=True`):
            The image maps after each fusion with the words, each of shape `(N, c, h, w)`, in the order in which the model makes them.
        pixel_features (`torch.FloatTensor` of shape `(N, d, h, w)`, *optional*, returned with `output_hidden_states=True`):
            The pixel features that the mask is read from.
        word_features (`torch.FloatTensor` of shape `(N, L, d)`, *optional*, returned with `output_hidden_states=True`):
            Word features after the last fusion.
    """

    loss: torch.Tensor | None = None
    loss_dict: dict[str, torch.Tensor] | None = None
    logits: torch.Tensor | None = None
    auxiliary_logits: tuple[torch.Tensor, ...] | None = None
    class_logits: torch.Tensor | None = None
    confidence: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    pixel_features: torch.Tensor | None = None
    word_features: torch.Tensor | None = None


@dataclass
class ZeroShotSegmentationOutput(ReferringSegmentationOutput):
    """
    Output of the zero-shot models. `logits` are +10 inside the chosen region and -10 elsewhere, also beside an image that is smaller
    than others of its batch. They are computed when they are read, as `outputs.logits` or `outputs["logits"]`: the chosen regions
    hold the same in less memory.

    Args:
        region_masks (`tuple[torch.BoolTensor]`):
            For each image its regions, (r, height, width), at the size the model saw. There may be none. Where a detector finds them,
            those of each pair instead, and without `explain` the chosen one alone.
        region_scores (`tuple[torch.FloatTensor]`):
            For each pair the scores of the image's regions after softmax, (r,).
        picks (`tuple[int | None]`):
            For each pair the index of the chosen region; `None` where there is none. Where an expression names a place, it need not
            be the region with the largest score.
        terms (`tuple[dict[str, torch.FloatTensor]]`):
            For each pair the terms of its score, (r,) each: Global-Local has "score"; TAS has "V", "P" and "N";
            with a detector there is "D".
        explanations (`tuple[dict]`, *optional*, returned with `explain=True`):
            For each pair what was read in the expression and measured on the regions.
    """

    region_masks: tuple[torch.Tensor, ...] | None = None
    region_scores: tuple[torch.Tensor, ...] | None = None
    picks: tuple[int | None, ...] | None = None
    terms: tuple[dict[str, torch.Tensor], ...] | None = None
    explanations: tuple[dict[str, Any], ...] | None = None

    @property  # type: ignore[misc]  # an attribute of the base class
    def logits(self) -> torch.Tensor | None:
        masks, scores = self.region_masks, self.region_scores
        if "region_masks" not in self or masks is None or scores is None:  # while it is made
            return None
        chosen = chosen_masks(self)
        height, width = (max(each.shape[axis] for each in masks) for axis in (1, 2))
        logits = torch.full((len(chosen), height, width), -REGION_LOGIT)
        for row, mask in zip(logits, chosen, strict=True):
            row[: mask.shape[0], : mask.shape[1]][mask] = REGION_LOGIT
        return logits.to(scores[0].device)

    @logits.setter
    def logits(self, value: torch.Tensor | None) -> None:
        """Keep nothing: the base class sets every field."""

    def __getitem__(self, key: Any) -> Any:
        return self.logits if key == "logits" else super().__getitem__(key)


def chosen_masks(outputs: Any) -> list[torch.Tensor]:
    """The chosen region of each pair of a [`ZeroShotSegmentationOutput`], (height, width), or an empty mask."""
    per_image = len(outputs.picks) // len(outputs.region_masks)
    chosen = []
    for number, pick in enumerate(outputs.picks):
        masks = outputs.region_masks[number // per_image]
        chosen.append(masks.new_zeros(masks.shape[1:]) if pick is None else masks[pick])
    return chosen


class ReferringSegmentationPreTrainedModel(PreTrainedModel):
    """Base of the models."""

    _auto_class = AUTO_MODEL
    main_input_name = "pixel_values"
    input_modalities = ("image", "text")
    _keys_to_ignore_on_load_unexpected = [
        r"^auxiliary_losses\."
    ]  # saved with them, and loaded with their weights set to 0
    takes_regions = False  # whether it chooses among regions, which a call may give
    accepts_loss_kwargs = False  # losses are means over the batch: Trainer must divide them when it accumulates

    def _initialize_weights(self, module: nn.Module, is_custom_code: bool = False) -> None:
        # Of custom models transformers leaves out modules without parameters of their own, lest code that writes in place
        # undoes what was loaded. `_init_weights` here uses transformers' functions, which leave loaded parameters alone.
        super()._initialize_weights(module)

    def save_pretrained(
        self, save_directory: str | os.PathLike, *args: Any, save_original_format: bool = False, **kwargs: Any
    ) -> None:
        """
        Save the model with the code it needs, the pipeline's included; arguments as in `PreTrainedModel.save_pretrained`.

        By default transformers would write Swin's tensors under their old names, which a resumed training cannot read.
        """
        fsdp_class = type(self)
        if fsdp_class.__name__.startswith(
            "FSDP"
        ):  # torch's subclass, whose code would be saved instead of this library's
            self.__class__ = fsdp_class.__bases__[-1]
        try:
            super().save_pretrained(save_directory, *args, save_original_format=save_original_format, **kwargs)
        finally:
            self.__class__ = fsdp_class

    def card(self) -> str | None:
        """The model's card as Markdown; `None` for transformers' form."""
        return None

    def describe_settings(self) -> str:
        """Settings that the answers depend on, besides weights, images and expressions."""
        return self.config.to_json_string()

    def _upload_modified_files(self, working_dir: str, repo_id: str, *args: Any, **kwargs: Any) -> Any:
        put_card(self, working_dir, repo_id, kwargs)
        return super()._upload_modified_files(working_dir, repo_id, *args, **kwargs)


def put_card(model: PreTrainedModel, folder: str, repo_id: str, options: dict[str, Any]) -> None:
    """
    Write the model's card into the folder that `push_to_hub` is about to upload, in place of transformers' form, unless the
    repository has a card already.

    Args:
        model ([`ReferringSegmentationPreTrainedModel`]): The model that is uploaded, alone or with its pipeline.
        folder (`str`): The files to upload.
        repo_id (`str`): The repository.
        options (`dict[str, Any]`): The upload's options, such as `token` and `revision`.
    """
    card, path = model.card(), os.path.join(folder, "README.md")
    revision, token = options.get("revision"), options.get("token")
    if revision is not None and file_exists(repo_id, "README.md", revision=revision, token=token):
        os.remove(path)
    elif card is not None and not file_exists(repo_id, "README.md", token=token):
        with open(path, "w", encoding="utf-8") as file:
            file.write(card)


HERE = "this folder or its Hub id"  # stands for the model's id on a card until it is published
TAGS = ("referring-image-segmentation", "hf_ris")


def usage(model: str = HERE, image: str = "photo.jpg", text: str = "the woman in the red coat") -> str:
    """Write the lines of Python that every card shows, and that are run before a model is published."""
    return f"""import hf_ris
from transformers import pipeline

ris = pipeline("referring-segmentation", model={json.dumps(model)})
answer = ris({json.dumps(image)}, text={json.dumps(text)})"""


def render_card(
    title: str,
    summary: str,
    details: str,
    licence: str | None = None,
    tags: Sequence[str] = (),
    base_models: Sequence[str] = (),
    carries_code: bool = True,
) -> str:
    """
    Write a model card as Markdown.

    Args:
        title (`str`): The heading.
        summary (`str`): A paragraph that says what the model is.
        details (`str`): The text below the lines of Python: where the weights are from, and their licences.
        licence (`str`, *optional*): The weights' licence, as the Hub writes licences; left out where it is not known.
        tags (`Sequence[str]`, *optional*): Tags beside those of every model of this library.
        base_models (`Sequence[str]`, *optional*): Hub ids of the models it was made from.
        carries_code (`bool`, *optional*, defaults to `True`): Whether its code lies beside it; transformers has that of others.
    """
    code = (
        "Where `hf_ris` is not installed, the code in this repository does the same with `trust_remote_code=True`.\n\n"
    )
    data = ModelCardData(
        license=licence,
        library_name="transformers",
        pipeline_tag="image-segmentation",
        tags=[*TAGS, *tags],
        base_model=list(base_models) or None,
    )
    return f"""---
{data.to_yaml()}
---

# {title}

{summary}

```python
{usage()}
```

{code if carries_code else ""}{details}
"""


__all__ = [
    "HERE",
    "ReferringSegmentationOutput",
    "ReferringSegmentationPreTrainedModel",
    "TAGS",
    "ZeroShotSegmentationOutput",
    "chosen_masks",
    "put_card",
    "render_card",
    "usage",
]
