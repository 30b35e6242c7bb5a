"""Publishing on the Hub. No model goes up before it has answered in a fresh process, no dataset before every split was loaded."""

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
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, ModelCard
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
from .model_card import HERE, METRICS, add_results, trained_card, usage
from .output_folder import read_json, weights_fingerprint
from .systems import TASK, find_model


Note = Callable[[str], None]
Result = TypeVar("Result")

QUESTION = (Path(__file__).parent / "assets" / "demo_scene.png", "the black teapot in the middle")
PICTURES = (".png", ".jpg", ".jpeg", ".webp")
# What is loaded for lying there, so that what an earlier version left of it must go.
STALE = {
    "model": (".safetensors", ".safetensors.index.json", ".py"),
    "dataset": (".parquet",),
    "space": (".whl", ".py"),
}
BUSY = (429, 500, 502, 503, 504)  # what the Hub answers where asking again later helps
TRIES = 6
CHECK_SECONDS = 1800  # a large model loads slowly
# What a visitor runs who has this package, and what an endpoint runs that has not.
INSTALLED = """import json
import numpy as np
from hf_ris.results import to_plain
{usage}
answers = to_plain([{{**answer, "mask": np.asarray(answer["mask"]) > 0}}])
"""
STRANGER = """import base64, json, sys
sys.modules["hf_ris"] = None  # as where it was never installed
sys.path.insert(0, {folder!r})
from handler import EndpointHandler
picture = base64.b64encode(open({picture!r}, "rb").read()).decode()
answers = EndpointHandler({folder!r})({{"inputs": {{"image": picture, "text": {text!r}}}}})
"""
EPILOGUE = '\nprint("ANSWERS", json.dumps(answers))\n'


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
    Publishes a model: weights, processor, code, card and a handler for Inference Endpoints, in one commit.

    Args:
        source (`str` or `Path`): Folder or Hub id of a model, or one that comes with this package: "bundled" or "bundled-zero-shot".
        repo_id (`str`): Where it goes, such as "me/my-model".
        results (`Sequence`, *optional*): Files that `hf-ris evaluate` wrote about these weights, for the card.
        licence (`str`, *optional*): Of the weights, such as "apache-2.0"; needed where the source's card does not say.
        public (`bool`, *optional*, defaults to `False`): Whether everyone may see it.
        dry_run (`bool`, *optional*, defaults to `False`): Whether to do all but to upload.
        revision (`str`, *optional*): A branch; made if missing.
        note (`Callable`, *optional*): Called with lines of progress.

    Returns:
        `str` or `None`: The commit's address; `None` after a dry run.

    Raises:
        ValueError: If the licence is unknown, results are of other weights, the model does not answer, or the repository is public and
            `public` is not given.
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
    Publishes a folder that `hf-ris data export` wrote, after loading every split of it; arguments as of [`push_model`].

    Raises:
        ValueError: If the folder is none of these, or a split cannot be read.
        OSError: If the Hub cannot be reached or refuses.
    """
    import datasets

    source = Path(source)
    card = source / "README.md"
    if not card.is_file() or MARK not in card.read_text(encoding="utf-8"):
        raise ValueError(f"source={str(source)!r} is no folder that hf-ris data export wrote")
    if not dry_run:
        check_access(repo_id, "dataset", public)
    with tempfile.TemporaryDirectory(prefix="hf-ris-push-") as cache:
        try:
            splits = datasets.load_dataset(str(source), cache_dir=cache)
        except (datasets.exceptions.DatasetGenerationError, ValueError) as error:
            raise ValueError(f"source={str(source)!r} cannot be read: {error}") from error
        for name, rows in splits.items():
            _ = rows[0]["image"]
            note(f"{name}: {len(rows):,} referents")
    return upload(source, repo_id, "dataset", public, dry_run, revision, note, ["README.md", "*/*.parquet"])


def push_space(
    source: str | Path,
    repo_id: str,
    wheel: str | Path | None = None,
    public: bool = False,
    dry_run: bool = False,
    revision: str | None = None,
    note: Note = lambda message: None,
) -> str | None:
    """
    Publishes the demo together with a wheel of this package, so that it needs none from an index; arguments as of [`push_model`], and

    Args:
        source (`str` or `Path`): The folder with `app.py`, `requirements.txt` and `README.md`.
        wheel (`str` or `Path`, *optional*): A wheel of this package; by default one is built of the checkout that `source` lies in.

    Raises:
        ValueError: If a file is missing, or a wheel was neither given nor can be built.
        OSError: If the Hub cannot be reached or refuses.
    """
    source = Path(source).resolve()
    for name in ("app.py", "requirements.txt", "README.md"):
        if not (source / name).is_file():
            raise ValueError(f"source={str(source)!r} lacks {name}")
    if not dry_run:
        check_access(repo_id, "space", public)
    with tempfile.TemporaryDirectory(prefix="hf-ris-push-") as parent:
        folder = Path(parent) / "space"
        shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.whl", "__pycache__", ".*"))
        if wheel is None:
            note("building the wheel")
            build_wheel(source.parent, folder)
        elif not re.fullmatch(r"hf_ris-.*\.whl", Path(wheel).name):
            raise ValueError(f"wheel={str(wheel)!r} is no wheel of hf_ris")
        else:
            shutil.copy(wheel, folder)
        return upload(folder, repo_id, "space", public, dry_run, revision, note)


def build_wheel(checkout: Path, folder: Path) -> None:
    """Builds this package's wheel into `folder`, from a copy: a build leaves files behind."""
    if not (checkout / "pyproject.toml").is_file():
        raise ValueError(f"wheel is missing: there is no checkout at {str(checkout)!r} to build one of")
    with tempfile.TemporaryDirectory(prefix="hf-ris-wheel-") as copy:
        names = ["pyproject.toml", "README.md", "LICENSE", "src", "modeling"]
        for name in names:
            if (checkout / name).is_dir():
                ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
                shutil.copytree(checkout / name, Path(copy) / name, ignore=ignore)
            else:
                shutil.copy(checkout / name, copy)
        command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet", "--wheel-dir", str(folder), copy]
        if find_spec("setuptools"):  # nothing needs to be fetched
            command.append("--no-build-isolation")
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"wheel is missing, and cannot be built: {done.stderr.strip()}")


