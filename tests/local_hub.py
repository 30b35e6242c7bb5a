"""A Hub on this machine: huggingface_hub's own client reads from it, and writes to it, over HTTP, what lies in a folder."""

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote


COMMIT = "0123456789abcdef0123456789abcdef01234567"
REVISIONS = ("main", COMMIT)
RESOLVE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
TREE = re.compile(r"/api/models/([^/]+/[^/]+)/tree/([^/?]+)")
WRITE = re.compile(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/([^/?]+)")
OWNER = "me"  # of repositories that are made without one


class LocalHub(ThreadingHTTPServer):
    """
    Serves the model repositories `root/user/name`, each at one commit, and takes what is pushed to them.

    Attributes:
        url (`str`): What `HF_ENDPOINT` has to be.
        cut_off_after (`int`, *optional*): Bytes of a file after which the connection breaks, every time.
        asked (`list[str]`): The requests so far, such as "GET /user/name/resolve/main/config.json".
    """

    daemon_threads = True

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root = root
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.cut_off_after: int | None = None
        self.asked: list[str] = []


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: LocalHub

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        path = unquote(self.path)
        self.server.asked.append(f"{self.command} {path}")
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if path == "/api/repos/create":
            self._create(json.loads(body))
        elif path == "/api/validate-yaml":
            self._send_json({"errors": [], "warnings": []})
        elif found := WRITE.match(path):
            repository, action, revision = found.groups()
            folder = self._folder(repository, revision)
            if folder is not None:
                self._preupload(json.loads(body)) if action == "preupload" else self._commit(folder, body)
        else:
            self._refuse("EntryNotFound")

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing: the tests' output is pytest's."""

    def _answer(self) -> None:
        path = unquote(self.path)
        self.server.asked.append(f"{self.command} {path}")
        if found := RESOLVE.fullmatch(path):
            self._resolve(*found.groups())
        elif found := TREE.match(path):
            self._tree(*found.groups())
        else:
            self._refuse("EntryNotFound")

    def _create(self, wanted: dict) -> None:
        repository = f"{wanted['organization'] or OWNER}/{wanted['name']}"
        (self.server.root / repository).mkdir(parents=True, exist_ok=True)
        self._send_json({"url": f"{self.server.url}/{repository}", "name": repository})

    def _preupload(self, asked: dict) -> None:
        """Says that all files come inside the commit, large ones too."""
        files = [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in asked["files"]]
        self._send_json({"files": files})

    def _commit(self, folder: Path, lines: bytes) -> None:
        for line in map(json.loads, lines.splitlines()):
            if line["key"] == "file":
                path = folder / line["value"]["path"]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(base64.b64decode(line["value"]["content"]))
        url = f"{self.server.url}/{folder.relative_to(self.server.root)}/commit/{COMMIT}"
        self._send_json({"commitUrl": url, "commitOid": COMMIT})

    def _send_json(self, content: object) -> None:
        self._send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _resolve(self, repository: str, revision: str, name: str) -> None:
        folder = self._folder(repository, revision)
        if folder is None:
            return
        if not (folder / name).is_file():
            self._refuse("EntryNotFound", {"X-Repo-Commit": COMMIT})
            return
        content = (folder / name).read_bytes()
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
        start = int(re.fullmatch(r"bytes=(\d+)-\d*", self.headers.get("Range", "bytes=0-"))[1])
        if start:  # a client that was cut off goes on
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self._send(206 if start else 200, content[start:], headers)

    def _tree(self, repository: str, revision: str) -> None:
        folder = self._folder(repository, revision)
        if folder is not None:
            files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
            entries = [
                {"type": "file", "path": path.relative_to(folder).as_posix(), "size": path.stat().st_size, "oid": "0"}
                for path in files
            ]
            self._send_json(entries)

    def _folder(self, repository: str, revision: str) -> Path | None:
        folder = self.server.root / repository
        if not folder.is_dir():
            self._refuse("RepoNotFound")
        elif revision not in REVISIONS:
            self._refuse("RevisionNotFound")
        else:
            return folder
        return None

    def _refuse(self, code: str, headers: dict[str, str] | None = None) -> None:
        self._send(404, b"{}", {"X-Error-Code": code, "Content-Type": "application/json", **(headers or {})})

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        limit = self.server.cut_off_after if "resolve" in self.path else None
        if limit is not None and len(content) > limit:
            self.wfile.write(content[:limit])
            self.close_connection = True
        else:
            self.wfile.write(content)


@contextmanager
def local_hub(root: Path) -> Iterator[LocalHub]:
    """A [`LocalHub`] that answers until the block ends."""
    with LocalHub(root) as hub:
        Thread(target=hub.serve_forever, daemon=True).start()
        try:
            yield hub
        finally:
            hub.shutdown()


def endpoint(hub: LocalHub, home: Path) -> dict[str, str]:
    """Environment variables that send a new process to this Hub, with a cache of its own and a token."""
    return {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_TOKEN": "hf_local",
    }
