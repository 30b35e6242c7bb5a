"""The backend of the demo's page and its API: models by name, requests within bounds, answers as images, tables and files."""

import base64
import io
import json
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from html import escape
from pathlib import Path
from typing import Any, NamedTuple, cast

import gradio as gr
import numpy as np
import torch
from huggingface_hub.errors import GatedRepoError
from PIL import Image
from torch.nn.modules.module import register_module_forward_pre_hook
from transformers import AutoProcessor, Pipeline, pipeline
from transformers.utils import logging

from .auto import load_whole
from .modeling.hub_models import HubModelMixin
from .modeling.inputs import Request, read_request
from .modeling.pipeline_zero_shot_referring_segmentation import ZeroShotReferringSegmentationPipeline
from .results import mask_images, to_plain
from .visitors import VisitorModels, task_of
from .visualization import COLOURS, draw_explanation, draw_overlay, outline


try:  # on a Space with shared GPUs a call has to ask for one
    import spaces
except ImportError:
    on_gpu: Callable[[Any], Any] = lambda function: function  # noqa: E731
else:
    on_gpu = spaces.GPU(duration=60)


logger = logging.get_logger(f"transformers.{__name__}")  # under transformers' verbosity

MOST_EXPRESSIONS = len(COLOURS)
LONGEST_EXPRESSION = 200  # characters
MOST_PIXELS = 50_000_000
LONGEST_SIDE = 2048  # pixels; larger images are reduced to it
LONGEST_ANSWER = 300  # seconds that a visitor's model may compute at a time
FILL_OPACITY = 0.6  # of a mask's fill, where the slider stands at 1
NUM_OUTPUTS = 8  # of the page
HOW_TO_GET_ACCESS = (
    "Whoever runs this page asks for access on the model's page on the Hub, and then logs in with hf auth login; for a Space, "
    "sets its secret HF_TOKEN."
)
PROGRESS = gr.Progress()


class Answers(NamedTuple):
    """The image of a request, its results so far, and a note on the time they took."""

    image: Image.Image
    results: list[dict[str, Any]]
    note: str


class Models:
    """
    Pipelines by their name on the page. Those that the page offers stay loaded, and the one that was asked last among visitors' models.

    Args:
        offered (`dict[str, Callable]`): Name -> function that loads it. Any other name is taken for a Hub id.
    """

    def __init__(self, offered: dict[str, Callable[[], Pipeline]]) -> None:
        self.offered = offered
        self.visitors = VisitorModels()
        self._loaded: dict[str, Pipeline] = {}
        self._loading = {name: threading.Lock() for name in offered}
        self._visited: tuple[str, Path | None, Any] = ("", None, None)

    @contextmanager
    def fetch(self, name: str) -> Iterator[Callable[[], Pipeline]]:
        """
        Bring a model to this machine, and yield the function that loads it. Several may be fetched at a time, one loaded.

        Raises:
            ValueError: If `name` is no Hub id of a model of this library, or the model is very large.
            OSError: If it cannot be fetched.
        """
        if name not in self.offered:
            with self.visitors.use(name) as folder:
                yield partial(self._visit, name, folder)
            return
        with self._loading[name]:
            if name not in self._loaded:
                self._loaded[name] = limit_cache(self.offered[name]())
        yield partial(self._loaded.__getitem__, name)

    def _visit(self, name: str, folder: Path) -> Pipeline:
        if self._visited[:2] != (name, folder):
            self._visited = ("", None, None)  # there need not be room for both
            self._visited = (name, folder, limit_cache(load(str(folder))))
        return self._visited[2]

    def describe_wait(self, name: str) -> str:
        """Say what happens until a model answers."""
        return "asking the model" if self.loaded(name) else "loading the model; the first time it is downloaded"

    def loaded(self, name: str) -> Pipeline | None:
        """The model, if it is loaded."""
        return self._visited[2] if name == self._visited[0] else self._loaded.get(name)


def limit_cache(ris: Pipeline) -> Pipeline:
    """Let a model that remembers images remember one only."""
    if hasattr(ris.model.config, "cache_size"):
        ris.model.config.cache_size = 1
    return ris


