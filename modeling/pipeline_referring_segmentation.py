"""The `"referring-segmentation"` pipeline: an image and expressions in, the masks of what they refer to out."""

import collections
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset
from transformers import AutoProcessor
from transformers.pipelines.base import Pipeline
from transformers.utils import logging

from .configuration_referring_segmentation import TASK
from .inputs import NO_PROPOSER, Request, read_request
from .modeling_referring_segmentation import put_card
from .without_torch import (
    ALLOWED_SOURCES,
    OUTPUT_FORMATS,
    as_list,
    check_answer_options,
    check_integer,
    check_seconds,
    make_result,
)


logger = logging.get_logger(f"transformers.{__name__}")  # under transformers' verbosity
READ_OPTIONS = ("timeout", "on_error")
FOR_ZERO_SHOT = ' (it goes with pipeline("zero-shot-referring-segmentation") and its models)'
ANSWER_OPTIONS = ("threshold", "no_target_threshold", "output_format")


class ReferringSegmentationPipeline(Pipeline):
    """
    Finds in an image what an expression refers to.

    Works with every model whose processor is a `SegmentationProcessor`.

    Example:

    ```python
    >>> import hf_ris
    >>> from transformers import pipeline

    >>> ris = pipeline("referring-segmentation")
    >>> ris("scene.png", text="the small red mug left of the tree")
    {'label': 'the small red mug left of the tree', 'score': 0.93, 'mask': <PIL.Image.Image mode=L size=640x480>,
     'box': {'xmin': 31, 'ymin': 214, 'xmax': 118, 'ymax': 305}}
    ```
    """

    # Loaded if it can be: a class of transformers may lack what it needs, and `__init__` finds another.
    _load_processor = None
    # Explicitly off: left unset, transformers probes for each and may ask about remote code.
    _load_tokenizer = False
    _load_image_processor = False
    _load_feature_extractor = False
    _load_video_processor = False

    # Said once in a process, when the model at this path is loaded. A package that bundles a checkpoint fills it in.
    model_notices: ClassVar[dict[str, str]] = {}

    # The keys of an input; the first two are required.
    input_keys: ClassVar[tuple[str, ...]] = ("image", "text")

    def __init__(self, *args, local_files_only: bool = False, **kwargs):
        # `pipeline()` hands `local_files_only` on to us after it has used it.
        model = kwargs["model"] if "model" in kwargs else args[0]
        kwargs["processor"] = _find_processor(model, kwargs.get("processor"), local_files_only)
        with _without_disk(model):
            super().__init__(*args, **kwargs)
        self._check_model()
        self.reader = self._make_reader()
        self.model.eval()
        if notice := self.model_notices.get(self.model.name_or_path):
            logger.warning_once(notice)

    def _check_model(self) -> None:
        """
        Raises:
            ValueError: If this pipeline cannot ask the model.
        """
        if getattr(self.processor, "task", None) != TASK:
            raise ValueError(
                f"`model` is a {type(self.model).__name__} with a {type(self.processor).__name__}, which does not turn outputs "
                f"into masks of expressions; the task needs a model for referring segmentation, such as MagNet, CRIS, Global-Local, "
                "TAS or CLIPSeg, with its own processor."
            )
        text_length, longest = (
            getattr(holder, name, None)
            for holder, name in ((self.processor, "text_length"), (self.model, "max_text_length"))
        )
        if text_length is not None and longest is not None and text_length > longest:
            raise ValueError(
                f"`processor` cuts expressions to {text_length} tokens, and the model has positions for {longest}; set its "
                f"`text_length` to {longest} or less."
            )

    def _make_reader(self) -> "InputReader":
        return InputReader(self.processor, self.input_keys)

    def __call__(self, inputs: Any = None, text: Any = None, *, image: Any = None, **kwargs: Any) -> Any:
        """
        Segment what the expressions refer to.

        Args:
            inputs (an image, a `dict`, a list of either, a dataset or a generator):
                An image is a path, an http(s) or file URL, a base64 string, bytes, an open file, a PIL image, an array or a
                tensor. A `dict` holds an `image` and its `text`, and nothing else; a dataset's rows may have more columns.
                A [`Request`] is an input that is loaded and checked already.
                (Do not pass on a string that a stranger wrote: it may name a file of this machine.)
            text (`str`, a list, array or column of `str`, or a list of those, *optional*):
                The expressions, unless `inputs` hold them: for one image an expression or several; for several images
                one expression for all of them, or a list with the expression (or expressions) of each.
            image (*optional*):
                Another name for `inputs`.
            threshold (`float`, *optional*):
                Foreground probability above which a pixel belongs to the mask; by default the model's published one.
            no_target_threshold (`float`, *optional*):
                A score below this empties the mask, for expressions that may refer to nothing. Off by default.
            output_format (`str`, *optional*, defaults to `"pil"`):
                How masks come back: `"pil"` (mode `"L"`, 0 and 255), `"array"` (boolean, of shape (height, width)) or
                `"rle"` (COCO's compressed run-length code).
            select (`str`, *optional*, defaults to `"best"`), instance_threshold (`float`, *optional*), explain (`bool`, *optional*):
                For models that find instances, SAM 3 and a detector with a segmenter: the best one, the union of `"all"`, or the one at
                the `"place"` that the expression says; the score that one must have; whether each result has an `explanation`. See
                [`InstanceSelection.iterate_segments`].
            batch_size (`int`, *optional*, defaults to 1):
                How many images go through the model at once.
            num_workers (`int`, *optional*, defaults to 0):
                Processes that load and prepare images; threads where the inputs come as a stream.
            timeout (`float`, *optional*, defaults to 30.0):
                Seconds that fetching a URL may take; `None` for as long as it takes.
            on_error (`str`, *optional*, defaults to `"raise"`):
                What to do with an unfit image or expression: `"raise"` ends the call, `"report"` returns a dictionary with
                the message as `error` for this input and continues with the others.

        Returns:
            `dict`, `list[dict]` or `list`: For one expression a dictionary, for a list of expressions a list of them in
            the same order, for a list of inputs a list of those; datasets and generators give an iterator. Each
            dictionary has

            - **label** (`str`) -- The expression.
            - **score** (`float`) -- Confidence between 0 and 1; see the processor's `post_process_referring_segmentation`.
            - **mask** -- The mask, at the size of the (upright) image.
            - **box** (`dict[str, int]` or `None`) -- `xmin`, `ymin`, `xmax`, `ymax` in pixels, maxima exclusive; `None`
              for an empty mask.

        Raises:
            ValueError: If an image, an expression or an option is unfit; the message names it.
        """
        if inputs is not None and image is not None:
            raise ValueError("`image` is another name for `inputs`; give one of the two.")
        for name, least in (("batch_size", 1), ("num_workers", 0)):
            if kwargs.get(name) is not None:
                check_integer(name, kwargs[name], least)
        paired = pair(image if inputs is None else inputs, text, self.input_keys)
        return [] if paired == [] else super().__call__(paired, **kwargs)

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """
        Save the model and its processor, so that `pipeline("referring-segmentation", model=save_directory)` loads both.

        Args:
            save_directory (`str` or `os.PathLike`):
                The folder; made if missing.
            kwargs (`dict[str, Any]`, *optional*):
                Passed on to the model's `save_pretrained`.

        Raises:
            ValueError: If `push_to_hub` is asked for: models and processors take different options for it and make a
                commit each. The pipeline's own `push_to_hub(repo_id)` uploads both in one.
        """
        if kwargs.pop("push_to_hub", False):
            raise ValueError(
                "`push_to_hub` must be left out of `save_pretrained`: call the pipeline's `push_to_hub(repo_id)`, which "
                "uploads the model and its processor in one commit."
            )
        self.model.save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory)

    def _upload_modified_files(self, working_dir: str, repo_id: str, *args: Any, **kwargs: Any) -> Any:
        put_card(self.model, working_dir, repo_id, kwargs)
        return super()._upload_modified_files(working_dir, repo_id, *args, **kwargs)

    def _sanitize_parameters(self, **options: Any) -> tuple[dict, dict, dict]:
        checks = getattr(self.processor, "answer_options", {})
        answer_options = (*ANSWER_OPTIONS, *checks)
        unknown = sorted(set(options) - {*READ_OPTIONS, *answer_options})
        if unknown:
            hint = FOR_ZERO_SHOT if unknown[0] in ("explain", "regions") else ""
            raise TypeError(
                f"{unknown[0]!r} is no option of this pipeline{hint}; allowed are "
                f"{', '.join((*READ_OPTIONS, *answer_options))}."
            )
        for name in checks.keys() & options.keys():
            checks[name](name, options[name])
        check_answer_options(options)
        if options.get("timeout") is not None:
            check_seconds("timeout", options["timeout"])
        if options.get("on_error", "raise") not in (allowed := ["raise", "report"]):
            raise ValueError(f"`on_error` must be one of {allowed}, got {options['on_error']!r}.")
        read, answer = (
            {name: options[name] for name in names if name in options} for names in (READ_OPTIONS, answer_options)
        )
        forward_options = getattr(self.processor, "forward_options", ())  # another task's processor is refused later
        return read, {name: options[name] for name in forward_options if name in options}, answer

    def get_iterator(
        self,
        inputs: Iterable[Any],
        num_workers: int,
        batch_size: int,
        preprocess_params: dict[str, Any],
        forward_params: dict[str, Any],
        postprocess_params: dict[str, Any],
    ) -> Iterator[Any]:
        """
        Batch whole inputs rather than tensors, which is transformers' way: only the processor knows how images and
        different numbers of expressions become tensors.
        """
        prepare = partial(self.reader, **preprocess_params)
        loader: Iterable[Any]
        if isinstance(inputs, collections.abc.Sized):
            loader = DataLoader(
                inputs,  # type: ignore[arg-type]
                batch_size=batch_size,
                num_workers=num_workers,
                collate_fn=prepare,
                generator=torch.Generator(),  # without one of its own it would draw from torch's global numbers
            )
        else:  # a stream cannot be shared out among processes: each would read all of it
            loader = _prepare_stream(inputs, batch_size, num_workers, prepare)
        for groups, errors in loader:
            yield from self.answer(groups, errors, forward_params, postprocess_params)

    def run_single(self, inputs: Any, *params: dict[str, Any]) -> Any:
        preprocess_params, *others = params
        return next(self.answer(*self.preprocess([inputs], **preprocess_params), *others))

    def preprocess(
        self, inputs: list[dict[str, Any]], **options: Any
    ) -> tuple[list[dict[str, Any]], list[str | None]]:
        """Read inputs; see [`InputReader`]."""
        return self.reader(inputs, **options)

    def answer(
        self,
        groups: list[dict[str, Any]],
        errors: list[str | None],
        forward_params: dict[str, Any],
        postprocess_params: dict[str, Any],
    ) -> Iterator[Any]:
        """
        Ask the model about a batch.

        Args:
            groups (`list[dict]`), errors (`list[str | None]`): The output of `preprocess`.
            forward_params, postprocess_params (`dict`): Options of the two steps.

        Yields:
            For each input, in order, its result, or a dictionary with its `error`.
        """
        results: dict[int, Any] = {place: {"error": error} for place, error in enumerate(errors) if error}
        for group in groups:
            found = self.postprocess(self.forward(group, **forward_params), **postprocess_params)
            results |= zip(group["places"], found, strict=True)
        yield from (results[place] for place in range(len(errors)))

    def _forward(self, model_inputs: dict[str, Any], **options: Any) -> dict[str, Any]:
        group = dict(model_inputs)
        features = {
            name: value.to(self.model.dtype)
            if isinstance(value, torch.Tensor) and value.is_floating_point()
            else value
            for name, value in group.pop("features").items()
        }
        return {"outputs": self.model(**{**features, **options}, return_dict=True), **group}

    def postprocess(
        self,
        model_outputs: dict[str, Any],
        threshold: float | None = None,
        no_target_threshold: float | None = None,
        output_format: str = "pil",
        **options: Any,
    ) -> list[dict[str, Any] | list[dict[str, Any]]]:
        """Turn the outputs for a group into one result for each of its inputs."""
        expressions = model_outputs["expressions"]
        sizes = [
            size for texts, size in zip(expressions, model_outputs["sizes"], strict=True) for _ in range(len(texts))
        ]
        # Read and converted one after the other, so that the masks of many expressions are not held together.
        segments = self.processor.iterate_segments(model_outputs["outputs"], sizes, threshold, **options)
        results: list[dict[str, Any] | list[dict[str, Any]]] = []
        for texts, is_single in zip(expressions, model_outputs["is_single"], strict=True):
            answers = [_to_result(label, next(segments), no_target_threshold, output_format) for label in texts]
            results.append(answers[0] if is_single else answers)
        return results


