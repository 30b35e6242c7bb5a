"""Publish on the Hub: a model once it has answered in a fresh process, a dataset once every split was loaded, the demo."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import httpx2
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, ModelCard, metadata_load
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    LocalTokenNotFoundError,
    RepositoryNotFoundError,
)
from transformers import AutoProcessor, pipeline

from . import endpoint_handler
from .auto import load_whole
from .data.export import MARK
from .output_folder import read_json, weights_fingerprint
from .published_card import HERE, METRICS, add_results, trained_card, usage
from .systems import HUB_MODELS, ONNX_TYPE, TASK, find_model
from .web import build_site


Note = Callable[[str], None]
Result = TypeVar("Result")

SPACE_FILES = {
    "gradio": ("app.py", "requirements.txt"),
    "static": ("index.html", "packages.json"),
}  # besides README.md
CHECK_IMAGE = Path(__file__).parent / "assets" / "demo_scene.png"
CHECK_TEXT = "the black teapot in the middle"
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
# Files that are loaded because they are in the repository: those of an earlier version are deleted.
STALE_SUFFIXES = {
    "model": (".safetensors", ".safetensors.index.json", ".py"),
    "dataset": (".parquet",),
    "space": (".whl", ".py"),
}
BUSY = (429, 500, 502, 503, 504)  # statuses after which asking again later helps
TRIES = 6
CHECK_SECONDS = 1800  # a large model loads slowly
# What a user of this package runs, and what an Inference Endpoint runs without it.
SCRIPT_WITH_PACKAGE = """import json
import numpy as np
from hf_ris.results import to_plain
{usage}
answers = to_plain([{{**answer, "mask": np.asarray(answer["mask"]) > 0}}])
"""
SCRIPT_WITHOUT_PACKAGE = """import base64, json, sys
sys.modules["hf_ris"] = None  # as where it was never installed
sys.path.insert(0, {folder!r})
from handler import EndpointHandler
image = base64.b64encode(open({image!r}, "rb").read()).decode()
answers = EndpointHandler({folder!r})({{"inputs": {{"image": image, "text": {text!r}}}}})
"""
PRINT_ANSWERS = '\nprint("ANSWERS", json.dumps(answers))\n'


def push_model(
    source: str | Path,
    repo_id: str,
    results: Sequence[str | Path] = (),
    licence: str | None = None,
    public: bool = False,
    dry_run: bool = False,
    revision: str | None = None,
    note: Note = lambda message: None,
) -> str | None:
    """
    Publish a model: weights, processor, code, card and a handler for Inference Endpoints, in one commit.

    Args:
        source (`str` or `Path`): Folder or Hub id of a model, or one that comes with this package: "bundled" or "bundled-zero-shot".
        repo_id (`str`): The repository, such as "me/my-model".
        results (`Sequence`, *optional*): Files that `hf-ris evaluate` wrote about these weights, for the card.
        licence (`str`, *optional*): The weights' licence, such as "apache-2.0"; needed where the source's card names none.
        public (`bool`, *optional*, defaults to `False`): Whether everyone may see it.
        dry_run (`bool`, *optional*, defaults to `False`): Whether to do everything except the upload.
        revision (`str`, *optional*): A branch; made if missing.
        note (`Callable`, *optional*): Called with lines of progress.

    Returns:
        `str` or `None`: The commit's address; `None` after a dry run.

    Raises:
        ValueError: If the licence is unknown, results are of other weights, the model does not answer, or the repository is public
            without `public`.
        OSError: If a file cannot be read, or the Hub cannot be reached or refuses.
    """
    if not dry_run:
        check_access(repo_id, "model", public)
    with tempfile.TemporaryDirectory(prefix="hf-ris-push-") as parent:
        folder = Path(parent) / "model"
        note(f"loading {source}")
        stage_model(source, repo_id, folder, [read_results(path) for path in results], licence)
        note("asking it in fresh processes, with and without hf_ris")
        check_model(folder)
        return upload(folder, repo_id, "model", public, dry_run, revision, note)


def push_dataset(
    source: str | Path,
    repo_id: str,
    public: bool = False,
    dry_run: bool = False,
    revision: str | None = None,
    note: Note = lambda message: None,
) -> str | None:
    """
    Publish a folder that `hf-ris data export` wrote, after loading every split of it; arguments as in [`push_model`].

    Raises:
        ValueError: If the folder is something else, or a split cannot be read.
        OSError: If the Hub cannot be reached or refuses.
    """
    import datasets

    source = Path(source)
    card = source / "README.md"
    if not card.is_file() or MARK not in card.read_text(encoding="utf-8"):
        raise ValueError(f"`source` must be a folder that hf-ris data export wrote, got {str(source)!r}.")
    if not dry_run:
        check_access(repo_id, "dataset", public)
    with tempfile.TemporaryDirectory(prefix="hf-ris-push-") as cache:
        try:
            splits = datasets.load_dataset(str(source), cache_dir=cache)
        except (datasets.exceptions.DatasetGenerationError, ValueError) as error:
            raise ValueError(f"`source` {str(source)!r} cannot be read: {error}") from error
        for name, rows in splits.items():
            _ = rows[0]["image"]
            note(f"{name}: {len(rows):,} referents")
    return upload(source, repo_id, "dataset", public, dry_run, revision, note, ["README.md", "*/*.parquet"])


def push_space(
    source: str | Path,
    repo_id: str,
    sdk: str,
    wheel: str | Path | None = None,
    model: str | None = None,
    public: bool = False,
    dry_run: bool = False,
    revision: str | None = None,
    note: Note = lambda message: None,
) -> str | None:
    """
    Publish a demo; arguments as in [`push_model`], and

    Args:
        source (`str` or `Path`): The folder with `README.md`.
        sdk (`str`): "gradio" for a folder with `app.py` and `requirements.txt`, "static" for one with `index.html`; the README's
            `sdk`, which the Hub reads, must be the same.
        wheel (`str` or `Path`, *optional*): For Gradio, a wheel of this package, so that it needs none from an index; by default one is
            built from the checkout that holds `source`.
        model (`str`, *optional*): For a static page, the folder of an exported model, or one to export; by default the bundled one.

    Raises:
        ValueError: If a file is missing, the README or an argument is of the other kind, a wheel was neither given nor can be built, or
            the page does not run the model.
        OSError: If the Hub cannot be reached or refuses, or npm's registry does.
    """
    source = Path(source).resolve()
    if sdk not in SPACE_FILES:
        raise ValueError(f"`sdk` must be one of {list(SPACE_FILES)}, got {sdk!r}.")
    card = source / "README.md"
    written = (metadata_load(card) or {}).get("sdk") if card.is_file() else None
    if written != sdk:
        raise ValueError(f"`source` must hold a README.md whose `sdk` is {sdk}; that of {str(source)!r} is {written}.")
    for name in SPACE_FILES[sdk]:
        if not (source / name).is_file():
            raise ValueError(f"`source` must hold {name}; {str(source)!r} does not.")
    is_static = sdk == "static"
    if wheel is not None and is_static:
        raise ValueError(f"`wheel` must be left out for a static page, got {str(wheel)!r}.")
    if model is not None and not is_static:
        raise ValueError(f"`model` must be left out for a Space of Gradio, got {model!r}.")
    if not dry_run:
        check_access(repo_id, "space", public)
    with tempfile.TemporaryDirectory(prefix="hf-ris-push-") as parent:
        folder = Path(parent) / "space"
        if is_static:
            build_site(folder, model or "bundled", source, note)
        else:
            shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.whl", "__pycache__", ".*", "web"))
            _add_wheel(wheel, source.parent, folder, note)
        return upload(folder, repo_id, "space", public, dry_run, revision, note, space_sdk=sdk)


def _add_wheel(wheel: str | Path | None, checkout: Path, folder: Path, note: Note) -> None:
    if wheel is None:
        note("building the wheel")
        build_wheel(checkout, folder)
    elif not re.fullmatch(r"hf_ris-.*\.whl", Path(wheel).name):
        raise ValueError(f"`wheel` must be a wheel of hf_ris, got {str(wheel)!r}.")
    else:
        shutil.copy(wheel, folder)


def build_wheel(checkout: Path, folder: Path) -> None:
    """Build this package's wheel into `folder`, from a copy of the checkout: a build leaves files behind."""
    if not (checkout / "pyproject.toml").is_file():
        raise ValueError(f"`wheel` is missing, and there is no checkout at {str(checkout)!r} to build one from.")
    with tempfile.TemporaryDirectory(prefix="hf-ris-wheel-") as copy:
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(checkout / name, copy)
        for name in ("src", "modeling", "spaces_demo/web"):
            ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
            shutil.copytree(checkout / name, Path(copy) / name, ignore=ignore)
        command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet", "--wheel-dir", str(folder), copy]
        if find_spec("setuptools"):  # nothing needs to be fetched
            command.append("--no-build-isolation")
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"`wheel` is missing, and cannot be built: {done.stderr.strip()}")