def finds_instances(ris: Pipeline) -> bool:
    """Whether a model finds all instances, among which one is chosen, and can say which it found."""
    return "select" in getattr(ris.processor, "answer_options", {})


@contextmanager
def time_limit(name: str) -> Iterator[None]:
    """
    Stop a visitor's model that computes for too long: every module asks before it runs.

    Raises:
        ValueError: If it does.
    """
    end = time.monotonic() + LONGEST_ANSWER

    def check(module: torch.nn.Module, inputs: Any) -> None:
        if time.monotonic() > end:
            raise ValueError(f"{name} computes for more than {LONGEST_ANSWER} seconds; this page stops there.")

    handle = register_module_forward_pre_hook(check)
    try:
        yield
    finally:
        handle.remove()


def load(source: str, **options: Any) -> Pipeline:
    """Load a whole model from a folder or the Hub without code from there; options of `from_pretrained`."""
    task = task_of(source, **options)
    model = load_whole(source, use_safetensors=True, trust_remote_code=False, **options)
    if isinstance(model, HubModelMixin):
        processor = model.processor_class.from_pretrained(source, text_length=model.max_text_length, **options)
    else:
        processor = AutoProcessor.from_pretrained(source, trust_remote_code=False, **options)
    return pipeline(task, model=model, processor=processor, device=device())


def device() -> str:
    if torch.cuda.is_available():  # as Spaces with shared GPUs say
        return "cuda"
    return str(torch.accelerator.current_accelerator()) if torch.accelerator.is_available() else "cpu"


def read_form(path: str | None, text: str) -> Request:
    """
    Read what a visitor filled in: the image, reduced to at most `LONGEST_SIDE` pixels a side, and the expressions, one a line.

    Raises:
        ValueError: If the image or the expressions are missing, or too large.
    """
    if path is None:
        raise ValueError("There is no image yet: drop one, or choose an example.")
    expressions = [line.strip() for line in (text or "").splitlines() if line.strip()]
    if not expressions:
        raise ValueError("There is no expression yet: write what to look for, such as: the red mug on the left.")
    if len(expressions) > MOST_EXPRESSIONS:
        raise ValueError(f"These are {len(expressions)} expressions; the page takes {MOST_EXPRESSIONS} at once.")
    for expression in expressions:
        if len(expression) > LONGEST_EXPRESSION:
            raise ValueError(
                f"The expression {expression[:40]!r} ... has {len(expression)} characters; the page takes up to {LONGEST_EXPRESSION}."
            )
    try:
        with Image.open(path) as header:  # nothing is decoded yet
            pixels = header.width * header.height
    except (OSError, Image.DecompressionBombError) as error:
        raise ValueError("The file is no image that can be read.") from error
    if pixels > MOST_PIXELS:
        raise ValueError(
            f"The image has {pixels / 1e6:.0f} million pixels; the page takes up to {MOST_PIXELS / 1e6:.0f}."
        )
    request = read_request(path, expressions)
    request.image.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
    return request


def find_cause(error: BaseException | None, kind: type[Exception]) -> BaseException | None:
    """Find the error of this kind that led to another one."""
    while error is not None and not isinstance(error, kind):
        error = error.__cause__ or error.__context__
    return error


def explain(error: Exception) -> str:
    """Say in a sentence what went wrong, to a visitor; what is not the visitor's mistake is logged."""
    if isinstance(error, ValueError):
        return str(error)
    if find_cause(error, GatedRepoError):
        return f"This model is gated. {HOW_TO_GET_ACCESS}"
    logger.error("A request failed.", exc_info=error)
    if isinstance(error, OSError):
        return "The model cannot be fetched from the Hub just now; the bundled models need no connection."
    return "Something went wrong here; trying once more, or another model, may help."


def show(answers: Answers) -> Any:
    """Draw the masks with their outlines, each in its own colour, on the image."""
    parts, colours = [], {}
    for number, result in enumerate(answers.results):
        repeated = sum(other["label"] == result["label"] for other in answers.results) > 1
        label = f"{number + 1}. {result['label']}" if repeated else result["label"]
        colours[label] = to_hex(number)
        fill = FILL_OPACITY * np.asarray(result["mask"], dtype=np.float32)
        parts.append((np.maximum(fill, outline(result["mask"], answers.image.size)), label))
    return gr.AnnotatedImage(value=(answers.image, parts), color_map=colours)


