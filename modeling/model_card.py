"""Model cards, as Markdown: metadata, what a model is, how it is asked, and what its author adds."""

import json
from collections.abc import Sequence


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


__all__ = ["HERE", "TAGS", "render_card", "usage"]
