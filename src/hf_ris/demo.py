"""The demo: a page where an image and expressions become masks. `hf-ris demo` serves it, and so does the Space."""

import json
import os
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image


try:
    import gradio as gr
except ImportError as error:
    raise ImportError('The demo needs Gradio: run `pip install "hf_ris[demo]"`.') from error

from .data.refshapes import EXAMPLES
from .data.refshapes.rows import scene_rows
from .demo_backend import LONGEST_SIDE, MOST_EXPRESSIONS, DemoBackend, load
from .demo_models import BUNDLED_NAME, Offer, make_offer


LARGEST_FILE = "20mb"
SESSIONS = 64  # visitors whose page Gradio remembers, some megabytes each
CONCURRENT_CHOICES = 4  # visitors whose model is loaded before they ask
CONCURRENT_REQUESTS = 8  # requests that are read, or wait for their model, while one is answered
QUEUE_SIZE = 32  # requests in the queue; further ones are turned away
KEPT_SECONDS = 600  # how long images that are shown or uploaded stay on the server's disk, give or take a minute
SCENES = 100_000

TITLE = "Point at things with words"
INTRODUCTION = "An image and an expression go in, the mask of what the expression refers to comes out. "
WITH_PHOTOS = "Take a photo of your own, or a drawn scene below, which the bundled model answers."
WITHOUT_PHOTOS = """**Photos need a connection to the Hub, which does not answer:** models for them cannot be downloaded. The bundled models
work without, and know drawn scenes only."""
FOOTNOTE = f"Images are reduced to {LONGEST_SIDE} pixels a side, deleted after {KEPT_SECONDS // 60} minutes, and used for nothing else."
SET_OPACITY = "(o) => { document.querySelector('#answer').style.setProperty('--mask-opacity', o); return o; }"
STYLE = """
.gradio-container { max-width: 1200px !important; margin: auto !important; }
#answer img.mask:not(.active):not(.inactive) { opacity: var(--mask-opacity, 0.8); }
#state { padding: 0 var(--block-padding); }
#state p { font-size: var(--text-sm); color: var(--body-text-color-subdued); margin: 0; }
#examples td { white-space: pre-line; }
.answers, .answers thead, .answers tbody, .answers tr { border: 0 !important; }
.answers { width: 100%; border-collapse: collapse; }
.answers th, .answers td { padding: 0.35rem 0.5rem; text-align: left; border: 0 !important;
  border-bottom: 1px solid var(--border-color-primary) !important; }
.answers td.number, .answers th.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
@media (max-width: 640px) { .answers td.number, .answers th.number { white-space: normal; } }
.answers .swatch { display: inline-block; width: 0.9em; height: 0.9em; border-radius: 0.2em; margin-right: 0.5em;
  border: 1px solid var(--body-text-color); vertical-align: -0.1em; }
"""


def draw_me_a_scene() -> tuple[Image.Image, str]:
    """Draw a scene that no model has seen, with an expression for some of its objects, one a line."""
    rows = scene_rows("refshapes", "val", random.randrange(SCENES))
    return rows[0]["image"], "\n".join(random.choice(row["expressions"])["sent"] for row in rows)


def build(offer: Offer, folder: Path) -> gr.Blocks:
    """
    Build the page.

    Args:
        offer ([`Offer`]): The models to choose from.
        folder (`Path`): Folder for the examples' images.
    """
    # Gradio keeps statistics of its last 10,000 requests, and sums all of them up anew after each.
    os.environ.setdefault("GRADIO_ANALYTICS_MAX_EVENTS", "500")
    os.environ.setdefault("GRADIO_ANALYTICS_CACHE_FREQUENCY", "500")
    backend = DemoBackend(offer.models)
    with gr.Blocks(title=TITLE, delete_cache=(60, KEPT_SECONDS), analytics_enabled=False) as page:
        gr.Markdown(f"# {TITLE}\n{INTRODUCTION}{WITH_PHOTOS if offer.takes_photos else WITHOUT_PHOTOS}")
        with gr.Row():
            with gr.Column(min_width=300):
                image, text, go, stop, draw = _question()
                name, state, threshold, opacity = _options(list(offer.models))
            with gr.Column(min_width=300):
                answers = _answers()
        examples = gr.Examples(
            _write_examples(folder),
            [image, text],
            label="Drawn scenes, for the bundled models",
            examples_per_page=4,
            elem_id="examples",
            api_visibility="private",
        )
        gr.Markdown(FOOTNOTE)

        set_for = gr.State("")  # the model whose threshold the slider shows
        outputs = [threshold, set_for, *answers]
        shared: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": CONCURRENT_REQUESTS}
        options: dict[str, Any] = {"api_visibility": "private", **shared}
        asked = gr.on(
            [go.click, text.submit],
            backend.on_page,
            [image, text, name, threshold, set_for, opacity],
            outputs,
            **options,
        )
        again = threshold.input(
            backend.on_threshold,
            [image, text, name, threshold, opacity],
            outputs,
            trigger_mode="always_last",
            show_progress="hidden",
            **options,
        )
        stop.click(None, cancels=[asked, again])
        drawn = draw.click(draw_me_a_scene, None, [image, text], api_visibility="private", concurrency_id="scene")
        if offer.for_drawings:
            choose = f"(name) => {json.dumps(offer.for_drawings)}.includes(name) ? name : {json.dumps(offer.for_drawings[0])}"
            for scene in (drawn, examples.load_input_event):
                scene.then(None, name, name, js=choose)
        name.change(
            backend.on_choice,
            name,
            state,
            api_visibility="private",
            concurrency_id="choice",
            concurrency_limit=CONCURRENT_CHOICES,
            trigger_mode="multiple",
            show_progress="hidden",
        )
        opacity.input(None, opacity, js=SET_OPACITY)  # the browser does this alone
        api = gr.Button(visible=False)
        asked_for = gr.Number(label="Threshold", visible=False)
        api.click(
            backend.segment,
            [image, text, name, asked_for],
            gr.JSON(visible=False),
            api_name="segment",
            **shared,
        )
    return page.queue(max_size=QUEUE_SIZE, default_concurrency_limit=1, api_open=False)