def read_results(path: str | Path) -> dict[str, Any]:
    """What `hf-ris evaluate` wrote: its `results.json`, or the folder with it."""
    path = Path(path)
    results = read_json(path / "results.json" if path.is_dir() else path)
    missing = sorted({"dataset", "protocol", "text_column", "expressions", "weights", *METRICS} - set(results))
    if missing:
        raise ValueError(f"results={str(path)!r} is no results.json of hf-ris evaluate: it lacks {missing[0]!r}")
    return results


def stage_model(
    source: str | Path, repo_id: str, folder: Path, results: Sequence[dict[str, Any]], licence: str | None
) -> None:
    """Writes to `folder` what is to be published of a model, and nothing else that may lie in its folder."""
    source = find_model(source)
    model = load_whole(source)
    fingerprint = weights_fingerprint(model) if results else ""
    for result in results:
        if result["weights"] != fingerprint:
            raise ValueError(f"results are of other weights ({result['weights']}) than the source's ({fingerprint})")
    ris = pipeline(TASK, model=model, processor=AutoProcessor.from_pretrained(source), device="cpu")
    ris.save_pretrained(folder)
    shutil.copy(endpoint_handler.__file__, folder / "handler.py")
    (folder / "requirements.txt").write_text("\n".join(endpoint_requirements()) + "\n", encoding="utf-8")

    card = _card_of(source) or _card_of(str(folder))  # composed models write their own
    if card is None:
        card = trained_card(repo_id.rpartition("/")[2], model, licence)
    if licence is not None:
        card.data["license"] = licence
    if not card.data.get("license"):
        raise ValueError("licence of the weights is not known: say it, such as apache-2.0")
    card.text = card.text.replace(HERE, repo_id)
    if f'model="{repo_id}"' not in card.text:
        card.text = f"{card.text.rstrip()}\n\n## Use\n\n```python\n{usage(repo_id)}\n```\n"
    if results:
        add_results(card, repo_id.rpartition("/")[2], results)
    card.save(folder / "README.md")
    for path in Path(source).glob("*"):
        if path.suffix.lower() in PICTURES and path.name in card.text:
            shutil.copy(path, folder)


def _card_of(source: str) -> ModelCard | None:
    """The card in a folder or on the Hub, if there is one."""
    if Path(source).is_dir():
        path = Path(source) / "README.md"
        return ModelCard.load(path) if path.is_file() else None
    try:
        return ModelCard.load(source)
    except EntryNotFoundError:
        return None


def endpoint_requirements() -> list[str]:
    """What an Inference Endpoint has to install for `handler.py`: of this package's requirements those of its models."""
    needed = ("huggingface_hub", "transformers", "scikit-image", "scipy")
    lines = [line.partition(";")[0].strip() for line in metadata.requires("hf_ris") or []]
    return sorted({line for line in lines if re.split(r"[<>=!\[ ]", line)[0] in needed})