def to_hex(number: int) -> str:
    return "#{:02x}{:02x}{:02x}".format(*COLOURS[number % len(COLOURS)])


def to_html(answers: Answers, opacity: float, is_complete: bool = True) -> str:
    """
    Write a table of the answers, and, once they are complete, a link that holds all of them as files: the server keeps none.
    """
    rows = []
    for number, result in enumerate(answers.results):
        box = result["box"]
        share = np.asarray(result["mask"]).mean()
        place = "nothing found" if box is None else "{xmin}, {ymin} to {xmax}, {ymax}".format(**box)
        rows.append(
            f'<tr><td><span class="swatch" style="background:{to_hex(number)}"></span>{escape(result["label"])}</td>'
            f'<td class="number">{result["score"]:.0%}</td><td class="number">{place}</td><td class="number">{share:.1%}</td></tr>'
        )
    link = ""
    if is_complete:
        archive = base64.b64encode(pack(answers, opacity)).decode()
        link = (
            f'<p><a download="masks.zip" href="data:application/zip;base64,{archive}">Download the masks</a> '
            "(images, and all of it as JSON)</p>"
        )
    return (
        '<table class="answers"><thead><tr><th scope="col">expression</th><th scope="col" class="number">score</th>'
        '<th scope="col" class="number">box in pixels</th><th scope="col" class="number">of the image</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>{link}"
    )