def read_results(path: str | Path) -> dict[str, Any]:
    """Read the `results.json` that `hf-ris evaluate` wrote, given as a file or its folder."""
    path = Path(path)
    results = read_json(path / "results.json" if path.is_dir() else path)
    missing = sorted({"dataset", "protocol", "text_column", "expressions", "weights", *METRICS} - set(results))
    if missing:
        raise ValueError(f"`results` must be a results.json of hf-ris evaluate; {str(path)!r} lacks {missing[0]!r}.")
    return results


def stage_model(
    source: str | Path, repo_id: str, folder: Path, results: Sequence[dict[str, Any]], licence: str | None
) -> None:
    """Write a model's files for publishing to `folder`, and nothing else that may be in the source."""
    source = find_model(source)
    model = load_whole(source)
    if model.config.model_type in HUB_MODELS:
        raise ValueError(
            f"`source` must be a model whose code is this library's, got {source!r}, a {model.config.model_type} of transformers; its "
            "pipeline's `push_to_hub(repo_id)` publishes it."
        )
    fingerprint = weights_fingerprint(model) if results else ""
    for result in results:
        if result["weights"] != fingerprint:
            raise ValueError(f"`results` are of other weights ({result['weights']}) than the model's ({fingerprint}).")
    if model.config.model_type == ONNX_TYPE:  # which has its handler
        model.save_pretrained(folder)
    else:
        ris = pipeline(TASK, model=model, processor=AutoProcessor.from_pretrained(source), device="cpu")
        ris.save_pretrained(folder)
        shutil.copy(endpoint_handler.__file__, folder / "handler.py")
        (folder / "requirements.txt").write_text("\n".join(endpoint_requirements()) + "\n", encoding="utf-8")

    card = load_card(source) or load_card(str(folder))  # composed models write their own
    if card is None:
        card = trained_card(repo_id.rpartition("/")[2], model, licence)
    if licence is not None:
        card.data["license"] = licence
    if not card.data.get("license"):
        raise ValueError("`licence` is missing: name the weights' licence, such as apache-2.0.")
    card.text = card.text.replace(HERE, repo_id)
    if f'model="{repo_id}"' not in card.text:
        card.text = f"{card.text.rstrip()}\n\n## Use\n\n```python\n{usage(repo_id)}\n```\n"
    if results:
        add_results(card, repo_id.rpartition("/")[2], results)
    card.save(folder / "README.md")
    for path in Path(source).glob("*"):
        if path.suffix.lower() in IMAGE_SUFFIXES and path.name in card.text:
            shutil.copy(path, folder)


