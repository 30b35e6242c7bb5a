"""
Runs a folder that `hf-ris export` wrote: NumPy, Pillow, tokenizers and onnxruntime are enough. `python -m hf_ris.onnx FOLDER IMAGE
EXPRESSION ...` asks it. Each folder carries this file, too.

The folder's `config.json` says in plain numbers how an image and expressions are prepared and how a mask is read, so that a program in
another language can do the same.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
from PIL import Image
from tokenizers import Tokenizer

from .modeling import resampling
from .modeling.without_torch import (
    TextWarnings,
    check_answer_options,
    check_expressions,
    check_integer,
    load_image,
    make_result,
    row_bands,
)


MODEL_TYPE = "onnx_referring_segmentation"
FORMAT = 1  # of the folder
PIXELS_PER_RUN = 480 * 480  # of the model's input, times expressions: more are no faster, and take memory
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
KERNELS = {"bilinear": resampling.linear, "bicubic": resampling.cubic}


class Answers(NamedTuple):
    """
    Outputs of the graphs for N expressions; the names are those of the graphs.

    Attributes:
        logits (`np.ndarray` of shape `(N, h, w)`): Log-odds of the mask, `float32`.
        confidence (`np.ndarray` of shape `(N,)`, *optional*): Probability that the mask is right, which is then its score.
    """

    logits: np.ndarray
    confidence: np.ndarray | None = None


class ExportedModel:
    """
    A model that was exported to ONNX: an image and expressions in, their masks out.

    Its answers are those of the pipeline, which runs this class, too.

    Args:
        folder (`str` or `Path`): What `hf-ris export` wrote.
        providers (`Sequence[str]`, *optional*): onnxruntime's execution providers, the first one that can taking each operation;
            by default CUDA's where there is one, and the CPU's.
        threads (`int`, *optional*): CPU threads; by default `OMP_NUM_THREADS` where it is set, or the cores of this process.

    Raises:
        ValueError: If it is another folder, a file of it is missing or cut, or onnxruntime cannot open it or lacks a provider.

    Example:

    ```python
    >>> from hf_ris.onnx import ExportedModel

    >>> model = ExportedModel("magnet-onnx")
    >>> model("scene.png", text="the red mug")["box"]
    {'xmin': 31, 'ymin': 214, 'xmax': 118, 'ymax': 305}
    ```
    """

    def __init__(self, folder: str | Path, providers: Sequence[str] | None = None, threads: int | None = None) -> None:
        threads = count_threads() if threads is None else threads
        check_integer("threads", threads, 1)
        self.folder = Path(folder)
        self.config = read_config(self.folder)
        self.preparation, self.reading = self.config["preparation"], self.config["reading"]
        self.providers = find_providers(providers)
        self.text_warnings = TextWarnings()
        self.threads = int(threads)
        self._open_graphs()

    def _open_graphs(self) -> None:
        self.graphs = {part: self._open(name) for part, name in self.config["graphs"].items()}

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the opened graphs, so that the model can be pickled and copied; they are opened again."""
        return {name: value for name, value in self.__dict__.items() if name not in ("graphs", "tokenizer")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open_graphs()

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Read when it is first needed: the pipeline has one of its own."""
        tokenizer = Tokenizer.from_file(str(self.folder / "tokenizer.json"))
        tokenizer.no_padding()
        tokenizer.no_truncation()
        return tokenizer

    def _open(self, name: str) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        # Threads that wait in a loop would take the cores from whatever else this process does.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        try:
            # A fusion that on the CPU is slower than its parts.
            slow = ["SkipLayerNormFusion"] if self.providers[0] == "CPUExecutionProvider" else None
            path = self.folder / name
            return onnxruntime.InferenceSession(path, options, providers=self.providers, disabled_optimizers=slow)
        except Exception as error:  # onnxruntime has no common class
            raise ValueError(
                f"`model` {str(self.folder)!r} has a graph {name}, of opset {self.config['opset']}, that onnxruntime "
                f"{onnxruntime.__version__} cannot open: {error}"
            ) from error

    def __call__(
        self,
        image: Any,
        text: str | Sequence[str],
        *,
        threshold: float | None = None,
        no_target_threshold: float | None = None,
        output_format: str = "pil",
    ) -> Any:
        """
        Segment what the expressions refer to.

        Args:
            image: A path, a URL, base64, bytes, an open file, a PIL image or an array; see [`load_image`].
            text (`str` or `Sequence[str]`): One expression or several.
            threshold (`float`, *optional*): Foreground probability above which a pixel belongs to the mask; by default the model's.
            no_target_threshold (`float`, *optional*): A score below this empties the mask.
            output_format (`str`, *optional*, defaults to `"pil"`): `"pil"`, `"array"` or `"rle"`.

        Returns:
            `dict` or `list[dict]`: `label`, `score`, `mask` and `box` of the expression, or of each.

        Raises:
            ValueError: If the image, an expression or an option is unfit; the message names it.
        """
        expressions = check_expressions(text)
        check_answer_options(
            {"threshold": threshold, "no_target_threshold": no_target_threshold, "output_format": output_format}
        )
        loaded = load_image(image)
        answers = self.run(self.prepare_image(loaded)[None], *self.tokenize(expressions))
        threshold = self.reading["threshold"] if threshold is None else threshold
        results = []
        for number, label in enumerate(expressions):
            mask, score = self.read_mask(answers.logits[number], loaded.size, threshold)
            if answers.confidence is not None and score:
                score = float(answers.confidence[number])
            results.append(make_result(label, mask, score, no_target_threshold, output_format))
        return results[0] if isinstance(text, str) else results

    def prepare_image(self, image: Image.Image) -> np.ndarray:
        """Bring an RGB image to the model's size, normalised: `float32` (3, H, W)."""
        how = self.preparation
        height, width = how["size"]
        mean, std = (np.asarray(how[name], np.float32)[:, None, None] for name in ("image_mean", "image_std"))
        if how["fit"] == "letterbox":
            border = (255 * mean).round()
            pixels = np.asarray(image).transpose(2, 0, 1)
            taps = resampling.fit((image.height, image.width), (height, width), KERNELS[how["resample"]])
            levels = resampling.resample(pixels, *taps, border).round().clip(0, 255)
        else:
            resized = image.resize((width, height), FILTERS[how["resample"]])
            levels = np.asarray(resized, np.float32).transpose(2, 0, 1)
        return (levels / np.float32(255) - mean) / std

    def tokenize(self, expressions: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Encode expressions, cut and padded: token ids and the attention mask, `int64` (N, L)."""
        length, padding = self.preparation["text_length"], self.preparation["pad_token_id"]
        encodings = self.tokenizer.encode_batch(list(expressions))
        self.text_warnings.unknown_words(expressions, encodings, self.preparation["unknown_token_id"])
        ids = np.full((len(expressions), length), padding, np.int64)
        for row, expression, encoding in zip(ids, expressions, encodings, strict=True):
            tokens = encoding.ids
            if len(tokens) > length:
                end = tokens[-1:] if self.preparation["keeps_end_token"] else []
                tokens = [*tokens[: length - len(end)], *end]
                self.text_warnings.too_long(expression, len(encoding.ids), length, self.tokenizer.decode(tokens))
            row[: len(tokens)] = tokens
        if self.preparation["padding_by_id"]:
            return ids, (ids != padding).astype(np.int64)
        lengths = np.array([len(encoding.ids) for encoding in encodings])
        return ids, (np.arange(length) < lengths[:, None]).astype(np.int64)

    def run(self, pixel_values: np.ndarray, input_ids: np.ndarray, attention_mask: np.ndarray) -> Answers:
        """
        Compute mask logits, and confidences if the model has them.

        Args:
            pixel_values (`np.ndarray` of shape `(B, 3, H, W)`): Normalised images.
            input_ids, attention_mask (`np.ndarray` of shape `(N, L)`): The expressions; N = B·k, image-major.

        Returns:
            [`Answers`]
        """
        each = len(input_ids) // len(pixel_values)
        parts: list[list[np.ndarray]] = []
        for number, image in enumerate(pixel_values):
            rows = slice(number * each, (number + 1) * each)
            parts += self._run(image[None], input_ids[rows], attention_mask[rows])
        return Answers(*map(np.concatenate, zip(*parts, strict=True)))

    def _run(self, image: np.ndarray, input_ids: np.ndarray, attention_mask: np.ndarray) -> Iterator[list[np.ndarray]]:
        """Ask about one image, as many expressions at a time as the graph takes and as memory allows."""
        seen = {"pixel_values": image.astype(np.float32, copy=False)}
        if "image" in self.graphs:
            outputs = [output.name for output in self.graphs["image"].get_outputs()]
            seen = dict(zip(outputs, self.graphs["image"].run(outputs, seen), strict=True))
        graph = self.graphs["expression"] if "image" in self.graphs else self.graphs["whole"]
        outputs = [output.name for output in graph.get_outputs()]  # logits, and confidence if the model has it
        fixed = self.config["expressions"]
        per_run = fixed or max(1, PIXELS_PER_RUN // image[0, 0].size)
        for start in range(0, len(input_ids), per_run):
            texts = {"input_ids": input_ids[start : start + per_run]}
            texts["attention_mask"] = attention_mask[start : start + per_run]
            number = len(texts["input_ids"])
            if fixed and number < fixed:  # the graph takes this many: the last one is asked again
                texts = {name: np.pad(rows, ((0, fixed - number), (0, 0)), "edge") for name, rows in texts.items()}
            yield [answers[:number] for answers in graph.run(outputs, seen | texts)]

    def read_mask(self, logits: np.ndarray, size: tuple[int, int], threshold: float) -> tuple[np.ndarray, float]:
        """
        Read a mask off the logits of an expression.

        Args:
            logits (`np.ndarray` of shape `(h, w)`): Log-odds.
            size (`tuple[int, int]`): (width, height) of the image in pixels.
            threshold (`float`): A pixel belongs to the mask if its probability is above this.

        Returns:
            `tuple[np.ndarray, float]`: The mask, boolean (height, width), and its score; 0.0 for an empty mask.
        """
        parts, total = [], 0.0
        for band in self.probability_bands(logits[None], (size[1], size[0])):
            band = band.clip(0, 1)
            inside = band > threshold
            total += float(band[inside].sum(dtype=np.float64))
            parts.append(inside)
        mask = np.concatenate(parts)
        count = int(mask.sum())
        return mask, min(1.0, total / count) if count else 0.0

    def probability_bands(self, logits: np.ndarray, size: tuple[int, int]) -> Iterator[np.ndarray]:
        """Foreground probabilities over an image of this size (H, W), in bands of rows (rows, W); logits (1, h, w)."""
        how = self.reading
        is_letterbox, kernel = self.preparation["fit"] == "letterbox", KERNELS[how["interpolation"]]
        maps = logits if how["enlarge"] == "logits" else sigmoid(logits)
        target = tuple(self.preparation["size"]) if is_letterbox else size
        vertical, horizontal = (
            resampling.enlarge(new, old, kernel, how["align_corners"])
            for new, old in zip(target, maps.shape[1:], strict=True)
        )
        if is_letterbox:
            maps = resampling.resample(maps, vertical, horizontal)
            vertical, horizontal = resampling.unfit(size, target, kernel)
        for rows in row_bands(*size):
            band = resampling.Taps(*(part[:, rows] for part in vertical))
            values = resampling.resample(maps, band, horizontal)[0]
            yield sigmoid(values) if how["enlarge"] == "logits" else values


def sigmoid(logits: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(0.5 * logits))  # which does not overflow


def read_config(folder: Path) -> dict[str, Any]:
    """
    Read what an exported folder says of itself.

    Raises:
        ValueError: If it is another folder, of another version, or a file is missing or cut.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"`model` must be a folder that hf-ris export wrote, got {str(folder)!r}: {error}."
        ) from error
    if not isinstance(config, dict) or config.get("model_type") != MODEL_TYPE:
        raise ValueError(
            f"`model` must be a folder that hf-ris export wrote, got {str(folder)!r}, which is another model."
        )
    if config.get("format") != FORMAT:
        raise ValueError(
            f"`model` {str(folder)!r} was exported in format {config.get('format')}, and this version reads format {FORMAT}; export "
            "it again."
        )
    for name, file in config["files"].items():
        found = (folder / name).stat().st_size if (folder / name).is_file() else 0
        if found != file["bytes"]:
            raise ValueError(f"`model` {str(folder)!r} is not whole: {name} has {found:,} of {file['bytes']:,} bytes.")
    return config


def find_providers(named: Sequence[str] | None) -> list[str]:
    """
    Check the names of execution providers, or choose some.

    Raises:
        ValueError: If this build of onnxruntime lacks one.
    """
    available = onnxruntime.get_available_providers()
    if named is None:
        return [name for name in available if name in ("CUDAExecutionProvider", "CPUExecutionProvider")]
    missing = [name for name in named if name not in available]
    if missing or not named or isinstance(named, str):
        raise ValueError(f"`providers` must be a list of {', '.join(available)}, got {named!r}.")
    return list(named)


def count_threads() -> int:
    """The threads that this process may use."""
    named = os.environ.get("OMP_NUM_THREADS", "")
    if named.isdigit() and int(named):
        return int(named)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Ask an exported model from the command line: a line of JSON for each expression."""
    parser = argparse.ArgumentParser(description="Segment what expressions refer to, with a model exported to ONNX.")
    parser.add_argument("model", help="what hf-ris export wrote")
    parser.add_argument("image")
    parser.add_argument("text", nargs="+", help="expressions")
    parser.add_argument("--threshold", type=float)
    parser.add_argument("--no-target-threshold", type=float)
    parser.add_argument(
        "--mask-dir", type=Path, help="write the masks here, as 1.png, 2.png, ...; else each is in its line"
    )
    parser.add_argument("--provider", action="append", help="an execution provider of onnxruntime; may be given again")
    parser.add_argument("--threads", type=int)
    given = parser.parse_args(arguments)
    options = {name: getattr(given, name) for name in ("threshold", "no_target_threshold")}
    try:
        model = ExportedModel(given.model, given.provider, given.threads)
        results = model(given.image, given.text, output_format="pil" if given.mask_dir else "rle", **options)
        for number, result in enumerate(results, start=1):
            if given.mask_dir:
                given.mask_dir.mkdir(parents=True, exist_ok=True)
                path = given.mask_dir / f"{number}.png"
                result.pop("mask").save(path)
                result["mask_file"] = str(path)
            print(json.dumps(result, ensure_ascii=False))  # noqa: T201
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


__all__ = ["ExportedModel", "main"]

if __name__ == "__main__":
    sys.exit(main())
