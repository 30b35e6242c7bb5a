"""`hf-ris export`: a model becomes a folder of ONNX graphs, which answers without torch."""

import json
import logging
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from hashlib import file_digest
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from transformers import Pipeline, pipeline
from transformers.image_utils import PILImageResampling

from . import __version__, endpoint_handler, modeling
from .hub import CHECK_IMAGE, CHECK_TEXT, Note, load_card
from .modeling.inputs import Request, read_request
from .modeling.modeling_composed import ComposedPreTrainedModel
from .modeling.modeling_referring_segmentation import render_card
from .onnx_model import without_code
from .reporting import table
from .systems import HUB_MODELS, ONNX_TYPE, SYSTEMS, TASK, find_model


OPSET = 20  # of all graphs: the first with GELU in one piece, and what torch writes
EXTRA = ("onnx", "onnxscript", "onnxruntime")
DTYPES = {"float32": torch.float32, "float16": torch.float16}
RUNTIME = endpoint_handler.EXPORTED
RUNTIME_FILES = {
    "__init__.py": Path(__file__).with_name("onnx.py"),
    **{name: Path(modeling.__path__[0], name) for name in ("resampling.py", "without_torch.py")},
}
ASK = f'''"""Asks the model in this folder; needs numpy, pillow, tokenizers and onnxruntime: python ask.py photo.jpg "the red mug" """

import sys
from pathlib import Path

from {RUNTIME} import main


sys.exit(main([str(Path(__file__).parent), *sys.argv[1:]]))
'''
REQUIREMENTS = ("numpy", "onnxruntime", "pillow", "tokenizers")
CHECK_TEXTS = [CHECK_TEXT, "the little pink tree on the right", "the tree"]
WIDE = 256  # channels from which a convolution is worth a matrix product of bytes
LARGEST_ERROR = {"float32": 1e-3, "float16": 0.05, "int8": 0.3}  # of the largest logit, and of confidences


class WholeGraph(nn.Module):
    """Image and expressions to mask logits, and to confidences if the model has them; words enter while the image is encoded."""

    inputs: tuple[str, ...] = ("pixel_values", "input_ids", "attention_mask")

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values, input_ids, attention_mask):
        images = self.model.encode_images(pixel_values.to(self.model.dtype))
        return self.answer(images, input_ids, attention_mask)

    def answer(self, images, input_ids, attention_mask):
        answers = self.model.predict(images, input_ids, attention_mask)
        return tuple(each.float() for each in answers if each is not None)

    @property
    def outputs(self) -> tuple[str, ...]:
        judges = getattr(self.model.config, "confidence_loss_weight", 0) > 0
        return ("logits", "confidence") if judges else ("logits",)


class ImageGraph(WholeGraph):
    """The part that sees no words: an image to features."""

    inputs = ("pixel_values",)

    def forward(self, pixel_values):  # type: ignore[override]
        return tuple(self.model.encode_images(pixel_values.to(self.model.dtype)))


class ExpressionGraph(WholeGraph):
    """The other part: an image's features and expressions to what the whole graph gives."""

    inputs = ("features", "input_ids", "attention_mask")

    def forward(self, features, input_ids, attention_mask):
        return self.answer(list(features), input_ids, attention_mask)


class ProductConvolution(nn.Module):
    """
    A convolution as one matrix product, whose results are shifted and added up: onnxruntime has fast products of bytes, and slow
    convolutions of them.

    Args:
        convolution (`nn.Conv2d`): Of stride 1, with as much padding as keeps the size.
    """

    weight: torch.Tensor

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.side, self.bias = convolution.kernel_size[0], convolution.bias
        self.register_buffer("weight", convolution.weight.detach().permute(1, 2, 3, 0).flatten(1))  # (in, cells · out)

    def forward(self, maps):
        """(N, in, h, w) -> (N, out, h, w)."""
        margin, (height, width) = self.side // 2, maps.shape[2:]
        cells = (maps.flatten(2).transpose(1, 2) @ self.weight).unflatten(1, (height, width))
        padded = nn.functional.pad(cells, (0, 0, margin, margin, margin, margin))
        shifts = product(range(self.side), range(self.side))
        parts = padded.chunk(self.side**2, dim=-1)
        shifted = [part[:, y : y + height, x : x + width] for part, (y, x) in zip(parts, shifts, strict=True)]
        added = reduce(torch.add, shifted if self.bias is None else [*shifted, self.bias])
        return added.permute(0, 3, 1, 2)

    @classmethod
    def replace_in(cls, network: nn.Module) -> None:
        """Replace the wide convolutions of a network, and the batch norms behind them."""
        for block in network.modules():
            if not (isinstance(block, nn.Sequential) and len(block) > 1 and isinstance(block[1], nn.BatchNorm2d)):
                continue
            layer = block[0]
            if not isinstance(layer, nn.Conv2d):
                continue
            if layer.kernel_size == (3, 3) and layer.stride == (1, 1) and layer.in_channels >= WIDE:
                block[0], block[1] = cls(fuse_conv_bn_eval(layer, block[1])), nn.Identity()