def check_model(folder: Path) -> None:
    """
    Asks the model in a folder about a picture, offline and in two fresh processes: as its card says, and as an Inference Endpoint does,
    where this package is not installed.

    Raises:
        ValueError: If a process fails, or the two answer differently.
    """
    picture, text = str(QUESTION[0]), QUESTION[1]
    scripts = (
        INSTALLED.format(usage=usage(str(folder), picture, text)),
        STRANGER.format(folder=str(folder), picture=picture, text=text),
    )
    told = []
    for script in scripts:
        with tempfile.TemporaryDirectory(prefix="hf-ris-modules-") as modules:
            environment = {
                **os.environ,
                "HF_HUB_OFFLINE": "1",
                "HF_MODULES_CACHE": modules,
                "CUDA_VISIBLE_DEVICES": "",
            }
            try:
                done = subprocess.run(
                    [sys.executable, "-c", script + EPILOGUE],
                    capture_output=True,
                    text=True,
                    check=False,
                    timeout=CHECK_SECONDS,
                    env=environment,
                    cwd=modules,
                )
            except subprocess.TimeoutExpired as error:
                raise ValueError(f"the model does not answer within {CHECK_SECONDS} seconds") from error
        found = re.search(r"^ANSWERS (.*)$", done.stdout, re.MULTILINE)
        if done.returncode or found is None:
            raise ValueError(f"the model cannot be loaded and asked:\n{done.stderr.strip()[-2000:]}")
        told.append(json.loads(found[1]))
    if told[0][0]["mask"] != told[1][0]["mask"]:
        raise ValueError("the model answers differently where hf_ris is installed and where it is not")


def check_access(repo_id: str, kind: str, public: bool) -> None:
    """
    Whether this machine's user may write, before anything slow begins.

    Raises:
        ValueError: If this is no name of a repository, or the repository can be seen by everyone, and that was not asked for.
        OSError: If nobody is logged in, the token may only read, or the Hub cannot be reached.
    """
    if repo_id.count("/") != 1:
        raise ValueError(f"repo_id must be user/name, got {repo_id!r}")
    api = HfApi()
    with _explained(repo_id):
        user = retried(api.whoami)
        try:
            is_private = retried(lambda: api.repo_info(repo_id, repo_type=kind)).private
        except RepositoryNotFoundError:
            is_private = None
    if user.get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise OSError("this token may only read: make one that may write, and run `hf auth login`")
    owners = [user["name"], *(organisation["name"] for organisation in user.get("orgs", []))]
    if repo_id.partition("/")[0] not in owners:
        raise OSError(f"{user['name']} cannot write to {repo_id}; allowed are repositories of {', '.join(owners)}")
    if is_private is False and not public:
        raise ValueError(f"{repo_id} exists and is public: say so (--public), or name another")


def upload(
    folder: Path,
    repo_id: str,
    kind: str,
    public: bool,
    dry_run: bool,
    revision: str | None,
    note: Note,
    patterns: Sequence[str] | None = None,
) -> str | None:
    """
    Uploads a folder in one commit, which is there whole or not at all; where the Hub is busy, later.

    Args:
        folder (`Path`): What goes up.
        repo_id (`str`): Made if missing.
        kind (`str`): "model", "dataset" or "space".
        public, dry_run, revision, note: As of [`push_model`].
        patterns (`Sequence[str]`, *optional*): Files that go up; by default all.

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
    space: dict[str, Any] = {"space_sdk": "gradio"} if kind == "space" else {}
    with _explained(repo_id):
        retried(lambda: api.create_repo(repo_id, repo_type=kind, private=not public, exist_ok=True, **space))
        if revision is not None:
            retried(lambda: api.create_branch(repo_id, branch=revision, repo_type=kind, exist_ok=True))
        there = retried(lambda: api.list_repo_files(repo_id, repo_type=kind, revision=revision))
        names = {path.relative_to(folder).as_posix(): path for path in files}
        operations: list[Any] = [CommitOperationAdd(name, path) for name, path in names.items()]
        folders = {PurePosixPath(name).parent for name in names}
        for name in there:
            if name not in names and name.endswith(STALE[kind]) and PurePosixPath(name).parent in folders:
                note(f"  {'deleted':>13}  {name}, which an earlier version left")
                operations.append(CommitOperationDelete(name))
        commit = retried(
            lambda: api.create_commit(
                repo_id,
                operations,
                commit_message="Upload with hf-ris push",
                repo_type=kind,
                revision=revision,
            )
        )
    return str(commit.commit_url)


def retried(ask: Callable[[], Result]) -> Result:
    """Asks the Hub again when it is busy; its client does so for some requests only."""
    for number in range(1, TRIES + 1):
        try:
            return ask()
        except HfHubHTTPError as error:
            if error.response.status_code not in BUSY or number == TRIES:
                raise
            wait = error.response.headers.get("Retry-After", "")
            time.sleep(min(300, int(wait)) if wait.isdigit() else 2**number)
    raise AssertionError("not reached")


@contextmanager
def _explained(repo_id: str) -> Iterator[None]:
    """What the Hub refuses, or why it cannot be reached, in a sentence."""
    try:
        yield
    except LocalTokenNotFoundError as error:
        raise OSError("nobody is logged in to the Hub: run `hf auth login`, or set HF_TOKEN") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status == 401:
            raise OSError("the Hub does not know this token: run `hf auth login`, or set HF_TOKEN") from error
        reason = error.server_message or f"status {status}"
        raise OSError(f"the Hub refuses what was asked of {repo_id}: {reason}") from error
    except (httpx2.HTTPError, RuntimeError) as error:  # the latter where an upload broke
        raise OSError(f"the connection to the Hub broke; nothing was published: {error}") from error


__all__ = ["check_model", "push_dataset", "push_model", "push_space"]
