"""`import hf_ris` registers everything, costs next to nothing and touches nothing else."""

import logging
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from transformers import AutoConfig, AutoImageProcessor, AutoProcessor
from transformers.models.auto import image_processing_auto
from transformers.utils import logging as transformers_logging

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


@pytest.mark.parametrize(
    "action",
    [
        "import hf_ris",
        "from hf_ris.cli import app; app(['--help'], standalone_mode=False)",
        "from hf_ris.cli import app; app(['segment', '--help'], standalone_mode=False)",
    ],
    ids=["import", "help", "help of a command"],
)
def test_import_and_help_are_light(action):
    code = f"""
import sys
{action}
heavy = {{"torch", "transformers", "numpy", "PIL", "datasets", "huggingface_hub", "pycocotools", "accelerate"}}
print(sorted({{name.split(".")[0] for name in sys.modules}} & heavy))
"""
    assert run_python(code).splitlines()[-1] == "[]"


def test_import_is_silent():
    code = """
import os, sys, warnings
before = dict(os.environ), list(warnings.filters), sys.excepthook
import hf_ris
assert before == (dict(os.environ), list(warnings.filters), sys.excepthook)
"""
    assert run_python(code) == ""


def test_submodules_need_no_import_of_their_own():
    code = """
import hf_ris
print(hf_ris.data.load_refshapes.__name__, hf_ris.metrics.summarize.__name__, hf_ris.training.train.__name__)
print(hf_ris.evaluation.evaluate.__name__, hf_ris.modeling.__name__)
"""
    names = ["load_refshapes", "summarize", "train", "evaluate", "hf_ris.modeling"]
    assert run_python(code).split() == names
    assert {"data", "evaluation", "metrics", "modeling", "training"} <= set(dir(hf_ris))


def test_auto_classes_load_a_saved_folder(model_folder):
    assert isinstance(AutoConfig.from_pretrained(model_folder), hf_ris.MagNetConfig)
    assert isinstance(AutoImageProcessor.from_pretrained(model_folder), hf_ris.MagNetImageProcessor)
    assert isinstance(AutoProcessor.from_pretrained(model_folder), hf_ris.MagNetProcessor)
    model = hf_ris.AutoModelForReferringSegmentation.from_pretrained(model_folder)
    assert isinstance(model, hf_ris.MagNetForReferringSegmentation)
    assert isinstance(
        hf_ris.AutoModelForReferringSegmentation.from_config(model.config), hf_ris.MagNetForReferringSegmentation
    )


@pytest.mark.parametrize("has_torchvision", [True, False])
def test_the_image_processor_loads_without_a_word(has_torchvision, model_folder, monkeypatch, caplog):
    monkeypatch.setattr(image_processing_auto, "is_torchvision_available", lambda: has_torchvision)
    transformers_logging.warning_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        processor = AutoProcessor.from_pretrained(model_folder)
    assert type(processor.image_processor) is hf_ris.MagNetImageProcessor
    assert not caplog.records


def test_auto_model_refuses_other_systems():
    with pytest.raises(ValueError, match="Model type should be one of MagNetConfig"):
        hf_ris.AutoModelForReferringSegmentation.from_config(AutoConfig.for_model("bert"))


def test_every_export_exists():
    for name in hf_ris.__all__:
        assert getattr(hf_ris, name) is not None
        assert name in dir(hf_ris)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = hf_ris.nothing


STATEMENTS = [
    "from hf_ris import MagNetConfig",
    "from hf_ris import MagNetProcessor",
    "from hf_ris.modeling.configuration_magnet import MagNetConfig",
    "from hf_ris.modeling.processing_magnet import MagNetImageProcessor",
    "from hf_ris.modeling.pipeline_referring_segmentation import ReferringSegmentationPipeline",
    "import hf_ris.modeling.configuration_zero_shot",
    "from hf_ris.modeling.configuration_zero_shot import GlobalLocalConfig",
    "import hf_ris.modeling.configuration_clip_resnet",
    "import hf_ris.modeling.zero_shot_regions",
]


@pytest.mark.slow
def test_any_module_may_be_imported_first():
    """Registration imports modules of the package: none may be caught half-imported."""
    with ThreadPoolExecutor(2) as pool:  # each takes seconds, in a process of its own
        list(pool.map(run_python, STATEMENTS))
