"""A model that was exported to ONNX answers as the model does: in the pipeline, and without torch."""

import copy
import json
import logging
import os
import pickle
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_states import cris_config, draw_state, magnet_config, read_tensors
from local_hub import local_hub
from PIL import Image
from test_hub_models import save_clipseg
from tiny_parts import loud, tiny_cris_config
from transformers import AutoProcessor, pipeline
from typer.testing import CliRunner

import hf_ris
from hf_ris import export
from hf_ris.cli import app
from hf_ris.conversion import mapping_cris, mapping_magnet
from hf_ris.data import load_refshapes
from hf_ris.evaluation import evaluate
from hf_ris.export import export_model
from hf_ris.hub import push_model
from hf_ris.modeling.without_torch import rle_to_mask
from hf_ris.onnx import ExportedModel
from hf_ris.output_folder import describe_model


pytest.importorskip("onnxruntime")

logging.getLogger("torch.__trace").propagate = False  # hundreds of lines for each operation, which pytest would keep
TEXTS = ["a red mug", "the tree on the right", "a fish"]
KINDS = ("magnet", "cris", "clipseg")


@pytest.fixture(scope="session")
def sources(tiny_config, processor, tokenizer, tmp_path_factory) -> dict[str, Path]:
    """A folder of each kind that can be exported."""
    folder = tmp_path_factory.mktemp("sources")
    torch.manual_seed(0)
    # Fewer parts of each kind than elsewhere: tracing takes a while for each operation.
    config = hf_ris.MagNetConfig.from_dict(
        {
            **tiny_config.to_dict(),
            "pyramid_grids": [2],
            "decoder_layers": 1,
            "mask_stride": 2,
            "confidence_loss_weight": 1.0,
        }
    )
    save(loud(hf_ris.MagNetForReferringSegmentation(config)), processor, folder / "magnet")
    cris = hf_ris.CRISForReferringSegmentation(tiny_cris_config(tokenizer))
    images = hf_ris.CRISImageProcessor(size={"height": 64, "width": 96})
    save(cris, hf_ris.CRISProcessor(images, tokenizer), folder / "cris")
    return {kind: folder / kind for kind in ("magnet", "cris")} | {"clipseg": save_clipseg(folder / "clipseg")}


def save(model, processor, folder: Path) -> None:
    pipeline("referring-segmentation", model=model, processor=processor, device="cpu").save_pretrained(folder)