@dataclass(frozen=True)
class Export:
    """
    Facts of a system that its reader has to know, beside those that its processor knows.

    Attributes:
        graphs (`dict`): By name, in the order in which they are run.
        enlarge (`str`): What is brought to the image's size: "logits" or "probabilities".
        interpolation (`str`), align_corners (`bool`): How.
        padding_by_id (`bool`): Whether the padding token counts as padding wherever it stands.
    """

    graphs: dict[str, type[WholeGraph]]
    enlarge: str
    interpolation: str
    align_corners: bool
    padding_by_id: bool = False


WHOLE: dict[str, type[WholeGraph]] = {"whole": WholeGraph}
SPLIT: dict[str, type[WholeGraph]] = {"image": ImageGraph, "expression": ExpressionGraph}
EXPORTS = {
    "magnet": Export(WHOLE, "logits", "bilinear", True),
    "cris": Export(SPLIT, "probabilities", "bicubic", True, padding_by_id=True),
    "clipseg": Export(SPLIT, "probabilities", "bilinear", False),
}


def export_model(
    source: str | Path,
    output: str | Path,
    dtype: str = "float32",
    quantize: str | None = None,
    expressions: int | None = None,
    note: Note = lambda message: None,
) -> Path:
    """
    Write a model as ONNX graphs of opset 20, with everything that is needed to ask it with or without this package.

    One image goes through at a time. MagNet is one graph, since words enter at its first stage; CRIS and CLIPSeg are two, and the
    image's runs once for all of its expressions.

    Args:
        source (`str` or `Path`): Folder or Hub id of a MagNet, CRIS or CLIPSeg, or "bundled".
        output (`str` or `Path`): The folder. It appears once the graphs have answered as the model does, and not before.
        dtype (`str`, *optional*, defaults to `"float32"`): "float32" or "float16", for GPUs and browsers: most CPUs compute in float32.
        quantize (`str`, *optional*): "int8" stores the weights of matrix products in 8 bits, with a scale for each output channel,
            and rounds what they are multiplied with as it comes.
        expressions (`int`, *optional*): Number of expressions that a run takes, when it shall be fixed; by default any number.
        note (`Callable`, *optional*): Called with lines of progress.

    Returns:
        `Path`: The folder.

    Raises:
        ValueError: If the extra `onnx` is not installed, the model or an option is unfit, the folder is not empty, or the graphs answer
            differently.
        OSError: If the model cannot be loaded.
    """
    output = Path(output)
    missing = [name for name in EXTRA if find_spec(name) is None]
    if missing:
        raise ValueError(f'{missing[0]} is not installed; `pip install "hf_ris[onnx]"` brings what an export needs.')
    if dtype not in DTYPES:
        raise ValueError(f"`dtype` must be one of {list(DTYPES)}, got {dtype!r}.")
    if quantize not in (None, "int8") or (quantize and dtype != "float32"):
        raise ValueError(
            f"`quantize` must be 'int8' with `dtype` float32, or left out, got {quantize!r} with {dtype}."
        )
    if expressions is not None and expressions < 1:
        raise ValueError(f"`expressions` must be at least 1, got {expressions}.")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ValueError(f"`output` must be a new or an empty folder, got {str(output)!r}.")

    from .onnx import FORMAT

    note(f"loading {source}")
    ris = pipeline(TASK, model=find_model(source), device="cpu")
    ris.model.float()
    system, kind = _check_model(ris.model), ris.model.config.model_type
    request = read_request(CHECK_IMAGE, CHECK_TEXTS)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}-") as parent:
        folder = Path(parent) / "model"
        (folder / "onnx").mkdir(parents=True)
        with torch.no_grad():
            with _quiet("transformers"):  # of words that a vocabulary lacks
                features = ris.processor.prepare([request])
            expected = ris.model(**features)
            ris.model.to(DTYPES[dtype])
            # Fewer operations than with the other kernels, which guard against rows that see nothing.
            ris.model.set_attn_implementation("eager")
            if quantize:
                ProductConvolution.replace_in(ris.model)
            graphs = _write_graphs(ris.model, system, features, folder, quantize, expressions, note)
        settings = {
            "model_type": ONNX_TYPE,
            "format": FORMAT,
            "hf_ris_version": __version__,
            "system": kind,
            "source": _find_name(source),
            "licence": _find_licence(source),
            "precision": quantize or dtype,
            "opset": OPSET,
            "expressions": expressions,
            "graphs": graphs,
            "preparation": _describe_preparation(ris.processor, system),
            "reading": {
                "enlarge": system.enlarge,
                "interpolation": system.interpolation,
                "align_corners": system.align_corners,
                "threshold": ris.processor.threshold,
            },
        }
        _write_rest(folder, ris, settings)
        error = _compare(folder, request, features, expected, LARGEST_ERROR[quantize or dtype])
        note(f"asked it: logits differ by at most {error:.1e} of the largest")
        folder.rename(output)
    size = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
    note(f"wrote {output}, {size / 1e6:.1f} MB")
    return output


