"""`import hf_ris` registers everything, costs next to nothing and touches nothing else."""

import subprocess
import sys
import time

import pytest
from transformers import AutoConfig, AutoImageProcessor, AutoProcessor

import hf_ris


def run_python(code: str, *arguments: str) -> str:
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "imports",
    [
        "import hf_ris\nfrom transformers import pipeline",
        "from transformers import pipeline\nimport hf_ris",
        "from transformers import AutoProcessor, AutoConfig\nimport hf_ris\nimport transformers.pipelines",
    ],
    ids=["hf_ris first", "transformers first", "auto classes first"],
)
def test_either_import_order_registers(imports, model_folder):
    code = f"""{imports}
import sys
from transformers import AutoProcessor, pipeline
print(type(AutoProcessor.from_pretrained(sys.argv[1])).__name__)
print(type(pipeline("referring-segmentation", model=sys.argv[1], device="cpu").model).__name__)
"""
    assert run_python(code, str(model_folder)).split() == ["MagNetProcessor", "MagNetForReferringSegmentation"]


def test_import_is_silent_and_light():
    code = """
import os, sys, warnings
before = dict(os.environ), list(warnings.filters), sys.excepthook
import hf_ris
assert before == (dict(os.environ), list(warnings.filters), sys.excepthook)
heavy = {"torch", "transformers", "transformers.pipelines", "numpy", "PIL", "datasets", "huggingface_hub"}
print(sorted(heavy & set(sys.modules)))
"""
    assert run_python(code).strip() == "[]"


@pytest.mark.parametrize(
    "code", ["import hf_ris", "from hf_ris.cli import app; app(['--help'], standalone_mode=False)"]
)
def test_import_and_help_are_fast(code):
    def best(of: str) -> float:
        times = []
        for _ in range(3):
            start = time.perf_counter()
            run_python(of)
            times.append(time.perf_counter() - start)
        return min(times)

    assert best(code) - best("pass") < 0.3


def test_auto_classes_load_a_saved_folder(model_folder):
    assert isinstance(AutoConfig.from_pretrained(model_folder), hf_ris.MagNetConfig)
    assert isinstance(AutoImageProcessor.from_pretrained(model_folder), hf_ris.MagNetImageProcessor)
    assert isinstance(AutoProcessor.from_pretrained(model_folder), hf_ris.MagNetProcessor)
    model = hf_ris.AutoModelForReferringSegmentation.from_pretrained(model_folder)
    assert isinstance(model, hf_ris.MagNetForReferringSegmentation)
    assert isinstance(
        hf_ris.AutoModelForReferringSegmentation.from_config(model.config), hf_ris.MagNetForReferringSegmentation
    )


def test_auto_model_refuses_other_systems():
    with pytest.raises(ValueError, match="Model type should be one of MagNetConfig"):
        hf_ris.AutoModelForReferringSegmentation.from_config(AutoConfig.for_model("bert"))


def test_every_export_exists():
    for name in hf_ris.__all__:
        assert getattr(hf_ris, name) is not None
        assert name in dir(hf_ris)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = hf_ris.nothing


@pytest.mark.parametrize(
    "statement",
    [
        "from hf_ris import MagNetConfig",
        "from hf_ris import MagNetProcessor",
        "from hf_ris.modeling.configuration_magnet import MagNetConfig",
        "from hf_ris.modeling.image_processing_magnet import MagNetImageProcessor",
        "from hf_ris.modeling.pipeline_referring_segmentation import ReferringSegmentationPipeline",
    ],
)
def test_any_module_may_be_imported_first(statement):
    """Registration imports modules of the package: none may be caught half-imported."""
    subprocess.run([sys.executable, "-c", statement], check=True, timeout=120)
