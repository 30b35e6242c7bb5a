"""Cards of published models: what a model is, how it is used, its licence, and what was measured."""

import re
from collections.abc import Sequence
from typing import Any

from huggingface_hub import EvalResult, ModelCard
from transformers import PreTrainedModel

from .modeling.modeling_referring_segmentation import HERE, render_card, usage
from .reporting import table
from .systems import SYSTEMS


SECTION = re.compile(r"<!-- evaluation -->.*?<!-- /evaluation -->", re.DOTALL)
METRICS = ("oIoU", "mIoU", "P@0.5", "P@0.7", "P@0.9")


def trained_card(title: str, model: PreTrainedModel, licence: str | None, note: str = "") -> ModelCard:
    """
    Make the card of a trained model.

    Args:
        title (`str`): The heading.
        model (`PreTrainedModel`): The model.
        licence (`str`, *optional*): The weights' licence, as the Hub writes licences; `None` where it is not known.
        note (`str`, *optional*): A sentence on how it was trained.
    """
    rows = [["weights", licence or "not stated"], ["code in this repository", "apache-2.0"]]
    details = f"## Licences\n\n{table(['', 'licence'], rows)}"
    size = f"{model.num_parameters() / 1e6:.1f} million parameters"
    summary = f"A model of {SYSTEMS[model.config.model_type].link} with {size}. {note}".rstrip()
    return ModelCard(render_card(title, summary, details, licence))


def add_results(card: ModelCard, name: str, results: Sequence[dict[str, Any]]) -> None:
    """
    Put figures on a card: into its metadata, which the Hub shows beside it, and into a table.

    Args:
        card ([`~huggingface_hub.ModelCard`]): Changed in place.
        name (`str`): The model's name in the metadata.
        results (`Sequence[dict]`): The content of `results.json` files of `hf-ris evaluate`.
    """
    data: Any = card.data
    data.model_name = name
    data.metrics = ["mean_iou"]
    data.eval_results = [
        EvalResult(
            task_type="image-segmentation",
            task_name="Referring image segmentation",
            dataset_type=result["dataset"].partition(" ")[0],
            dataset_name=result["dataset"],
            dataset_config=f"{result['protocol']} protocol, {result['text_column']} text, {result['expressions']} expressions",
            dataset_split=result["dataset"].partition(" ")[2] or None,
            metric_type=metric.lower(),
            metric_name=metric,
            metric_value=round(result[metric], 5),
        )
        for result in results
        for metric in METRICS
    ]
    header = ("dataset", "protocol", "text", "expressions", *METRICS)
    rows = [
        [result["dataset"], result["protocol"], result["text_column"], str(result["expressions"])]
        + [f"{result[metric]:.3f}" for metric in METRICS]
        for result in results
    ]
    section = f"<!-- evaluation -->\n{table(header, rows)}\n\nMeasured by `hf-ris evaluate`.\n<!-- /evaluation -->"
    if SECTION.search(card.text):
        card.text = SECTION.sub(lambda _: section, card.text)
    else:
        card.text = f"{card.text.rstrip()}\n\n## Evaluation\n\n{section}\n"


__all__ = ["HERE", "METRICS", "add_results", "trained_card", "usage"]