def _find_name(source: str | Path) -> str:
    """A Hub id as it is, a folder by its last part: where it lies on this machine concerns nobody."""
    path = Path(find_model(source))
    return path.resolve().name if path.exists() else str(source)


def _system_name(kind: str) -> str:
    return SYSTEMS[kind].name if kind in SYSTEMS else HUB_MODELS[kind]().system


def _find_licence(source: str | Path) -> str | None:
    card = load_card(find_model(source))
    return card.data.get("license") if card else None


def _check_model(model: Any) -> Export:
    """
    Raises:
        ValueError: If a model is of a kind that is not exported.
    """
    kind = model.config.model_type
    if kind in EXPORTS:
        return EXPORTS[kind]
    advice = ""
    if isinstance(model, ComposedPreTrainedModel):
        networks = ", ".join(
            f"its {name}, a {type(part.network).__name__}" for name, part in model.named_parts() if part.network_class
        )
        advice = (
            " It is composed: which mask is chosen is decided in Python, and no graph. Its networks can be exported one by one, with "
            f"transformers.exporters: {networks}."
        )
    raise ValueError(f"`model` must be a MagNet, CRIS or CLIPSeg, got a {kind}.{advice}")


def _write_graphs(
    model: Any,
    system: Export,
    features: dict[str, torch.Tensor],
    folder: Path,
    quantize: str | None,
    expressions: int | None,
    note: Note,
) -> dict[str, str]:
    """Trace the graphs into the folder `onnx`; returns their files by name."""
    texts = {name: features[name] for name in ("input_ids", "attention_mask")}
    # Where the number of expressions is open, the sample has more than one: a single one would become a constant.
    number = expressions or len(texts["input_ids"])
    texts = {name: rows[[0] * number] for name, rows in texts.items()}
    known: dict[str, Any] = {"pixel_values": features["pixel_values"], **texts}
    many = {} if expressions else {0: torch.export.Dim("expressions", min=1, max=2**16)}
    files = {}
    for name, graph_class in system.graphs.items():
        note(f"tracing the graph {name!r}")
        graph = graph_class(model).eval()
        sample = {key: known[key] for key in graph.inputs}
        if name == "image":
            known["features"] = list(graph(**sample))
        names = [f"features_{number}" for number in range(len(known.get("features", ())))]
        shapes = {key: many if key in texts else [{}] * len(names) if key == "features" else {} for key in sample}
        outputs = names if name == "image" else list(graph.outputs)
        inputs = [part for key in graph.inputs for part in (names if key == "features" else [key])]
        path = folder / "onnx" / f"{'model' if name == 'whole' else name}.onnx"
        _trace(graph, sample, shapes, inputs, outputs, path)
        if quantize:
            note("quantizing it")
            _quantize(path)
        files[name] = path.relative_to(folder).as_posix()
    return files