def _find_processor(model: Any, given: Any, local_files_only: bool) -> Any:
    """
    Raises:
        ValueError: If there is none.
        OSError: If the model's files hold none.
    """
    if hasattr(model, "find_processor"):
        given = model.find_processor(given)
    if given is None and model.name_or_path:  # once more, to raise what `pipeline()` has passed over
        found = AutoProcessor.from_pretrained(model.name_or_path, local_files_only=local_files_only)
        if getattr(found, "task", None) != TASK:
            given = found  # which is refused by its name
    if given is None:
        raise ValueError("`processor` is missing; a model passed as an object needs its processor passed beside it.")
    return given


@contextmanager
def _without_disk(model: Any) -> Iterator[None]:
    """Hide the disk from the base class, which sends inputs to the first place of a device map."""
    places = getattr(model, "hf_device_map", None)
    if places and "disk" in places.values():
        running = [place for place in places.values() if place not in ("cpu", "disk")]
        model.hf_device_map = {"": running[0] if running else "cpu"}
    try:
        yield
    finally:
        if places:
            model.hf_device_map = places


class InputReader:
    """
    Turn a batch of inputs into the model's inputs. A reader holds the processor alone, so that processes which prepare batches get no
    copy of the model.

    Args:
        processor (`SegmentationProcessor`): The model's.
        keys (`Sequence[str]`): The keys of an input; `image` and `text` are required.
        needs_regions (`bool`, *optional*, defaults to `False`): Whether `regions` are required, too.
    """

    def __init__(self, processor: Any, keys: Sequence[str], needs_regions: bool = False) -> None:
        self.processor = processor
        self.keys = keys
        self.needs_regions = needs_regions

    def __call__(
        self, inputs: list[Any], timeout: float | None = 30.0, on_error: str = "raise"
    ) -> tuple[list[dict[str, Any]], list[str | None]]:
        """
        Args:
            inputs (`list[dict | Request]`): See [`read`].
            timeout (`float`, *optional*, defaults to 30.0): Seconds that fetching a URL may take.
            on_error (`str`, *optional*, defaults to `"raise"`): "raise", or "report" to go on without unfit inputs.

        Returns:
            Groups of inputs with equally many expressions, since a model takes N = B * k, and for each input an error message or
            `None`. A group holds the model's `features`, and for each of its inputs its number in the batch (`places`), its
            `expressions`, the (height, width) of its image (`sizes`), and `is_single`, whether its text came as one string.

        Raises:
            ValueError: If an input is unfit; the message names it.
        """
        groups: dict[int, dict[int, Request]] = {}
        errors: list[str | None] = [None] * len(inputs)
        for place, given in enumerate(inputs):
            try:
                request = self.read(given, timeout)
            except ValueError as error:
                if on_error == "raise":
                    raise
                errors[place] = str(error)
            else:
                groups.setdefault(len(request.expressions), {})[place] = request
        return [
            {
                "features": dict(self.processor.prepare(list(requests.values()))),
                "places": list(requests),
                "expressions": [request.expressions for request in requests.values()],
                "sizes": [request.size for request in requests.values()],
                "is_single": [request.is_single for request in requests.values()],
            }
            for requests in groups.values()
        ], errors

    def read(self, given: Any, timeout: float | None = 30.0) -> Request:
        """Load and check an input: a dictionary with `image`, `text` and what else is allowed. A request is returned as it is."""
        if isinstance(given, Unreadable):
            raise ValueError(given.reason)
        if not isinstance(given, Request):
            unknown = sorted(map(str, set(given) - set(self.keys)))
            if unknown:
                hint = FOR_ZERO_SHOT if unknown == ["regions"] else ""
                raise ValueError(f"{unknown[0]!r} is no part of an input; allowed are {', '.join(self.keys)}{hint}.")
            for name in ("image", "text"):
                if given.get(name) is None:
                    raise ValueError(
                        f"`{name}` is missing; an input needs both: the call's `text`, or "
                        '{"image": ..., "text": ...} in place of the image.'
                    )
            given = read_request(**given, timeout=timeout)
        if self.needs_regions and given.regions is None:
            raise ValueError(NO_PROPOSER)
        return given


