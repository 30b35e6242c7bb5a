"""What is on disk is what gets installed, and nothing is imported by a name that only works in this folder."""

import ast
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from hf_ris.hub import build_wheel


ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel_files(tmp_path_factory) -> set[str]:
    """The files of a wheel built from a clean copy, which no earlier build can have left anything in."""
    folder = tmp_path_factory.mktemp("build")
    build_wheel(ROOT, folder)
    (wheel,) = folder.glob("*.whl")
    assert wheel.stat().st_size < 22e6
    return set(zipfile.ZipFile(wheel).namelist())


def files_below(folder: Path, pattern: str) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in folder.rglob(pattern) if "egg-info" not in str(path)]


def test_the_wheel_holds_every_module(wheel_files):
    expected = set(files_below(ROOT / "src", "*.py"))
    expected |= {f"hf_ris/modeling/{name}" for name in files_below(ROOT / "modeling", "*.py")}
    assert {name for name in wheel_files if name.endswith(".py")} == expected


def test_the_wheel_holds_the_data(wheel_files):
    expected = {f"hf_ris/{name}" for part in ("assets", "checkpoints") for name in _data_files(part)}
    assert expected, "no bundled picture or checkpoint on disk"
    assert expected | {"hf_ris/py.typed"} <= wheel_files


def test_the_wheel_holds_the_page_without_a_server(wheel_files):
    page = {f"hf_ris/web_page/{name}" for name in files_below(ROOT / "spaces_demo" / "web", "*.*")}
    assert page == {name for name in wheel_files if name.startswith("hf_ris/web_page/")}


def _data_files(part: str) -> list[str]:
    folder = ROOT / "src" / "hf_ris"
    return [path.relative_to(folder).as_posix() for path in (folder / part).rglob("*") if path.is_file()]


def test_the_space_installs_what_the_package_needs():
    """The Space brings the wheel along and installs it without its requirements."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = {*project["dependencies"], "scikit-image>=0.24", "scipy>=1.13"}
    assert set((ROOT / "spaces_demo" / "requirements.txt").read_text(encoding="utf-8").split("\n")) - {""} == wanted


def test_the_wheel_brings_no_other_top_level_name(wheel_files):
    assert {name.split("/")[0] for name in wheel_files if ".dist-info/" not in name} == {"hf_ris"}


@pytest.mark.parametrize("folder", ["modeling", "src", "scripts", "tests", "spaces_demo"])
def test_nothing_imports_a_bare_modeling(folder):
    """From the root that would work, and give a second copy of every class."""
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            assert not [name for name in names if name.split(".")[0] == "modeling"], path


def test_modeling_can_be_exported_as_remote_code():
    """The remote-code loader follows `from .name import thing` only, and demands every package it sees imported."""
    allowed = {"torch", "transformers", "numpy", "PIL", "huggingface_hub", *sys.stdlib_module_names}
    for path in (ROOT / "modeling").glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        optional = {id(inner) for node in ast.walk(tree) if isinstance(node, ast.Try) for inner in ast.walk(node)}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.level:
                assert node.level == 1 and node.module and "." not in node.module, f"{path.name}: line {node.lineno}"
            elif isinstance(node, ast.Import | ast.ImportFrom) and id(node) not in optional:
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
                assert {name.split(".")[0] for name in names} <= allowed, f"{path.name}: line {node.lineno}"
    assert not [path for path in (ROOT / "modeling").iterdir() if path.is_dir() and path.name != "__pycache__"]