def _trace(
    graph: nn.Module, sample: dict[str, Any], shapes: dict[str, Any], inputs: list[str], outputs: list[str], path: Path
) -> None:
    # torch's own exporter: transformers' is experimental, and takes its whole models only. In two steps, since the second would
    # make up for an open number of expressions that the first cannot keep open.
    with _quiet("torch.onnx", "torch.onnx._internal.exporter._registration", "onnxscript"):
        program = torch.onnx.export(
            torch.export.export(graph, (), sample, dynamic_shapes=shapes),
            dynamic_shapes=shapes,  # whose names are taken
            input_names=inputs,
            output_names=outputs,
            opset_version=OPSET,
            optimize=False,
            verbose=False,
        )
        assert program is not None  # it is `None` from the older exporter alone
        _simplify(program.model)
    for part in program.model.graph.all_nodes():
        part.metadata_props.clear()  # lines of source and paths of this machine, a quarter of a small file
        for value in part.outputs:
            value.metadata_props.clear()
    for value in (*program.model.graph.inputs, *program.model.graph.initializers.values()):
        value.metadata_props.clear()
    program.save(path)


def _simplify(model: Any) -> None:
    """
    Fold constants and merge operations, in place, by the steps of torch's exporter; but without its rule that turns slices into
    splits, which walks through the whole graph for every slice, and takes as long as all else together.
    """
    from onnx_ir.passes import Sequential, common
    from onnxscript.optimizer import fold_constants
    from onnxscript.rewriter import rewrite
    from onnxscript.rewriter.rules import common as rules

    merging = [
        rules.no_op_cast_rule,
        rules.no_op_expand_rule,
        rules.no_op_transpose_rule,
        rules.cast_cast_rule,
        rules.reshape_reshape_rule,
        rules.squeeze_reshape_1d_rule,
        rules.transpose_transpose_rule,
        rules.unsqueeze_unsqueeze_rule,
        rules.collapse_slice_rule,
        rules.materialize_reshape_shape_rule,
        rules.fuse_batchnorm_into_conv_rule,
    ]
    common.InlinePass()(model)
    for _ in range(2):  # what was merged can be folded, and the other way round
        fold_constants(model, onnx_shape_inference=True)
        common.RemoveUnusedNodesPass()(model)
        rewrite(model, merging)
    cleaning = Sequential(
        common.RemoveUnusedNodesPass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.DeduplicateInitializersPass(),
        common.CommonSubexpressionEliminationPass(),
        common.RemoveUnusedFunctionsPass(),
        common.RemoveUnusedOpsetsPass(),
    )
    cleaning(model)
    # The weights of layers that are called several times, which the exporter leaves as parameters have them; now that each is
    # transposed once
    fold_constants(model, should_fold=_transposes_weights, output_size_limit=2**30)


def _transposes_weights(node: Any) -> bool:
    return bool(node.op_type == "Transpose" and node.inputs[0].is_initializer())


