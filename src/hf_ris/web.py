"""The page that segments in the browser, without a server: built into a folder, and served to this machine."""

import base64
import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
import webbrowser
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
from huggingface_hub import constants

from . import __version__, modeling
from .data.refshapes import EXAMPLES
from .output_folder import read_json, write_whole
from .systems import BUNDLED_CHECKPOINT, ONNX_TYPE, find_model


Note = Callable[[str], None]

HERE = Path(__file__).parent
# A wheel brings the page along; a checkout has it among the Spaces.
PAGE = HERE / "web_page" if (HERE / "web_page").is_dir() else HERE.parents[1] / "spaces_demo" / "web"
REGISTRY = "https://registry.npmjs.org"
FIRST_SCENE = ("the black teapot in the middle", "the little pink tree on the right")
PORTS = range(7860, 7960)
# WebAssembly's threads need the first two. The third holds every worker to what the page says: nothing leaves this machine.
HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Content-Security-Policy": "connect-src 'self'",
    "Cache-Control": "no-cache",
}


def build_site(
    folder: str | Path,
    model: str | Path = "bundled",
    page: Path = PAGE,
    note: Note = lambda message: None,
) -> None:
    """
    Build the page with all that it needs, for any server of static files: its own files, the packages that it pins, downloaded from
    npm's registry once, a model, and scenes to ask about. The folder is there as a whole or not at all.

    Args:
        folder (`str` or `Path`): The folder to make.
        model (`str` or `Path`, *optional*, defaults to `"bundled"`): A folder that `hf-ris export` wrote, or a model to export.
        page (`Path`, *optional*): Folder of the page's own files; by default the one that comes with this package.
        note (`Callable`, *optional*): Called with lines of progress.

    Raises:
        ValueError: If the folder is there already, or the model is none that the page runs.
        OSError: If a package cannot be downloaded, or is another than the pinned one.
    """
    folder = Path(folder)
    if folder.exists():
        raise ValueError(f"`folder` must not be there yet, got {str(folder)!r}.")
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as parent:
        site = Path(parent) / "site"
        shutil.copytree(page, site, ignore=shutil.ignore_patterns(".*", "vendor", "model", "scenes", "site.json"))
        for name, package in read_json(site / "packages.json").items():
            _add_package(name, package, site / "vendor" / name.rpartition("/")[2], note)
        _add_model(model, site / "model", note)
        scenes = _draw_scenes(site)
        is_bundled = read_json(site / "model" / "config.json").get("source") == BUNDLED_CHECKPOINT.name
        facts = {"for_drawings": is_bundled, "scenes": scenes}
        (site / "site.json").write_text(json.dumps(facts, indent=2), encoding="utf-8")
        os.replace(site, folder)


def serve(
    model: str | Path = "bundled",
    port: int | None = None,
    open_browser: bool = False,
    note: Note = lambda message: None,
) -> None:
    """
    Serve the page to this machine until it is interrupted; arguments as in [`build_site`], and

    Args:
        port (`int`, *optional*): By default the first free one from 7860.
        open_browser (`bool`, *optional*, defaults to `False`): Whether to open it in the browser.

    Raises:
        OSError: If the port is taken.
    """
    with tempfile.TemporaryDirectory(prefix="hf-ris-web-") as parent:
        site = Path(parent) / "site"
        with make_server(site, port) as server:
            build_site(site, model, note=note)
            address = f"http://127.0.0.1:{server.server_address[1]}"
            note(f"the page is at {address}, for this machine alone; Ctrl+C ends it")
            if open_browser:
                webbrowser.open(address)
            try:
                server.serve_forever()
            except KeyboardInterrupt:
                note("ended")


def make_server(site: Path, port: int | None = None) -> ThreadingHTTPServer:
    """A server of a site's files that other machines cannot reach; for the arguments, see [`serve`]."""
    for number in PORTS if port is None else [port]:
        try:
            return ThreadingHTTPServer(("127.0.0.1", number), partial(_Handler, directory=str(site)))
        except OSError as error:
            taken = error
    raise OSError(f"`port` must be a free one, got {port or f'{PORTS.start} to {PORTS[-1]}, all taken'}.") from taken