@pytest.fixture(scope="session")
def exports(sources, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("exports")
    return {kind: export_model(source, folder / kind) for kind, source in sources.items()}


def ask(folder: Path, **options):
    return pipeline("referring-segmentation", model=str(folder), device="cpu", **options)


def assert_same(given: list[dict], expected: list[dict]) -> None:
    for one, other in zip(given, expected, strict=True):
        assert one["label"] == other["label"] and one["box"] == other["box"]
        assert one["score"] == pytest.approx(other["score"], abs=1e-4)
        np.testing.assert_array_equal(np.asarray(one["mask"]), np.asarray(other["mask"]))


@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_the_models(sources, exports, images, kind):
    model, exported, alone = ask(sources[kind]), ask(exports[kind]), ExportedModel(exports[kind])
    for image in images:
        for text in (TEXTS, TEXTS[0]):
            expected = model(image, text=text, threshold=0.45)
            for answer in (exported(image, text=text, threshold=0.45), alone(image, text=text, threshold=0.45)):
                assert_same(*([answers] if isinstance(text, str) else answers for answers in (answer, expected)))
    batch = [{"image": image, "text": TEXTS} for image in images]
    for given, expected in zip(exported(batch, batch_size=3), model(batch, batch_size=3), strict=True):
        assert_same(given, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_every_size_of_image_is_read_alike(sources, exports, kind):
    """By the processor, which has torch, and by the folder's own code."""
    processor, alone = ask(exports[kind]).processor, ExportedModel(exports[kind])
    generator = np.random.default_rng(0)
    for size in ((1, 1), (3, 301), (640, 37), (97, 63), (1500, 1100)):
        image = Image.fromarray(generator.integers(0, 256, (*size, 3), dtype=np.uint8))
        pixels = processor.prepare([hf_ris.modeling.inputs.read_request(image, "a")])["pixel_values"][0].numpy()
        np.testing.assert_allclose(alone.prepare_image(image), pixels, atol=1e-5)
        logits = torch.from_numpy(generator.normal(size=(1, 16, 24)).astype(np.float32)) * 4
        logits = logits[:, :, :16] if kind == "clipseg" else logits
        outputs = hf_ris.ReferringSegmentationOutput(logits=logits)
        (expected,) = processor.post_process_referring_segmentation(outputs, [size], threshold=0.5)
        mask, score = alone.read_mask(logits[0].numpy(), size[::-1], 0.5)
        assert (mask != expected["mask"].numpy()).mean() < 1e-3
        assert score == pytest.approx(expected["score"], abs=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_texts_are_read_alike(exports, kind):
    processor, alone = ask(exports[kind]).processor, ExportedModel(exports[kind])
    texts = ["a red mug", "Ünïcode,  THE tree!!", "the tree " * 60, "! a ! mug", "x"]
    features = processor._encode(texts)
    ids, mask = alone.tokenize(texts)
    assert ids.tolist() == features["input_ids"] and mask.tolist() == features["attention_mask"]


def test_unknown_words_and_cut_texts_are_named(exports, images, caplog):
    ExportedModel(exports["magnet"])(images[0], text=["a wombat", "the mug " * 30])
    assert "lacks the word 'wombat'" in caplog.text and "only 20 are read" in caplog.text


@pytest.fixture(scope="session")
def without_torch(tmp_path_factory) -> dict[str, str]:
    """The environment of a Python that has what the folder needs, and nothing else."""
    packages = tmp_path_factory.mktemp("packages")
    for name in ("numpy", "PIL", "tokenizers", "onnxruntime"):
        place = Path(find_spec(name).origin).parent
        for found in (place, *place.parent.glob(f"{'pillow' if name == 'PIL' else name}.libs")):
            (packages / found.name).symlink_to(found)
    return {**os.environ, "PYTHONPATH": str(packages)}


def test_a_folder_answers_without_torch(exports, images, without_torch, tmp_path):
    images[0].save(tmp_path / "image.png")
    folder = shutil.copytree(exports["cris"], tmp_path / "elsewhere")
    command = [sys.executable, "-S", folder / "ask.py", tmp_path / "image.png", *TEXTS]
    missing = subprocess.run(
        [sys.executable, "-S", "-c", "import torch"], env=without_torch, capture_output=True, check=False
    )
    assert missing.returncode, "torch must be out of reach here"
    done = subprocess.run(command, env=without_torch, capture_output=True, text=True, check=True)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    expected = ask(exports["cris"])(images[0], text=TEXTS, output_format="array")
    for answer, other in zip(answers, expected, strict=True):
        np.testing.assert_array_equal(rle_to_mask(answer["mask"]), other["mask"])

    done = subprocess.run(
        [*command, "--mask-dir", tmp_path / "masks"], env=without_torch, capture_output=True, text=True, check=True
    )
    assert [Path(json.loads(line)["mask_file"]).is_file() for line in done.stdout.splitlines()] == [True] * 3
    broken = [sys.executable, "-S", folder / "ask.py", folder / "config.json", "a mug"]
    failed = subprocess.run(broken, env=without_torch, capture_output=True, text=True, check=False)
    assert failed.returncode == 1 and failed.stderr.startswith("error: `image` is not an image")


def test_the_module_is_a_command(exports, images, tmp_path, capsys, monkeypatch):
    images[0].save(tmp_path / "image.png")
    command = [
        sys.executable,
        "-m",
        "hf_ris.onnx",
        exports["clipseg"],
        tmp_path / "image.png",
        "a mug",
        "--threads",
        "1",
    ]
    assert json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)["label"] == "a mug"


def test_further_expressions_do_not_read_the_image_again(exports, images, monkeypatch):
    alone = ExportedModel(exports["cris"])
    ran = []
    for name, graph in alone.graphs.items():
        run = graph.run
        monkeypatch.setitem(alone.graphs, name, type("Counted", (), {
            "run": lambda self, *given, name=name, run=run: ran.append(name) or run(*given),
            "get_outputs": lambda self, graph=graph: graph.get_outputs(),
        })())  # fmt: skip
    monkeypatch.setattr("hf_ris.onnx.PIXELS_PER_RUN", 2 * 64 * 96)  # two expressions at a time
    alone(images[0], text=[*TEXTS, "a house", "a star"])
    assert ran == ["image", "expression", "expression", "expression"]


def test_fixed_numbers_of_expressions(sources, images, tmp_path):
    folder = export_model(sources["clipseg"], tmp_path / "fixed", expressions=2)
    expected = ask(sources["clipseg"])(images[0], text=TEXTS)
    assert_same(ExportedModel(folder)(images[0], text=TEXTS), expected)


@pytest.mark.slow
@pytest.mark.parametrize(("options", "error"), [({"dtype": "float16"}, 0.02), ({"quantize": "int8"}, 0.2)])
def test_other_precisions(sources, exports, images, tmp_path, options, error):
    folder = export_model(sources["cris"], tmp_path / "export", **options)
    small, exact = ExportedModel(folder), ExportedModel(exports["cris"])
    pixels, texts = exact.prepare_image(images[0])[None], exact.tokenize(TEXTS)
    expected, given = exact.run(pixels, *texts).logits, small.run(pixels, *texts).logits
    assert given.dtype == np.float32
    assert np.abs(given - expected).max() < error * np.abs(expected).max()
    assert np.abs(given - expected).max() > 0


def test_it_is_copied_pickled_and_saved_in_its_place(exports, images):
    ris = ask(exports["magnet"])
    expected = ris(images[0], text=TEXTS)
    ris.save_pretrained(exports["magnet"])
    for again in (copy.deepcopy(ris), pickle.loads(pickle.dumps(ris)), ask(exports["magnet"])):
        assert_same(again(images[0], text=TEXTS), expected)


@pytest.mark.parametrize("threads", [0, -1, 1.5, "2", True])
def test_unfit_threads_are_named(exports, threads):
    with pytest.raises(ValueError, match="`threads` must be a whole number of at least 1"):
        ExportedModel(exports["magnet"], threads=threads)


def test_threads_ask_one_model(exports, images):
    alone = ExportedModel(exports["magnet"], threads=1)
    expected = [alone(image, text=TEXTS) for image in images]
    with ThreadPoolExecutor(4) as pool:
        for number, given in enumerate(pool.map(lambda image: alone(image, text=TEXTS), images * 4)):
            assert_same(given, expected[number % len(images)])


def test_evaluation_and_saving_know_the_model(sources, exports, images, tmp_path):
    ris, other = ask(exports["magnet"]), ask(exports["cris"])
    described = describe_model(ris)
    assert described["weights"] != describe_model(other)["weights"]
    rows = load_refshapes("refshapes", "val", num_rows=2, cache_dir=tmp_path / "cache")
    assert evaluate(ris, rows)["mIoU"] == pytest.approx(evaluate(ask(sources["magnet"]), rows)["mIoU"], abs=1e-4)
    ris.save_pretrained(tmp_path / "saved")
    again = ask(tmp_path / "saved")
    assert_same(again(images[0], text=TEXTS), ris(images[0], text=TEXTS))
    assert describe_model(again)["weights"] == described["weights"]
    assert not list((tmp_path / "saved").glob("*.py")) or {path.name for path in (tmp_path / "saved").glob("*.py")} == {"ask.py", "handler.py"}  # fmt: skip


def test_it_is_pushed_as_it_is(exports):
    """And asked in a process where hf_ris cannot be imported."""
    lines = []
    push_model(exports["magnet"], "me/exported", licence="apache-2.0", dry_run=True, note=lines.append)
    assert any("onnx/model.onnx" in line for line in lines)


BY_ID = """
import sys
import hf_ris
from transformers import pipeline
pipeline("referring-segmentation", model="me/exported", device="cpu").model.save_pretrained(sys.argv[1])
"""


def test_a_folder_of_the_hub_is_saved_whole(exports, tmp_path):
    shutil.copytree(exports["clipseg"], tmp_path / "hub" / "me" / "exported")
    with local_hub(tmp_path / "hub") as hub:
        online = {"HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0"}
        subprocess.run([sys.executable, "-c", BY_ID, tmp_path / "saved"], env={**os.environ, **online}, check=True)
    given, expected = (
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in (tmp_path / "saved", exports["clipseg"])
    )
    assert given == expected


def test_options_of_the_pipeline(exports):
    threaded = ask(exports["cris"], model_kwargs={"threads": 1, "providers": ["CPUExecutionProvider"]})
    assert threaded.model.exported.providers == ["CPUExecutionProvider"]
    with pytest.raises(ValueError, match=r"`providers` must be a list of .*CPUExecutionProvider.*, got \['Nobody'\]"):
        ask(exports["cris"], model_kwargs={"providers": ["Nobody"]})
    with pytest.raises(ValueError, match="`dtype` must be left out"):
        ask(exports["cris"], dtype=torch.bfloat16)


# What cannot be


def copy_with(folder: Path, target: Path, **changes) -> Path:
    shutil.copytree(folder, target)
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**config, **changes}))
    return target