def _quantize(path: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    exact = path.with_name("exact.onnx")
    path.rename(exact)
    with _quiet("root"):
        quantize_dynamic(exact, path, op_types_to_quantize=["MatMul"], per_channel=True, weight_type=QuantType.QInt8)
    exact.unlink()


@contextmanager
def _quiet(*names: str) -> Iterator[None]:
    """Leave out warnings that a user of this command can do nothing about."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _describe_preparation(processor: Any, system: Export) -> dict[str, Any]:
    """Describe in plain numbers how an image and expressions are prepared for the graphs."""
    images, length = processor.image_processor, processor.text_length
    return {
        "size": [images.size["height"], images.size["width"]],
        "fit": "letterbox" if processor.keeps_aspect_ratio else "squash",
        "resample": PILImageResampling(images.resample).name.lower(),
        "image_mean": list(images.image_mean),
        "image_std": list(images.image_std),
        "text_length": length,
        "pad_token_id": processor.pad_token_id,
        "padding_by_id": system.padding_by_id,
        "unknown_token_id": processor.tokenizer.unk_token_id,
        "keeps_end_token": processor.cut(list(range(length + 1)), length)[-1] == length,
    }


def _write_rest(folder: Path, ris: Pipeline, settings: dict[str, Any]) -> None:
    """Write the processor, the code that runs the graphs, the card, and the settings with the size and the hash of each graph."""
    without_code(ris.processor).save_pretrained(folder)
    (folder / RUNTIME).mkdir()
    for name, path in RUNTIME_FILES.items():
        code = path.read_text(encoding="utf-8")
        code = code.replace("from .modeling.", "from .").replace("from .modeling ", "from . ")  # all lie side by side
        (folder / RUNTIME / name).write_text(code, encoding="utf-8")
    shutil.copy(endpoint_handler.__file__, folder / "handler.py")
    (folder / "ask.py").write_text(ASK, encoding="utf-8")
    (folder / "requirements.txt").write_text("\n".join(REQUIREMENTS) + "\n", encoding="utf-8")
    settings["files"] = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": _hash(path)}
        for path in sorted((folder / "onnx").iterdir())
    }
    (folder / "config.json").write_text(json.dumps(settings, indent=2, ensure_ascii=False), encoding="utf-8")
    (folder / "README.md").write_text(_card(folder, settings), encoding="utf-8")


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def _card(folder: Path, settings: dict[str, Any]) -> str:
    """A card that says what the graphs take and give, and how they are asked."""
    import onnx

    rows = []
    for name in settings["graphs"].values():
        graph = onnx.load(folder / name, load_external_data=False).graph
        for kind, values in (("takes", graph.input), ("gives", graph.output)):
            rows += [[f"`{name}`", kind, f"`{value.name}`", _describe_type(value)] for value in values]
    source = settings["source"]
    summary = (
        f"{source}, a {_system_name(settings['system'])}, exported to ONNX (opset {settings['opset']}, {settings['precision']}). It answers with and "
        "without torch."
    )
    details = f"""Without torch, with `pip install {" ".join(REQUIREMENTS)}`:

```bash
python ask.py photo.jpg "the woman in the red coat" --mask-dir masks
```

{table(["graph", "", "name", "type"], rows)}

One image goes through at a time. `config.json` says how an image and expressions are prepared and how a mask is read."""
    return render_card(
        f"{source}, ONNX",
        summary,
        details,
        licence=settings["licence"],
        tags=["onnx"],
        base_models=[source] if source.count("/") == 1 else [],
        carries_code=False,
    )


def _describe_type(value: Any) -> str:
    import onnx

    tensor = value.type.tensor_type
    sides = [str(side.dim_value) if side.HasField("dim_value") else "N" for side in tensor.shape.dim]
    return f"{onnx.TensorProto.DataType.Name(tensor.elem_type).lower()} ({', '.join(sides)})"


def _compare(
    folder: Path, request: Request, features: dict[str, torch.Tensor], expected: Any, largest_error: float
) -> float:
    """
    Ask the folder what the model was asked.

    Returns:
        `float`: The largest difference of a logit, as a share of the largest logit, or of a confidence.

    Raises:
        ValueError: If it answers differently.
    """
    from .onnx import ExportedModel

    exported = ExportedModel(folder)
    pixel_values = exported.prepare_image(request.image)[None]
    with _quiet("transformers"):
        input_ids, attention_mask = exported.tokenize(request.expressions)
    same_text = np.array_equal(input_ids, features["input_ids"]) and np.array_equal(
        attention_mask, features["attention_mask"]
    )
    if not same_text or np.abs(pixel_values - features["pixel_values"].numpy()).mean() > 1e-3:
        raise ValueError("The exported model prepares its input differently, so nothing was written.")
    answers = exported.run(features["pixel_values"].numpy(), input_ids, attention_mask)
    logits = expected.logits.numpy()
    error = float(np.abs(answers.logits - logits).max() / np.abs(logits).max())
    if answers.confidence is not None:
        error = float(np.maximum(error, np.abs(answers.confidence - expected.confidence.numpy()).max()))
    if not error <= largest_error:  # NaN fails, too
        raise ValueError(
            f"The exported model answers differently, so nothing was written: its logits, or its confidences, differ by {error:.1e} "
            f"of the largest, and {largest_error:g} is allowed."
        )
    return error


__all__ = ["export_model"]
