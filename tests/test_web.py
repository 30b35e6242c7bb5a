"""The page without a server: built whole or not at all, from pinned packages, served to this machine, published as a static Space."""

import base64
import hashlib
import io
import json
import shutil
import sys
import tarfile
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import httpx2
import pytest
from huggingface_hub import constants, metadata_load
from PIL import Image
from typer.testing import CliRunner

from hf_ris import web
from hf_ris.cli import app
from hf_ris.hub import push_space
from hf_ris.systems import ONNX_TYPE


SPACES = Path(__file__).parents[1] / "spaces_demo"
CONFIG = {"model_type": ONNX_TYPE, "source": "magnet-tiny-refshapes", "graphs": {"whole": "onnx/model.onnx"}}


def pack(files):
    """A package as npm's registry hands it out, and its integrity."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    digest = hashlib.sha512(content.getvalue()).digest()
    return content.getvalue(), "sha512-" + base64.b64encode(digest).decode()


@contextmanager
def serving(handler):
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """npm's registry on this machine, with two small packages that the folder `page` pins, and an empty cache."""
    runtime, runtime_integrity = pack({"dist/run.mjs": "run", "dist/run.wasm": "wasm", "dist/large.map": "left out"})
    words, words_integrity = pack({"dist/words.mjs": "words"})
    files = {"/some-runtime/-/some-runtime-1.0.0.tgz": runtime, "/@us/words/-/words-0.1.0.tgz": words}
    asked = []

    class Registry(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200 if self.path in files else 404)
            self.send_header("Content-Length", str(len(files.get(self.path, b""))))
            self.end_headers()
            self.wfile.write(files.get(self.path, b""))

        def log_message(self, *args):
            """Says nothing."""

    packages = {
        "some-runtime": {
            "version": "1.0.0",
            "integrity": runtime_integrity,
            "files": ["dist/run.mjs", "dist/run.wasm"],
        },
        "@us/words": {"version": "0.1.0", "integrity": words_integrity, "files": ["dist/words.mjs"]},
    }
    page = tmp_path / "page"
    shutil.copytree(web.PAGE, page)
    (page / "packages.json").write_text(json.dumps(packages), encoding="utf-8")
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(web, "EXAMPLES", web.EXAMPLES[:1])  # drawing takes time
    with serving(Registry) as url:
        monkeypatch.setenv("npm_config_registry", f"{url}/")
        yield SimpleNamespace(page=page, files=files, asked=asked)


@pytest.fixture
def exported(tmp_path):
    """A folder as `hf-ris export` writes it, in names alone, with a file that the page does not need."""
    folder = tmp_path / "exported"
    (folder / "onnx").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    for name in ("README.md", "tokenizer.json", "tokenizer_config.json", "secret.txt", "onnx/model.onnx"):
        (folder / name).write_text(name, encoding="utf-8")
    return folder


