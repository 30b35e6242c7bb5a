"""What the models of all systems share: one output, how they are saved and uploaded, and model cards as Markdown."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub import file_exists
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from .configuration_referring_segmentation import AUTO_MODEL


if TYPE_CHECKING:
    # A saved model brings along the code of every module that is imported anywhere in its own: this line adds the pipeline.
    from .pipeline_referring_segmentation import ReferringSegmentationPipeline  # noqa: F401


LOGIT = 10.0  # of the zero-shot models, inside of the chosen region


@dataclass
class ReferringSegmentationOutput(ModelOutput):
    """
    What `forward` of every model returns. B images carry k expressions each; N = B·k counts (image, expression) pairs,
    image-major: pair `n` belongs to image `n // k`.

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
            What the published class head says. With one query it does not enter the score.
        hidden_states (`tuple[torch.FloatTensor]`, *optional*, returned with `output_hidden_states=True`):
            The image maps that know the expression, each of shape `(N, c, h, w)`, in the order in which the model makes them.
        pixel_features (`torch.FloatTensor` of shape `(N, d, h, w)`, *optional*, returned with `output_hidden_states=True`):
            The features that the mask is read from.
        word_features (`torch.FloatTensor` of shape `(N, L, d)`, *optional*, returned with `output_hidden_states=True`):
            Word features after the last fusion.
    """

    loss: torch.Tensor | None = None
    loss_dict: dict[str, torch.Tensor] | None = None
    logits: torch.Tensor | None = None
    auxiliary_logits: tuple[torch.Tensor, ...] | None = None
    class_logits: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    pixel_features: torch.Tensor | None = None
    word_features: torch.Tensor | None = None


@dataclass
class ZeroShotSegmentationOutput(ReferringSegmentationOutput):
    """
    What the zero-shot models return: the whole of [`ReferringSegmentationOutput`], where `logits` are +10 inside of the chosen
    region and -10 outside, at the (reduced) picture's size, and -10 beside a picture that is smaller than others of the batch. They
    are made when they are asked for, as `outputs.logits` or `outputs["logits"]`: the chosen regions say the same in less memory.

    Args:
        region_masks (`tuple[torch.BoolTensor]`):
            Of each image, its regions: (r, height, width). There may be none.
        region_scores (`tuple[torch.FloatTensor]`):
            Of each pair, how its score is shared out among the image's regions: (r,), sums to 1.
        picks (`tuple[int | None]`):
            Of each pair, the number of the chosen region; `None` where there is none. Where an expression speaks of places, it
            need not be the one with the largest share.
        terms (`tuple[dict[str, torch.FloatTensor]]`):
            Of each pair, what its score is made of, (r,) each: of Global-Local "score"; of TAS "V", "P" and "N".
        explanations (`tuple[dict]`, *optional*, returned with `explain=True`):
            Of each pair, what was read in the expression and seen in the regions.
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
        logits = torch.full((len(chosen), height, width), -LOGIT)
        for own, mask in zip(logits, chosen, strict=True):
            own[: mask.shape[0], : mask.shape[1]][mask] = LOGIT
        return logits.to(scores[0].device)

    @logits.setter
    def logits(self, value: torch.Tensor | None) -> None:
        """Keeps nothing: the base class sets what it was not given."""

    def __getitem__(self, key: Any) -> Any:
        return self.logits if key == "logits" else super().__getitem__(key)


def chosen_masks(outputs: Any) -> list[torch.Tensor]:
    """Of each pair of a [`ZeroShotSegmentationOutput`], the chosen region, (height, width), or an empty mask."""
    each = len(outputs.picks) // len(outputs.region_masks)
    chosen = []
    for number, pick in enumerate(outputs.picks):
        masks = outputs.region_masks[number // each]
        chosen.append(masks.new_zeros(masks.shape[1:]) if pick is None else masks[pick])
    return chosen


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


HERE = "this folder or its Hub id"  # what a card calls the model until it is published
TAGS = ("referring-image-segmentation", "hf_ris")


def usage(model: str = HERE, picture: str = "photo.jpg", text: str = "the woman in the red coat") -> str:
    """The lines that every card shows, and that are run before a model is published."""
    return f"""import hf_ris
from transformers import pipeline

ris = pipeline("referring-segmentation", model={json.dumps(model)})
answer = ris({json.dumps(picture)}, text={json.dumps(text)})"""


def render_card(
    title: str,
    summary: str,
    details: str,
    licence: str | None = None,
    tags: Sequence[str] = (),
    base_models: Sequence[str] = (),
) -> str:
    """
    Args:
        title (`str`): The heading.
        summary (`str`): What the model is, in a paragraph.
        details (`str`): What stands below the lines that ask it: where its weights are from, and under which licences.
        licence (`str`, *optional*): Of the weights, as the Hub writes licences; left out where it is not known.
        tags (`Sequence[str]`, *optional*): Beside those of every model of this library.
        base_models (`Sequence[str]`, *optional*): Hub ids of what it was made from.
    """
    front = [f"license: {licence}"] if licence else []
    front += ["library_name: transformers", "pipeline_tag: image-segmentation"]
    front += ["tags:", *(f"- {tag}" for tag in (*TAGS, *tags))]
    front += ["base_model:", *(f"- {source}" for source in base_models)] if base_models else []
    metadata = "\n".join(front)
    return f"""---
{metadata}
---

# {title}

{summary}

```python
{usage()}
```

Where `hf_ris` is not installed, the code in this repository does the same with `trust_remote_code=True`.

{details}
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