def test_damaged_folders_are_named(exports, model_folder, tmp_path):
    cut = shutil.copytree(exports["cris"], tmp_path / "cut")
    whole = (cut / "onnx" / "image.onnx").read_bytes()
    (cut / "onnx" / "image.onnx").write_bytes(whole[:100])
    with pytest.raises(ValueError, match=r"is not whole: onnx/image.onnx has 100 of [\d,]+ bytes"):
        ExportedModel(cut)
    (cut / "onnx" / "image.onnx").unlink()
    with pytest.raises(ValueError, match=r"is not whole: onnx/image\.onnx has 0 of"):
        ask(cut)
    with pytest.raises(ValueError, match="exported in format 7"):
        ExportedModel(copy_with(exports["cris"], tmp_path / "newer", format=7))
    with pytest.raises(ValueError, match="which is another model"):
        ExportedModel(model_folder)
    with pytest.raises(ValueError, match="must be a folder that hf-ris export wrote"):
        ExportedModel(tmp_path)


def test_another_opset_is_named(exports, tmp_path):
    import onnx

    folder = shutil.copytree(exports["cris"], tmp_path / "opset")
    graph = onnx.load(folder / "onnx" / "image.onnx")
    graph.opset_import[0].version = 999
    onnx.save(graph, folder / "onnx" / "image.onnx")
    files = json.loads((folder / "config.json").read_text())["files"]
    files["onnx/image.onnx"]["bytes"] = (folder / "onnx" / "image.onnx").stat().st_size
    with pytest.raises(ValueError, match=r"a graph onnx/image\.onnx, of opset 20, that onnxruntime .* cannot open"):
        ExportedModel(copy_with(folder, tmp_path / "changed", files=files))