def _find_file(payload: Any) -> Any:
    return payload and payload.path


def _question() -> tuple[Any, ...]:
    image = gr.Image(
        type="filepath",
        image_mode=None,  # the file as it is: nothing is decoded before its size is known
        format="png",
        sources=["upload", "webcam", "clipboard"],
        label="Image",
        placeholder="## Your photo\ndrop or paste it here, choose a file, or take one with the camera",
        height=380,
        elem_id="image",
    )
    # The file as it is: Gradio would open it, and answer for a broken one with its own words and the server's paths.
    image.preprocess = _find_file  # type: ignore[method-assign]
    text = gr.Textbox(
        label="Expressions, one a line",
        lines=3,
        max_lines=MOST_EXPRESSIONS,
        placeholder="the red mug on the left\nthe small tree",
        info="Shift and Enter ask, too.",
        elem_id="expressions",
    )
    with gr.Row():
        go = gr.Button("Segment", variant="primary", min_width=120, elem_id="go")
        stop = gr.Button("Stop", min_width=80, elem_id="stop")
        draw = gr.Button("New scene", min_width=100, elem_id="draw")
    return image, text, go, stop, draw


def _options(names: list[str]) -> tuple[Any, ...]:
    name = gr.Dropdown(
        names,
        value=names[0],
        label="Model",
        info="Or the Hub id, user/name, of a MagNet, CRIS, Global-Local, TAS, CLIPSeg, SAM 3, Florence-2 or saved pair.",
        allow_custom_value=True,
        elem_id="model",
    )
    state = gr.Markdown("A model is loaded when it is first asked or chosen.", elem_id="state")
    with gr.Row():
        threshold = gr.Slider(
            0.05,
            0.95,
            0.5,
            step=0.05,
            label="Threshold",
            info="Starts at each model's own; zero-shot models have none.",
            elem_id="threshold",
        )
        opacity = gr.Slider(
            0.0, 1.0, 0.8, step=0.05, label="Opacity", info="Of the masks over the image.", elem_id="opacity"
        )
    return name, state, threshold, opacity


def _answers() -> list[Any]:
    """The outputs, in the order of [`fill_outputs`]."""
    with gr.Tabs():
        with gr.Tab("Answer"):
            answer = gr.AnnotatedImage(label="Answer", height=380, elem_id="answer")
            table = gr.HTML(elem_id="table")
        with gr.Tab("JSON"):
            plain = gr.JSON(label="Answers, masks as COCO's run-length code", elem_id="json")
        with gr.Tab("Explanation", visible=False) as tab:
            explanation = gr.Image(
                label="What was found, and how it scored",
                interactive=False,
                alt_text="The regions or boxes that were found in the image, numbered, and a table of their scores",
                elem_id="explanation",
            )
    note = gr.Markdown(elem_id="note")
    return [answer, table, plain, explanation, tab, note]


def _write_examples(folder: Path) -> list[list[str]]:
    """Draw the scenes to choose from; gives each one's path and expressions."""
    examples = []
    for number, example in enumerate(EXAMPLES):
        path = folder / f"example-{number}.png"
        example.draw().save(path)
        examples.append([str(path), "\n".join(example.expressions)])
    return examples


def serve(page: gr.Blocks, folder: str | Path, **options: Any) -> Any:
    """Serve a page; options of [`gradio.Blocks.launch`]. Fonts are the visitor's: nothing is fetched from elsewhere."""
    theme = gr.themes.Default(
        primary_hue="indigo", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
    )
    limits: dict[str, Any] = {
        "state_session_capacity": SESSIONS,
        "max_file_size": LARGEST_FILE,
        "allowed_paths": [str(folder)],
        "show_error": True,
    }
    return page.launch(theme=theme, css=STYLE, ssr_mode=False, **limits, **options)


def launch(models: Sequence[str] = (), **options: Any) -> None:
    """
    Serve the page until it is interrupted.

    Args:
        models (`Sequence[str]`, *optional*): Folders or Hub ids to offer beside the models for photos and the bundled ones.
        options: Options of [`gradio.Blocks.launch`].

    Raises:
        ValueError: If a model is of a kind that the page does not take.
        OSError: If a model cannot be found.
    """
    offer = make_offer(models)
    with tempfile.TemporaryDirectory(prefix="hf-ris-demo-") as folder:
        page = build(offer, Path(folder))
        serve(page, folder, **options)


__all__ = ["BUNDLED_NAME", "Offer", "build", "launch", "load", "serve"]