class _Handler(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    extensions_map = {
        **SimpleHTTPRequestHandler.extensions_map,
        ".js": "text/javascript",
        ".mjs": "text/javascript",
        ".wasm": "application/wasm",
    }

    def end_headers(self) -> None:
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""


def _add_package(name: str, package: dict[str, Any], folder: Path, note: Note) -> None:
    content = _fetch_package(name, package["version"], package["integrity"], note)
    folder.mkdir(parents=True)
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        for file in package["files"]:
            member = archive.extractfile(f"package/{file}")
            assert member is not None, "the package is the pinned one, whose files are known"
            (folder / Path(file).name).write_bytes(member.read())


def _fetch_package(name: str, version: str, integrity: str, note: Note) -> bytes:
    """Download a package of npm's, or take it from this user's cache; either way it is the pinned one."""
    cached = Path(constants.HF_HOME) / "hf_ris" / "npm" / f"{name.rpartition('/')[2]}-{version}.tgz"
    if cached.is_file() and _integrity(content := cached.read_bytes()) == integrity:
        return content
    note(f"downloading {name} {version} from npm")
    try:
        response = httpx2.get(f"{_registry()}/{name}/-/{cached.name}", follow_redirects=True, timeout=60)
        content = response.raise_for_status().content
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise OSError(f"The package {name} {version} cannot be downloaded from npm's registry: {error}") from error
    if (got := _integrity(content)) != integrity:
        raise OSError(
            f"The package {name} {version} is not the pinned one: its integrity must be {integrity}, got {got}."
        )
    cached.parent.mkdir(parents=True, exist_ok=True)
    write_whole(cached, content)
    return content


def _integrity(content: bytes) -> str:
    return "sha512-" + base64.b64encode(hashlib.sha512(content).digest()).decode()


def _registry() -> str:
    """The registry that npm would ask."""
    named = {name.lower(): value for name, value in os.environ.items()}.get("npm_config_registry")  # as npm reads it
    if not named and (npm := shutil.which("npm")):
        asked = [npm, "config", "get", "registry"]
        named = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=60).stdout.strip()
    return (named or REGISTRY).rstrip("/")


def _add_model(model: str | Path, folder: Path, note: Note) -> None:
    """Copy what the page needs of an exported model, which is exported first if it is not."""
    source = Path(find_model(model))
    config = source / "config.json"
    if not config.is_file() or read_json(config).get("model_type") != ONNX_TYPE:
        with tempfile.TemporaryDirectory(prefix="hf-ris-export-") as parent:
            exported = _export_bundled(note) if source == BUNDLED_CHECKPOINT else _export(model, Path(parent), note)
            _add_model(exported, folder, note)
        return
    graph = read_json(config).get("graphs", {}).get("whole")
    if graph is None or not (source / graph).resolve().is_relative_to(source.resolve()):
        raise ValueError(f"`model` must be exported as one graph, named whole, as a MagNet is; got {str(model)!r}.")
    for name in ("README.md", "config.json", "tokenizer.json", "tokenizer_config.json", graph):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / name, folder / name)


def _export(model: str | Path, parent: Path, note: Note) -> Path:
    """Export a model to a new folder within another."""
    from .export import export_model  # which loads torch and transformers' pipelines

    return export_model(model, parent / "model", note=note)


def _export_bundled(note: Note) -> Path:
    """Export the bundled model, which takes a minute, to this user's cache, or find it there."""
    digest = hashlib.blake2b(__version__.encode(), digest_size=8)
    code = [HERE / "export.py", HERE / "onnx.py", *Path(modeling.__path__[0]).glob("*.py")]
    for path in sorted([*code, *BUNDLED_CHECKPOINT.glob("*.json"), *BUNDLED_CHECKPOINT.glob("*.safetensors")]):
        digest.update(path.read_bytes())
    cached = Path(constants.HF_HOME) / "hf_ris" / "onnx" / digest.hexdigest()
    if not cached.is_dir():
        cached.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cached.parent, prefix=".") as parent:
            exported = _export("bundled", Path(parent), note)
            try:
                exported.rename(cached)
            except OSError:
                if not cached.is_dir():  # else another process was first
                    raise
    return cached


def _draw_scenes(site: Path) -> list[dict[str, Any]]:
    """Draw scenes to ask about; gives what the page has to know about each."""
    (site / "scenes").mkdir()
    shutil.copy(HERE / "assets" / "demo_scene.png", site / "scenes" / "0.png")
    expressions = [FIRST_SCENE, *(example.expressions for example in EXAMPLES)]
    for number, example in enumerate(EXAMPLES, start=1):
        example.draw().save(site / "scenes" / f"{number}.png")
    return [
        {"file": f"scenes/{number}.png", "alt": f"Drawn scene {number + 1}", "expressions": each}
        for number, each in enumerate(expressions)
    ]


__all__ = ["build_site", "make_server", "serve"]