class Unreadable(NamedTuple):
    """An input that cannot be read, with the reason; it is answered with an error in its place."""

    reason: str


def _prepare_stream(
    items: Iterable[Any], batch_size: int, num_workers: int, prepare: Callable[[list[Any]], Any]
) -> Iterator[Any]:
    """Prepare the batches of a stream, in order; with workers, one thread reads ahead and so many others prepare."""
    stream = iter(items)

    def read() -> list[Any]:
        return list(islice(stream, batch_size))

    if num_workers == 0:
        while batch := read():
            yield prepare(batch)
        return
    prepared: collections.deque[Future[Any]] = collections.deque()
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(num_workers) as workers:
        try:
            while True:
                while len(prepared) <= num_workers:
                    batch_ahead = reader.submit(read)
                    prepared.append(
                        workers.submit(lambda ahead: (batch := ahead.result()) and prepare(batch), batch_ahead)
                    )
                if not (result := prepared.popleft().result()):
                    return
                yield result
        finally:  # the caller may have stopped early
            reader.shutdown(wait=False, cancel_futures=True)
            workers.shutdown(wait=False, cancel_futures=True)


class _Rows(torch.utils.data.Dataset):
    """A dataset of any library, with an expression (or several) for each row, or one for all, if the rows hold none."""

    def __init__(self, rows: Any, texts: list[Any] | str | None, keys: Sequence[str]):
        self.rows = rows
        self.texts = texts
        self.keys = keys

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any] | Request | Unreadable:
        try:
            row = self.rows[index]
        except Exception as error:  # datasets decode images here, and decoders raise anything
            return Unreadable(f"row {index} cannot be read: {error}")
        return as_row(row, self.texts[index] if isinstance(self.texts, list) else self.texts, self.keys)