def load_card(source: str) -> ModelCard | None:
    """Load the card of a folder or Hub id; `None` where there is none."""
    if Path(source).is_dir():
        path = Path(source) / "README.md"
        return ModelCard.load(path) if path.is_file() else None
    try:
        return ModelCard.load(source)
    except EntryNotFoundError:
        return None


def endpoint_requirements() -> list[str]:
    """List what an Inference Endpoint has to install for `handler.py`: those of this package's requirements that models need."""
    needed = ("huggingface_hub", "transformers", "scikit-image", "scipy")
    lines = [line.partition(";")[0].strip() for line in metadata.requires("hf_ris") or []]
    return sorted({line for line in lines if re.split(r"[<>=!\[ ]", line)[0] in needed})


def check_model(folder: Path) -> None:
    """
    Ask the model in a folder about an image, offline and in two fresh processes: with the lines of its card, and like an Inference
    Endpoint, where this package is not installed.

    Raises:
        ValueError: If a process fails, or the two answer differently.
    """
    scripts = (
        SCRIPT_WITH_PACKAGE.format(usage=usage(str(folder), str(CHECK_IMAGE), CHECK_TEXT)),
        SCRIPT_WITHOUT_PACKAGE.format(folder=str(folder), image=str(CHECK_IMAGE), text=CHECK_TEXT),
    )
    outputs = []
    for script in scripts:
        with tempfile.TemporaryDirectory(prefix="hf-ris-modules-") as modules:
            offline = {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": modules, "CUDA_VISIBLE_DEVICES": ""}
            try:
                done = subprocess.run(
                    [sys.executable, "-c", script + PRINT_ANSWERS],
                    capture_output=True,
                    text=True,
                    check=False,
                    timeout=CHECK_SECONDS,
                    env={**os.environ, **offline},
                    cwd=modules,
                )
            except subprocess.TimeoutExpired as error:
                raise ValueError(f"The model does not answer within {CHECK_SECONDS} seconds.") from error
        found = re.search(r"^ANSWERS (.*)$", done.stdout, re.MULTILINE)
        if done.returncode or found is None:
            raise ValueError(f"The model cannot be loaded and asked:\n{done.stderr.strip()[-2000:]}")
        outputs.append(json.loads(found[1]))
    if outputs[0][0]["mask"] != outputs[1][0]["mask"]:
        raise ValueError("The model answers differently where hf_ris is installed and where it is not.")


def check_access(repo_id: str, kind: str, public: bool) -> None:
    """
    Check that this machine's user may write to a repository, before anything slow begins.

    Raises:
        ValueError: If `repo_id` is unfit, or everyone can see the repository and `public` is not given.
        OSError: If nobody is logged in, the token may only read, or the Hub cannot be reached.
    """
    if repo_id.count("/") != 1:
        raise ValueError(f"`repo_id` must be user/name, got {repo_id!r}.")
    api = HfApi()
    with _explained(repo_id):
        user = retry(api.whoami)
        try:
            is_private = retry(lambda: api.repo_info(repo_id, repo_type=kind)).private
        except RepositoryNotFoundError:
            is_private = None
    if user.get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise OSError("This token may only read: make one that may write, and run `hf auth login`.")
    owners = [user["name"], *(organisation["name"] for organisation in user.get("orgs", []))]
    if repo_id.partition("/")[0] not in owners:
        raise OSError(f"{user['name']} cannot write to {repo_id}; allowed are repositories of {', '.join(owners)}.")
    if is_private is False and not public:
        raise ValueError(f"{repo_id} exists and is public: give --public, or name another.")


def upload(
    folder: Path,
    repo_id: str,
    kind: str,
    public: bool,
    dry_run: bool,
    revision: str | None,
    note: Note,
    patterns: Sequence[str] | None = None,
    space_sdk: str | None = None,
) -> str | None:
    """
    Upload a folder to a repository of this kind ("model", "dataset" or "space"), made if missing, in one commit, whole or not at
    all; `patterns` name the files, by default all, `space_sdk` says what runs a Space, the other arguments are those of [`push_model`].

    Raises:
        OSError: If nobody is logged in, or the Hub cannot be reached or refuses.
    """
    files = sorted(path for pattern in patterns or ("**/*",) for path in folder.glob(pattern) if path.is_file())
    sizes = [path.stat().st_size for path in files]
    for path, size in zip(files, sizes, strict=True):
        note(f"  {size:>13,}  {path.relative_to(folder).as_posix()}")
    seen = "everyone" if public else "only you"
    total = f"{len(files)} files, {sum(sizes) / 1e6:.1f} MB, to the {kind} {repo_id}, if new seen by {seen}"
    if dry_run:
        note(f"nothing was uploaded: {total}")
        return None
    note(total)
    api = HfApi()
    space: dict[str, Any] = {"space_sdk": space_sdk} if space_sdk else {}
    with _explained(repo_id):
        retry(lambda: api.create_repo(repo_id, repo_type=kind, private=not public, exist_ok=True, **space))
        if revision is not None:
            retry(lambda: api.create_branch(repo_id, branch=revision, repo_type=kind, exist_ok=True))
        there = retry(lambda: api.list_repo_files(repo_id, repo_type=kind, revision=revision))
        names = {path.relative_to(folder).as_posix(): path for path in files}
        operations: list[Any] = [CommitOperationAdd(name, path) for name, path in names.items()]
        folders = {PurePosixPath(name).parent for name in names}
        for name in there:
            if name not in names and name.endswith(STALE_SUFFIXES[kind]) and PurePosixPath(name).parent in folders:
                note(f"  {'deleted':>13}  {name}, which an earlier version left")
                operations.append(CommitOperationDelete(name))
        commit = retry(
            lambda: api.create_commit(
                repo_id,
                operations,
                commit_message="Upload with hf-ris push",
                repo_type=kind,
                revision=revision,
            )
        )
    return str(commit.commit_url)


def retry(ask: Callable[[], Result]) -> Result:
    """Ask the Hub again when it is busy; its client does so for some requests only."""
    for number in range(1, TRIES):
        try:
            return ask()
        except HfHubHTTPError as error:
            if error.response.status_code not in BUSY:
                raise
            wait = error.response.headers.get("Retry-After", "")
            time.sleep(min(300, int(wait)) if wait.isdigit() else 2**number)
    return ask()


@contextmanager
def _explained(repo_id: str) -> Iterator[None]:
    """Turn the Hub client's errors into a sentence that says what was refused, or why the Hub cannot be reached."""
    try:
        yield
    except LocalTokenNotFoundError as error:
        raise OSError("Nobody is logged in to the Hub: run `hf auth login`, or set HF_TOKEN.") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status == 401:
            raise OSError("The Hub does not know this token: run `hf auth login`, or set HF_TOKEN.") from error
        reason = error.server_message or f"status {status}"
        raise OSError(f"The Hub refuses this for {repo_id}: {reason}") from error
    except (httpx2.HTTPError, RuntimeError) as error:  # the latter where an upload broke
        raise OSError(f"The connection to the Hub broke; nothing was published: {error}") from error


__all__ = ["check_model", "push_dataset", "push_model", "push_space"]
