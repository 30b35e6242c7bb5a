"""The `"referring-segmentation"` pipeline: an image and expressions in, the masks of what they refer to out."""

import collections
import numbers
import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset
from transformers.pipelines.base import Pipeline
from transformers.utils import logging

from .image_inputs import load_image
from .masks import mask_to_box, mask_to_rle
from .modeling_referring_segmentation import put_card
from .text_inputs import check_expressions


logger = logging.get_logger(__name__)


def _to_pil(mask: np.ndarray) -> Image.Image:
    return Image.fromarray(mask.astype(np.uint8) * 255)


OUTPUT_FORMATS: dict[str, Callable[[np.ndarray], Any]] = {"pil": _to_pil, "array": np.asarray, "rle": mask_to_rle}


class ReferringSegmentationPipeline(Pipeline):
    """
    Finds in an image what an expression refers to.

    Works with every model whose outputs hold `logits` of shape (N, height, width) and whose processor turns them into
    masks with `post_process_referring_segmentation`.

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

    _load_processor = True
    # Explicitly off: left unset, transformers probes for each and may ask about remote code.
    _load_tokenizer = False
    _load_image_processor = False
    _load_feature_extractor = False
    _load_video_processor = False

    # What to say, once in a process, when the model at this path is loaded. A package that bundles a checkpoint fills
    # it in.
    model_notices: ClassVar[dict[str, str]] = {}

    def __init__(self, *args, local_files_only: bool = False, **kwargs):
        # `pipeline()` hands `local_files_only` on to us after it has used it.
        super().__init__(*args, **kwargs)
        if self.processor is None:
            raise ValueError(
                "`processor` is missing; a model passed as an object needs its processor passed beside it."
            )
        self.model.eval()
        if notice := self.model_notices.get(self.model.name_or_path):
            logger.warning_once(notice)

    def __call__(self, inputs: Any = None, text: Any = None, *, image: Any = None, **kwargs: Any) -> Any:
        """
        Segment what the expressions refer to.

        Args:
            inputs (an image, a `dict`, a list of either, a dataset or a generator):
                An image is a path, an http(s) URL, a base64 string, a PIL image, an array or a tensor. A `dict` holds an
                `image` and its `text`, as do the rows of a dataset.
            text (`str`, `list[str]` or `list[list[str]]`, *optional*):
                What to look for, where `inputs` does not say: for one image an expression or several; for a list of
                images one expression for all of them, or a list with the expression (or expressions) of each.
            image (*optional*):
                Another name for `inputs`, as dictionaries and rows call it.
            threshold (`float`, *optional*):
                Foreground probability above which a pixel belongs to the mask; by default the model's published one.
            no_target_threshold (`float`, *optional*):
                A score below this empties the mask, for expressions that may refer to nothing. Off by default.
            output_format (`str`, *optional*, defaults to `"pil"`):
                How masks come back: `"pil"` (mode `"L"`, 0 and 255), `"array"` (boolean, of shape (height, width)) or
                `"rle"` (COCO's compressed run-length code).
            batch_size (`int`, *optional*, defaults to 1):
                How many images go through the model at once.
            num_workers (`int`, *optional*, defaults to 0):
                Processes that load and prepare images.
            timeout (`float`, *optional*, defaults to 30.0):
                Seconds to wait for a URL.
            on_error (`str`, *optional*, defaults to `"raise"`):
                What becomes of an unfit image or expression: `"raise"` ends the call, `"report"` puts a dictionary with
                the message as `error` in the place of this input's result and goes on with the others.

        Returns:
            `dict`, `list[dict]` or `list`: For one expression a dictionary, for a list of expressions a list of them in
            the same order, for a list of inputs a list of those; datasets and generators give an iterator. Each
            dictionary has

            - **label** (`str`) -- The expression.
            - **score** (`float`) -- How sure the model is, between 0 and 1; see the model.
            - **mask** -- The mask, at the size of the (upright) image.
            - **box** (`dict[str, int]` or `None`) -- `xmin`, `ymin`, `xmax`, `ymax` in pixels, maxima exclusive; `None`
              for an empty mask.

        Raises:
            ValueError: If an image, an expression or an option is unfit; the message names it.
        """
        if inputs is not None and image is not None:
            raise ValueError("`image` is another name for `inputs`; give one of the two.")
        paired = _pair(image if inputs is None else inputs, text)
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
        put_card(self.model, working_dir, repo_id, kwargs.get("token"))
        return super()._upload_modified_files(working_dir, repo_id, *args, **kwargs)

    def _sanitize_parameters(
        self,
        threshold: float | None = None,
        no_target_threshold: float | None = None,
        output_format: str | None = None,
        timeout: float | None = None,
        on_error: str | None = None,
    ) -> tuple[dict, dict, dict]:
        for name, value in (("threshold", threshold), ("no_target_threshold", no_target_threshold)):
            if value is None:
                continue
            # A boolean is a number to Python, but no threshold.
            if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0.0 <= value <= 1.0:
                raise ValueError(f"`{name}` must be a number between 0 and 1, got {value!r}.")
        if output_format is not None and output_format not in OUTPUT_FORMATS:
            raise ValueError(f"`output_format` must be one of {list(OUTPUT_FORMATS)}, got {output_format!r}.")
        if on_error not in (None, "raise", "report"):
            raise ValueError(f"`on_error` must be 'raise' or 'report', got {on_error!r}.")
        preprocess = {"timeout": timeout, "on_error": on_error}
        postprocess = {
            "threshold": threshold,
            "no_target_threshold": no_target_threshold,
            "output_format": output_format,
        }
        return _given(preprocess), {}, _given(postprocess)

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
        Batch whole inputs rather than tensors, which is transformers' way: only the processor knows how pictures and
        different numbers of expressions become one batch.
        """
        loader = DataLoader(
            inputs if isinstance(inputs, collections.abc.Sized) else _Stream(inputs),  # type: ignore[arg-type]
            batch_size=batch_size,
            # A stream cannot be shared out: every process would read all of it.
            num_workers=num_workers if isinstance(inputs, collections.abc.Sized) else 0,
            collate_fn=partial(self.preprocess, **preprocess_params),
        )
        for batch, errors in loader:
            results = iter(
                self.postprocess(self.forward(batch, **forward_params), **postprocess_params) if batch else []
            )
            yield from ({"error": error} if error else next(results) for error in errors)

    def run_single(self, inputs: Any, *params: dict[str, Any]) -> Any:
        return next(self.get_iterator([inputs], 0, 1, *params))

    def preprocess(
        self, inputs: list[dict[str, Any]], timeout: float | None = 30.0, on_error: str = "raise"
    ) -> tuple[dict[str, Any], list[str | None]]:
        """
        Turn a batch of inputs into the model's tensors, and tell what is wrong with each input, if anything.

        The batch has the same number of expressions for each image, since the model wants N = B * k: a shorter list
        repeats its last expression, and `postprocess` drops what comes of that.
        """
        items: list[dict[str, Any]] = []
        errors: list[str | None] = []
        for item in inputs:
            try:
                _check_item(item)
                texts = check_expressions(item["text"])
                image = load_image(item["image"], timeout=timeout)
                self._check_regions(item.get("regions"), image)
            except ValueError as error:
                if on_error == "raise":
                    raise
                errors.append(str(error))
            else:
                is_single = isinstance(item["text"], str)
                items.append({**item, "image": image, "expressions": texts, "is_single": is_single})
                errors.append(None)
        if not items:
            return {}, errors

        longest = max(len(item["expressions"]) for item in items)
        padded = []
        for item in items:
            padded += item["expressions"] + item["expressions"][-1:] * (longest - len(item["expressions"]))
        return {
            "features": dict(self._encode(items, padded)),
            "expressions": [item["expressions"] for item in items],
            "sizes": [(item["image"].height, item["image"].width) for item in items],
            "is_single": [item["is_single"] for item in items],
        }, errors

    def _check_regions(self, regions: Any, image: Image.Image) -> None:
        """What of an input only the task with zero-shot in its name takes: other models have no use for it."""
        if regions is not None and hasattr(self.model, "find_regions"):
            raise ValueError('`regions` go with pipeline("zero-shot-referring-segmentation").')

    def _encode(self, items: list[dict[str, Any]], texts: list[str]) -> Any:
        """The model's tensors for inputs whose `image` is loaded; `texts` has the same number of expressions for each."""
        return self.processor(images=[item["image"] for item in items], text=texts, return_tensors="pt")

    def _forward(self, model_inputs: dict[str, Any], **options: Any) -> dict[str, Any]:
        features = {
            name: value.to(self.model.dtype)
            if isinstance(value, torch.Tensor) and value.is_floating_point()
            else value
            for name, value in model_inputs.pop("features").items()
        }
        return {"outputs": self.model(**features, **options), **model_inputs}

    def postprocess(
        self,
        model_outputs: dict[str, Any],
        threshold: float | None = None,
        no_target_threshold: float | None = None,
        output_format: str = "pil",
    ) -> list[dict[str, Any] | list[dict[str, Any]]]:
        """Turn the outputs for a batch into one result for each of its inputs."""
        expressions, sizes = model_outputs["expressions"], model_outputs["sizes"]
        longest = max(map(len, expressions))
        target_sizes = [
            # The repeated expressions that only fill the batch get a mask of one pixel: it is thrown away.
            size if index < len(texts) else (1, 1)
            for texts, size in zip(expressions, sizes, strict=True)
            for index in range(longest)
        ]
        options = {} if threshold is None else {"threshold": threshold}
        segments = self.processor.post_process_referring_segmentation(
            model_outputs["outputs"], target_sizes, **options
        )

        results: list[dict[str, Any] | list[dict[str, Any]]] = []
        for start, texts, is_single in zip(
            range(0, len(segments), longest), expressions, model_outputs["is_single"], strict=True
        ):
            answers = [
                _answer(label, segments[start + index], no_target_threshold, OUTPUT_FORMATS[output_format])
                for index, label in enumerate(texts)
            ]
            results.append(answers[0] if is_single else answers)
        return results


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


class _Stream(IterableDataset):
    """Lets a `DataLoader` read from any iterable."""

    def __init__(self, items: Iterable[Any]):
        self.items = items

    def __iter__(self) -> Iterator[Any]:
        return iter(self.items)


class _Rows(torch.utils.data.Dataset):
    """A dataset of any library, with one expression for all its rows if they hold none."""

    def __init__(self, rows: Any, text: str | None):
        self.rows = rows
        self.text = text

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        try:
            return as_item(self.rows[index], self.text)
        except Exception as error:  # datasets decode pictures here, and decoders raise anything
            return {"error": f"row {index} cannot be read: {error}"}


def _answer(
    label: str, segment: dict[str, Any], no_target_threshold: float | None, convert: Callable[[np.ndarray], Any]
) -> dict[str, Any]:
    mask = segment["mask"].cpu().numpy()
    if no_target_threshold is not None and segment["score"] < no_target_threshold:
        mask = np.zeros_like(mask)
    return {"label": label, "score": segment["score"], "mask": convert(mask), "box": mask_to_box(mask)}


def _pair(inputs: Any, text: Any) -> Any:
    """Bring every kind of call into what transformers' pipelines tell apart: one item, a list, a dataset, a generator."""
    if is_item(inputs):
        return as_item(inputs, text)
    if isinstance(inputs, list | tuple):
        if isinstance(text, list | tuple) and len(text) != len(inputs):
            raise ValueError(
                f"`text` holds {len(text)} entries for {len(inputs)} images; give one expression (or one list of them) for "
                "each image, or a single string for all."
            )
        texts = text if isinstance(text, list | tuple) else [text] * len(inputs)
        return [as_item(item, own) for item, own in zip(inputs, texts, strict=True)]
    if text is not None and not isinstance(text, str):
        raise ValueError(
            f"`text` must be one string when the images come from a dataset or a generator, got {type(text).__name__}; "
            "yield dictionaries with `image` and `text` to give each its own."
        )
    # Streams of torch may have a length, and inherit a `__getitem__` that only raises.
    if not isinstance(inputs, IterableDataset) and hasattr(inputs, "__len__") and hasattr(inputs, "__getitem__"):
        return _Rows(inputs, text)
    if isinstance(inputs, Iterable):
        return (as_item(item, text) for item in inputs)
    raise ValueError(
        "`inputs` must be an image (path, URL, base64, PIL, array, tensor), a dictionary with `image` and `text`, or a "
        f"list, dataset or generator of those, got {type(inputs).__name__}."
    )


def is_item(value: Any) -> bool:
    """Whether this is one input, and not a collection of them."""
    return isinstance(value, str | bytes | os.PathLike | dict | Image.Image | np.ndarray | torch.Tensor)


def as_item(value: Any, text: Any) -> dict[str, Any]:
    """One input as a dictionary with `image` and `text`."""
    if not isinstance(value, dict):
        return {"image": value, "text": text}
    if text is None:
        return value
    if value.get("text") is not None:
        raise ValueError("`text` was given twice: as an argument and inside the inputs.")
    return {**value, "text": text}


def _check_item(item: dict[str, Any]) -> None:
    if "error" in item:
        raise ValueError(item["error"])
    for name in ("image", "text"):
        if item.get(name) is None:
            raise ValueError(
                f"`{name}` is missing; an input needs an image and its text, this one has {sorted(item)}."
            )


__all__ = ["OUTPUT_FORMATS", "ReferringSegmentationPipeline", "as_item", "is_item"]