def pack(answers: Answers, opacity: float) -> bytes:
    """Zip the masks as images, the overlay and `results.json`."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, mask in mask_images(answers.results):
            archive.writestr(name, _encode(mask, "png"))
        archive.writestr(
            "overlay.jpg", _encode(draw_overlay(answers.image, answers.results, FILL_OPACITY * opacity), "jpeg")
        )
        archive.writestr("results.json", json.dumps(to_plain(answers.results), indent=2, ensure_ascii=False))
    return file.getvalue()


def _encode(image: Image.Image, kind: str) -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


class DemoBackend:
    """
    Answer the page's and the API's requests.

    Args:
        offered (`dict[str, Callable]`): The models to choose from, by name; the first is the default.
    """

    def __init__(self, offered: dict[str, Callable[[], Pipeline]]) -> None:
        self.models = Models(offered)
        self.default = next(iter(offered))
        self._read_lock = threading.Lock()  # large images are decoded one at a time
        self._model_lock = threading.Lock()  # held to load a visitor's model and to ask any, not while one is fetched
        self._on_gpu = on_gpu(self._ask)

    def read(self, path: str | None, text: str) -> Request:
        """Call [`read_form`], for one visitor at a time."""
        with self._read_lock:
            return read_form(path, text)

    def ask(self, name: str, get: Callable[[], Pipeline], request: Request, **options: Any) -> list[dict[str, Any]]:
        """Ask a model that was fetched."""
        with self._model_lock:
            get()  # here: on shared GPUs a process of its own answers, which would forget the model
            return self._on_gpu(name, request, **options)

    def _ask(self, name: str, request: Request, **options: Any) -> list[dict[str, Any]]:
        ris = cast(Any, self.models.loaded(name))
        if finds_instances(ris):  # most expressions say where their referent is, and no detector listens
            options = {"select": "place", **options}
        with nullcontext() if name in self.models.offered else time_limit(name):
            return ris(request, output_format="array", **options)

    def on_choice(self, name: str) -> Iterator[str]:
        """Load a model that a visitor chose, or fetch one that a visitor named, and say how that goes. It is loaded once for all."""
        name = (name or self.default).strip()
        shown = f"**{escape(name)}**"
        try:
            if not self.models.loaded(name):
                yield f"{shown} is loading. The first time it is downloaded, which may take minutes."
            with self.models.fetch(name):
                yield f"{shown} is ready."
        except Exception as error:
            yield f"{shown} cannot be asked. {escape(explain(error))}"

    def on_page(
        self,
        path: str | None,
        text: str,
        name: str,
        threshold: float,
        set_for: str,
        opacity: float,
        progress: Any = PROGRESS,
    ) -> Iterator[tuple[Any, ...]]:
        """
        Answer one expression after the other, so that the first is seen early and the rest can be stopped. Where the threshold was not
        set for this model, the model's own is taken, and the slider moves there.
        """
        name = (name or self.default).strip()
        try:
            request = self.read(path, text)
            image, expressions = request.image, request.expressions
            progress((0, len(expressions)), desc=self.models.describe_wait(name))
            with self.models.fetch(name) as get:
                with self._model_lock:
                    ris = get()
                is_zero_shot = isinstance(ris, ZeroShotReferringSegmentationPipeline)
                slider = gr.skip()
                if not is_zero_shot and name != set_for:
                    slider = threshold = cast(Any, ris.processor).threshold
                options: dict[str, Any] = {} if is_zero_shot else {"threshold": threshold}
                if is_zero_shot or finds_instances(ris):
                    options["explain"] = True
                results: list[dict[str, Any]] = []
                start = time.perf_counter()
                for number, expression in enumerate(expressions, start=1):
                    progress((number - 1, len(expressions)), desc=expression)
                    results += self.ask(name, get, Request(image, [expression]), **options)
                    seconds = time.perf_counter() - start
                    note = f"{number} of {len(expressions)} answered, {seconds:.2f} s on {device()}"
                    is_complete = number == len(expressions)
                    outputs = fill_outputs(Answers(image, results, note), opacity, is_complete)
                    yield slider, set_for if is_zero_shot else name, *outputs
                    slider = gr.skip()  # which may have been moved meanwhile
        except Exception as error:  # the last answer stays
            message = escape(explain(error))
            gr.Warning(message, title="That did not work")
            yield *(gr.skip(),) * (NUM_OUTPUTS - 1), f"That did not work. {message}"

    def on_threshold(
        self, path: str | None, text: str, name: str, threshold: float, opacity: float
    ) -> Iterator[tuple[Any, ...]]:
        """Answer again with a threshold set by hand; do nothing where nothing was asked yet, or the model has no threshold."""
        name = (name or self.default).strip()
        ris = self.models.loaded(name) if path and (text or "").strip() else None
        if ris is None or isinstance(ris, ZeroShotReferringSegmentationPipeline):
            yield gr.skip(), name, *(gr.skip(),) * (NUM_OUTPUTS - 2)
        else:
            yield from self.on_page(path, text, name, threshold, name, opacity)

    def segment(self, image: str, text: str, model: str, threshold: float | None = None) -> list[dict[str, Any]]:
        """
        Segment what expressions refer to in an image. Expressions are lines of `text`, at most 8; `model` is one of the page's or the
        Hub id of a model of hf_ris; `threshold` is the foreground probability above which a pixel counts, by default the model's own. Gives
        a list with a dictionary for each expression: `label`, `score` (0 to 1), `mask` (COCO's run-length code: `size` and `counts`) and
        `box` (xmin, ymin, xmax, ymax in pixels, maxima exclusive; null where nothing was found). Images of more than 2048 pixels a side
        are reduced to that.
        """
        try:
            request = self.read(image, text)
            name = (model or self.default).strip()
            with self.models.fetch(name) as get:
                return to_plain(self.ask(name, get, request, threshold=threshold))
        except Exception as error:
            raise gr.Error(explain(error), title="That did not work", print_exception=False) from error


def fill_outputs(answers: Answers, opacity: float, is_complete: bool) -> tuple[Any, ...]:
    """Fill the page's outputs: overlay, table, JSON, explanation and its tab, note."""
    explains = "explanation" in answers.results[0]
    drawing = draw_explanation(answers.image, answers.results) if explains else None
    tab = gr.Tab(visible=explains)
    return show(answers), to_html(answers, opacity, is_complete), to_plain(answers.results), drawing, tab, answers.note


__all__ = ["DemoBackend", "Models", "device", "load"]