def names_in(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_the_site_is_built_whole_and_from_the_cache_the_second_time(registry, exported, tmp_path, monkeypatch):
    site = tmp_path / "site"
    web.build_site(site, exported, registry.page)
    own = names_in(registry.page)
    vendored = {f"vendor/{name}" for name in ("some-runtime/run.mjs", "some-runtime/run.wasm", "words/words.mjs")}
    model = {f"model/{name}" for name in names_in(exported) - {"secret.txt"}}
    facts = json.loads((site / "site.json").read_text(encoding="utf-8"))
    assert names_in(site) == own | vendored | model | {"site.json", *(scene["file"] for scene in facts["scenes"])}
    assert (site / "vendor" / "some-runtime" / "run.wasm").read_text(encoding="utf-8") == "wasm"
    assert all(Image.open(site / scene["file"]).mode == "RGB" and scene["expressions"] for scene in facts["scenes"])
    assert facts["for_drawings"] is True, "the bundled model, exported"

    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:1")  # nobody answers
    web.build_site(tmp_path / "again", exported, registry.page)
    assert len(registry.asked) == 2
    with pytest.raises(ValueError, match="must not be there yet"):
        web.build_site(site, exported, registry.page)


@pytest.mark.parametrize("broken", [b"", b"no package", None])
def test_a_broken_download_leaves_nothing(registry, exported, tmp_path, broken):
    path, good = next(iter(registry.files.items()))
    if broken is None:
        del registry.files[path]
    else:
        registry.files[path] = broken
    with pytest.raises(OSError, match=r"some-runtime 1\.0\.0 (is not the pinned one|cannot be downloaded)"):
        web.build_site(tmp_path / "site", exported, registry.page)
    assert {path.name for path in tmp_path.iterdir()} == {"page", "exported"}
    registry.files[path] = good
    web.build_site(tmp_path / "site", exported, registry.page)


def test_a_damaged_cache_is_downloaded_anew(registry, exported, tmp_path):
    web.build_site(tmp_path / "site", exported, registry.page)
    for cached in (tmp_path / "home").rglob("*.tgz"):
        cached.write_bytes(cached.read_bytes()[:-1])
    web.build_site(tmp_path / "again", exported, registry.page)
    assert len(registry.asked) == 4


def test_only_a_model_that_the_page_can_run_is_taken(registry, exported, tmp_path, monkeypatch):
    (tmp_path / "other.onnx").write_text("of another", encoding="utf-8")
    for graphs in ({"image": "onnx/model.onnx", "expression": "onnx/model.onnx"}, {"whole": "../other.onnx"}):
        (exported / "config.json").write_text(json.dumps({**CONFIG, "graphs": graphs}), encoding="utf-8")
        with pytest.raises(ValueError, match="`model` must be exported as one graph"):
            web.build_site(tmp_path / "site", exported, registry.page)
    (exported / "config.json").write_text(json.dumps({**CONFIG, "source": "me/mine"}), encoding="utf-8")
    asked = []

    def export_model(model, folder, note):
        asked.append(model)
        return shutil.copytree(exported, folder)

    monkeypatch.setitem(sys.modules, "hf_ris.export", SimpleNamespace(export_model=export_model))
    web.build_site(tmp_path / "site", "me/mine", registry.page)
    assert asked == ["me/mine"]
    for name in ("once", "twice"):
        web.build_site(tmp_path / name, "bundled", registry.page)
    assert asked == ["me/mine", "bundled"], "the second time it comes from the cache"
    assert not (tmp_path / "site" / "model" / "secret.txt").exists()
    assert json.loads((tmp_path / "site" / "site.json").read_text(encoding="utf-8"))["for_drawings"] is False


def test_it_is_served_to_this_machine_alone(tmp_path):
    for name in ("page.js", "run.mjs", "run.wasm"):
        (tmp_path / name).write_text("content", encoding="utf-8")
    with web.make_server(tmp_path, 0) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        host, port = server.server_address
        assert host == "127.0.0.1"
        types = {}
        for name in ("page.js", "run.mjs", "run.wasm"):
            response = httpx2.get(f"http://127.0.0.1:{port}/{name}")
            types[name] = response.headers["Content-Type"]
            assert response.headers["Cross-Origin-Opener-Policy"] == "same-origin"
            assert response.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
        assert types == {"page.js": "text/javascript", "run.mjs": "text/javascript", "run.wasm": "application/wasm"}
        assert httpx2.get(f"http://127.0.0.1:{port}/../secret").status_code == 404
        with pytest.raises(OSError, match=f"`port` must be a free one, got {port}"):
            web.make_server(tmp_path, port)
        server.shutdown()


def test_on_the_command_line(monkeypatch):
    served = []
    monkeypatch.setattr(web, "serve", lambda model, port, *options: served.append((model, port)))

    def ask(*arguments):
        return CliRunner().invoke(app, ["demo", "--web", *arguments])

    assert ask().exit_code == ask("--model", "exported", "--port", "8000").exit_code == 0
    assert served == [("bundled", None), ("exported", 8000)]
    for wrong in (("--share",), ("--host", "0.0.0.0"), ("--model", "a", "--model", "b")):
        assert "must be left out with --web" in ask(*wrong).output


def test_it_is_published_as_a_static_space(hub, registry, exported, tmp_path):
    lines = []
    assert push_space(registry.page, "me/page", "static", model=str(exported), dry_run=True, note=lines.append) is None
    assert not (hub.root / "spaces").exists()
    assert any("model/onnx/model.onnx" in line for line in lines)
    push_space(registry.page, "me/page", "static", model=str(exported))
    pushed = hub.root / "spaces" / "me" / "page"
    web.build_site(tmp_path / "site", exported, registry.page)
    assert names_in(pushed) == names_in(tmp_path / "site")
    assert (hub.sdks["spaces/me/page"], "spaces/me/page" in hub.private) == ("static", True)
    assert hub.commits["spaces/me/page", "main"] == 1

    with pytest.raises(ValueError, match="`wheel` must be left out"):
        push_space(registry.page, "me/page", "static", wheel="hf_ris-1.whl", dry_run=True)
    with pytest.raises(ValueError, match="`model` must be left out"):
        push_space(SPACES, "me/demo", "gradio", model=str(exported), dry_run=True)
    with pytest.raises(ValueError, match="whose `sdk` is gradio"):
        push_space(SPACES / "web", "me/demo", "gradio", dry_run=True)
    with pytest.raises(ValueError, match="`sdk` must be one of"):
        push_space(registry.page, "me/page", "docker", dry_run=True)
    (registry.page / "index.html").unlink()
    with pytest.raises(ValueError, match=r"must hold index\.html"):
        push_space(registry.page, "me/page", "static", dry_run=True)


def test_the_pages_card_asks_for_what_threads_need():
    card = metadata_load(SPACES / "web" / "README.md")
    wanted = {name.lower(): value for name, value in web.HEADERS.items() if name.startswith("Cross-Origin")}
    assert card["sdk"] == "static"
    assert wanted.items() <= card["custom_headers"].items()