def _to_result(
    label: str, segment: dict[str, Any], no_target_threshold: float | None, output_format: str
) -> dict[str, Any]:
    further = dict(segment)
    mask, score = further.pop("mask"), further.pop("score")
    return {**make_result(label, mask.cpu().numpy(), score, no_target_threshold, output_format), **further}


def pair(inputs: Any, text: Any, keys: Sequence[str]) -> Any:
    """
    Bring every kind of call into the kinds that transformers' pipelines know: one item, a list, a dataset, a generator.

    Args:
        inputs, text: The arguments of the call.
        keys (`Sequence[str]`): The keys of an input. Rows of datasets may have other columns.

    Raises:
        ValueError: If `inputs` are none, or `text` does not fit them.
    """
    if isinstance(inputs, np.ndarray) and inputs.dtype.kind in "UO":  # of paths, not of pixels
        inputs = inputs.tolist()
    if is_item(inputs):
        return as_item(inputs, text)
    if is_table := hasattr(inputs, "iloc"):  # pandas counts by label
        inputs = inputs.to_dict("records") if inputs.ndim == 2 else inputs.tolist()
    texts = text if text is None or isinstance(text, str) else as_list(text)
    if text is not None and texts is None:
        raise ValueError(f"`text` must be a string or a list of strings, got {type(text).__name__}.")
    is_sequence = (
        not isinstance(inputs, IterableDataset) and hasattr(inputs, "__len__") and hasattr(inputs, "__getitem__")
    )
    if is_sequence and isinstance(texts, list) and len(texts) != len(inputs):
        raise ValueError(
            f"`text` holds {len(texts)} entries for {len(inputs)} images; give one expression (or one list of them) for "
            "each image, or a single string for all."
        )
    if isinstance(inputs, list | tuple) and not is_table:
        texts = texts if isinstance(texts, list) else [texts] * len(inputs)
        return [as_item(item, each) for item, each in zip(inputs, texts, strict=True)]
    if is_sequence:
        return _Rows(inputs, texts, keys)
    if isinstance(texts, list):
        raise ValueError(
            f"`text` must be one string when the images come from a stream or a generator, got {type(text).__name__}; "
            "yield dictionaries with `image` and `text` to give each its own."
        )
    if isinstance(inputs, Iterator):
        return (as_item(item, texts) for item in inputs)
    if isinstance(inputs, Iterable):  # a dataset that is read as a stream
        return (as_row(item, texts, keys) for item in inputs)
    raise ValueError(
        f"`inputs` must be an image ({ALLOWED_SOURCES}), a dictionary with `image` and `text`, or a list, dataset or generator "
        f"of those, got {type(inputs).__name__}."
    )


def is_item(value: Any) -> bool:
    """Whether this is one input, and not a collection of them."""
    kinds = (
        str | bytes | bytearray | memoryview | os.PathLike | dict | Request | Image.Image | np.ndarray | torch.Tensor
    )
    return isinstance(value, kinds) or hasattr(value, "read")


def as_item(value: Any, text: Any) -> dict[str, Any] | Request | Unreadable:
    """One input as a dictionary with `image` and `text`, or the request that it is."""
    if isinstance(value, Unreadable):
        return value
    if not isinstance(value, dict | Request):
        return {"image": value, "text": text}
    if text is None:
        return value
    if isinstance(value, Request) or value.get("text") is not None:
        raise ValueError("`text` was given twice: as an argument and inside the inputs.")
    return {**value, "text": text}


def as_row(row: Any, text: Any, keys: Sequence[str]) -> dict[str, Any] | Request | Unreadable:
    """A row of a dataset as one input, without its other columns."""
    return as_item({name: row[name] for name in keys if name in row} if isinstance(row, dict) else row, text)


__all__ = ["OUTPUT_FORMATS", "InputReader", "ReferringSegmentationPipeline", "Unreadable", "as_item", "is_item"]