def test_bad_options_are_named(exports, sources, images, tmp_path, monkeypatch):
    for options, message in (
        ({"dtype": "int4"}, "`dtype` must be one of"),
        ({"quantize": "int4"}, "`quantize` must be 'int8'"),
        ({"quantize": "int8", "dtype": "float16"}, "`quantize` must be 'int8' with `dtype` float32"),
        ({"expressions": 0}, "`expressions` must be at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            export_model(sources["cris"], tmp_path / "new", **options)
    with pytest.raises(ValueError, match="`output` must be a new or an empty folder"):
        export_model(sources["cris"], exports["cris"])
    with pytest.raises(
        ValueError, match=r"`model` must be a MagNet, CRIS or CLIPSeg, got a tas.*image_text, a CLIPModel"
    ):
        export_model("bundled-zero-shot", tmp_path / "new")
    alone = ExportedModel(exports["cris"])
    for options, message in (
        ({"threshold": 2}, "`threshold` must be"),
        ({"output_format": "svg"}, "`output_format` must be one of"),
        ({"text": "..."}, "`text` must say what to look for"),
        ({"text": []}, "`text` is an empty list"),
    ):
        with pytest.raises(ValueError, match=message):
            alone(images[0], **{"text": "a mug", **options})
    assert not (tmp_path / "new").exists()
    done = CliRunner().invoke(app, ["export", str(sources["cris"]), str(exports["cris"])])
    assert done.exit_code == 2 and "must be a new or an empty folder" in done.stderr
    monkeypatch.setattr(export, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r'pip install "hf_ris\[onnx\]"'):
        export_model(sources["cris"], tmp_path / "new")


def test_a_graph_that_answers_differently_is_not_written(sources, tmp_path, monkeypatch):
    monkeypatch.setitem(export.LARGEST_ERROR, "float32", 0.0)
    with pytest.raises(ValueError, match="answers differently, so nothing was written"):
        export_model(sources["clipseg"], tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


# With the weights that stand for the published ones, and with the bundled ones


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["magnet", "cris"])
def test_golden_weights(kind, tokenizer, tmp_path):
    config, model_class, mapping = {
        "magnet": (magnet_config(), hf_ris.MagNetForReferringSegmentation, mapping_magnet),
        "cris": (cris_config(), hf_ris.CRISForReferringSegmentation, mapping_cris),
    }[kind]
    model = model_class(config).eval()
    model.load_state_dict(mapping.convert_state_dict(draw_state(kind), model))
    names = {"img": "pixel_values", "word": "input_ids"}  # as the original calls them
    inputs = {
        names.get(name[2:], name[2:]): value
        for name, value in read_tensors(kind, "inputs.safetensors").items()
        if name[0] == "A"
    }
    inputs.setdefault("attention_mask", (inputs["input_ids"] != 0).long())
    inputs = {name: inputs[name] for name in ("pixel_values", "input_ids", "attention_mask")}
    height, width = inputs["pixel_values"].shape[2:]
    images = {"magnet": hf_ris.MagNetImageProcessor, "cris": hf_ris.CRISImageProcessor}[kind]
    processors = {"magnet": hf_ris.MagNetProcessor, "cris": hf_ris.CRISProcessor}[kind]
    processor = processors(images(size={"height": height, "width": width}), tokenizer, inputs["input_ids"].shape[1])
    pipeline("referring-segmentation", model=model, processor=processor, device="cpu").save_pretrained(
        tmp_path / "model"
    )
    alone = ExportedModel(export_model(tmp_path / "model", tmp_path / "export"))
    with torch.no_grad():
        expected = model(**inputs).logits.numpy()
    given = alone.run(*(tensor.numpy() for tensor in inputs.values())).logits
    assert np.abs(given - expected).max() < 1e-3 * np.abs(expected).max()


@pytest.mark.slow
def test_bundled_model(tmp_path):
    rows = load_refshapes("refshapes", "val", num_rows=200, cache_dir=tmp_path / "cache")
    exact = export_model("bundled", tmp_path / "exact")
    small = export_model("bundled", tmp_path / "int8", quantize="int8")
    model, exported = pipeline("referring-segmentation", device="cpu"), ask(exact)
    for row in list(rows)[:20]:
        texts = [expression["raw"] for expression in row["expressions"]]
        for one, other in zip(model(row["image"], text=texts), exported(row["image"], text=texts), strict=True):
            assert other["score"] == pytest.approx(one["score"], abs=1e-3)
            mask, expected = np.asarray(other["mask"]) > 0, np.asarray(one["mask"]) > 0
            assert (mask & expected).sum() >= 0.999 * (mask | expected).sum()
    figures = [evaluate(ask(folder), rows)["mIoU"] for folder in (exact, small)]
    assert figures[1] == pytest.approx(figures[0], abs=0.01)
    assert AutoProcessor.from_pretrained(exact).text_length == 32
