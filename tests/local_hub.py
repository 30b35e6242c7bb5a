"""A Hub on this machine: huggingface_hub's own client reads from it, and writes to it, over HTTP, what lies in a folder."""

import base64
import hashlib
import json
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from typing import Any
from urllib.parse import unquote, urlsplit


COMMIT = "0123456789abcdef0123456789abcdef01234567"  # of a repository that nothing was pushed to
OWNER, TOKEN = "me", "hf_local"
REPOSITORY = r"(?:(?P<kind>models|datasets|spaces)/)?(?P<name>[^/]+/[^/]+)"
ROUTES = {
    route: re.compile(pattern)
    for route, pattern in {
        "whoami": r"/api/whoami-v2",
        "create": r"/api/repos/create",
        "validate": r"/api/validate-yaml",
        "branch": rf"/api/{REPOSITORY}/branch/(?P<revision>[^/]+)",
        "preupload": rf"/api/{REPOSITORY}/preupload/(?P<revision>[^/]+)",
        "commit": rf"/api/{REPOSITORY}/commit/(?P<revision>[^/]+)",
        "tree": rf"/api/{REPOSITORY}/tree/(?P<revision>[^/]+)(?:/(?P<folder>.+))?",
        "info": rf"/api/{REPOSITORY}(?:/revision/(?P<revision>[^/]+))?",
        "batch": rf"/{REPOSITORY}\.git/info/lfs/objects/batch",
        "object": r"/objects/(?P<digest>[0-9a-f]{64})",
        "verify": r"/objects/verify",
        "resolve": rf"/{REPOSITORY}/resolve/(?P<revision>[^/]+)/(?P<file>.+)",
    }.items()
}
LARGE = (".safetensors", ".parquet", ".whl", ".wasm", ".onnx")  # what is stored beside the commits, as the Hub does


class LocalHub(ThreadingHTTPServer):
    """
    Serves the repositories `root/user/name` (models), `root/datasets/user/name` and `root/spaces/user/name`, and takes what is pushed.

    Attributes:
        url (`str`): What `HF_ENDPOINT` has to be.
        private (`set[str]`): Repositories that only their owner sees, such as "me/model" or "datasets/me/rows".
        sdks (`dict[str, str]`): What runs a Space, by its name, such as "spaces/me/page".
        gated (`set[str]`): Repositories that everyone sees, and whose files only the owner gets.
        busy (`int`): How many of the next requests are turned away with 429.
        cut_off_after (`int`, *optional*): Bytes of a file after which a download breaks, every time.
        cut_uploads_after (`int`, *optional*): Bytes of a large file after which an upload breaks, every time.
        asked (`list[str]`): The requests so far, such as "GET /user/name/resolve/main/config.json".
    """

    daemon_threads = True

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root = root
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.private: set[str] = set()
        self.sdks: dict[str, str] = {}
        self.gated: set[str] = set()
        self.busy = 0
        self.cut_off_after: int | None = None
        self.cut_uploads_after: int | None = None
        self.asked: list[str] = []
        self.objects: dict[str, bytes] = {}
        self.commits: Counter[tuple[str, str]] = Counter()
        self.lock = Lock()

    def folder(self, repository: str, revision: str) -> Path:
        """Where a branch lies."""
        return self.root / repository if revision == "main" else self.root / ".branches" / revision / repository

    def head(self, repository: str, revision: str) -> str:
        """The commit at the tip of a branch."""
        number = self.commits[repository, revision]
        if not number and revision == "main":
            return COMMIT
        return hashlib.sha1(f"{repository}@{revision}#{number}".encode()).hexdigest()

    def branch_of(self, repository: str, revision: str) -> str | None:
        """The branch that a revision, a name or a commit, is the tip of."""
        branches = [
            "main",
            *(path.name for path in (self.root / ".branches").glob("*") if (path / repository).is_dir()),
        ]
        return next((name for name in branches if revision in (name, self.head(repository, name))), None)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing of connections that broke: tests break them."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: LocalHub

    def do_HEAD(self) -> None:
        self._route(b"")

    def do_GET(self) -> None:
        self._route(b"")

    def do_POST(self) -> None:
        self._route(self._read())

    def do_PUT(self) -> None:
        limit = self.server.cut_uploads_after
        if limit is not None and int(self.headers["Content-Length"]) > limit:
            self.rfile.read(limit)
            self.close_connection = True
            self.connection.close()
            return
        self._route(self._read())

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing: the tests' output is pytest's."""

    def _read(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _route(self, body: bytes) -> None:
        path = unquote(urlsplit(self.path).path)
        with self.server.lock:
            self.server.asked.append(f"{self.command} {path}")
            if self.server.busy > 0:
                self.server.busy -= 1
                self._send(429, b"{}", {"Retry-After": "0"})
                return
            routes = ((name, match) for name, pattern in ROUTES.items() if (match := pattern.fullmatch(path)))
            route, match = next(routes, (None, None))
            if match is None:
                self._refuse("EntryNotFound")
                return
            named = match.groupdict()
            if self.command in ("POST", "PUT") and not self._knows_user() and route not in ("validate", "object"):
                self._refuse("", 401)
                return
            if "name" not in named:
                getattr(self, f"_{route}")(body, **named)
                return
            kind = named.pop("kind")
            repository = ("" if kind in (None, "models") else f"{kind}/") + named.pop("name")
            revision = named.get("revision") or "main"
            if not (self.server.root / repository).is_dir():
                self._refuse("RepoNotFound")
            elif repository in self.server.private and not self._knows_user():
                self._refuse("RepoNotFound", 401)
            elif repository in self.server.gated and route == "resolve" and not self._knows_user():
                self._refuse("GatedRepo", 403)
            elif route != "branch" and (branch := self.server.branch_of(repository, revision)) is None:
                self._refuse("RevisionNotFound")
            else:
                if "revision" in named:
                    named["revision"] = revision if route == "branch" else branch
                getattr(self, f"_{route}")(body, repository, **named)

    def _knows_user(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    # What is asked of no repository.

    def _whoami(self, body: bytes) -> None:
        if self._knows_user():
            self._send_json(
                {"type": "user", "name": OWNER, "auth": {"accessToken": {"displayName": "test", "role": "write"}}}
            )
        else:
            self._refuse("", 401)

    def _create(self, body: bytes) -> None:
        wanted = json.loads(body)
        kind = wanted.get("type", "model")
        name = f"{wanted.get('organization') or OWNER}/{wanted['name']}"
        repository = name if kind == "model" else f"{kind}s/{name}"
        if (self.server.root / repository).is_dir():
            self._send_json({"error": "You already created this repo", "url": f"{self.server.url}/{repository}"}, 409)
            return
        (self.server.root / repository).mkdir(parents=True)
        if wanted.get("visibility") == "private" or wanted.get("private"):
            self.server.private.add(repository)
        if "sdk" in wanted:
            self.server.sdks[repository] = wanted["sdk"]
        self._send_json({"url": f"{self.server.url}/{repository}", "name": name})

    def _validate(self, body: bytes) -> None:
        self._send_json({"errors": [], "warnings": []})

    def _object(self, body: bytes, digest: str) -> None:
        if hashlib.sha256(body).hexdigest() != digest:
            self._send(400, b"{}", {})
            return
        self.server.objects[digest] = body
        self._send(200, b"", {})

    def _verify(self, body: bytes) -> None:
        self._send(200 if json.loads(body)["oid"] in self.server.objects else 404, b"{}", {})

    # What is asked of a repository.

    def _info(self, body: bytes, repository: str, revision: str | None = None) -> None:
        branch = revision or "main"
        files = [{"rfilename": name, "size": size} for name, size in self._files(repository, branch)]
        facts = {"id": repository.removeprefix("datasets/").removeprefix("spaces/"), "siblings": files, "tags": []}
        is_private = repository in self.server.private
        self._send_json(
            {
                **facts,
                "sha": self.server.head(repository, branch),
                "private": is_private,
                "disabled": False,
                "downloads": 0,
            }
        )

    def _branch(self, body: bytes, repository: str, revision: str) -> None:
        folder = self.server.folder(repository, revision)
        if folder.exists():
            self._refuse("", 409)
            return
        shutil.copytree(self.server.folder(repository, "main"), folder)
        self._send_json({})

    def _preupload(self, body: bytes, repository: str, revision: str) -> None:
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular",
                "shouldIgnore": False,
            }
            for file in json.loads(body)["files"]
        ]
        self._send_json({"files": files})

    def _batch(self, body: bytes, repository: str) -> None:
        objects = []
        for wanted in json.loads(body)["objects"]:
            if wanted["oid"] in self.server.objects:
                objects.append(wanted)  # without actions: there is nothing to do
                continue
            upload = {"href": f"{self.server.url}/objects/{wanted['oid']}"}
            verify = {"href": f"{self.server.url}/objects/verify"}
            objects.append({**wanted, "actions": {"upload": upload, "verify": verify}})
        self._send_json({"transfer": "basic", "objects": objects})

    def _commit(self, body: bytes, repository: str, revision: str) -> None:
        """All of a commit, or nothing of it."""
        contents: dict[str, bytes | None] = {}
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                contents[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.server.objects:
                    self._refuse("", 400)
                    return
                contents[value["path"]] = self.server.objects[value["oid"]]
            elif line["key"] == "deletedFile":
                contents[value["path"]] = None
        folder = self.server.folder(repository, revision)
        for name, content in contents.items():
            path = folder / name
            if content is None:
                path.unlink()
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        self.server.commits[repository, revision] += 1
        commit = self.server.head(repository, revision)
        self._send_json({"commitUrl": f"{self.server.url}/{repository}/commit/{commit}", "commitOid": commit})

    def _tree(self, body: bytes, repository: str, revision: str, folder: str | None) -> None:
        root = self.server.folder(repository, revision)
        if not (root / (folder or "")).is_dir():
            self._refuse("EntryNotFound")
            return
        recursive = "recursive=true" in urlsplit(self.path).query.lower()
        found = (root / (folder or "")).glob("**/*" if recursive else "*")
        self._send_json(
            [
                {"type": "directory", "path": path.relative_to(root).as_posix(), "oid": "0"}
                if path.is_dir()
                else {
                    "type": "file",
                    "path": path.relative_to(root).as_posix(),
                    "size": path.stat().st_size,
                    "oid": "0",
                }
                for path in sorted(found)
            ]
        )

    def _resolve(self, body: bytes, repository: str, revision: str, file: str) -> None:
        commit = self.server.head(repository, revision)
        path = self.server.folder(repository, revision) / file
        if not path.is_file():
            self._refuse("EntryNotFound", headers={"X-Repo-Commit": commit})
            return
        content = path.read_bytes()
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": commit}
        start = int(re.fullmatch(r"bytes=(\d+)-\d*", self.headers.get("Range", "bytes=0-"))[1])
        if start:  # a client that was cut off goes on
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self._send(206 if start else 200, content[start:], headers, self.server.cut_off_after)

    def _files(self, repository: str, branch: str) -> list[tuple[str, int]]:
        folder = self.server.folder(repository, branch)
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        return [(path.relative_to(folder).as_posix(), path.stat().st_size) for path in files]

    # How it answers.

    def _refuse(self, code: str, status: int = 404, headers: dict[str, str] | None = None) -> None:
        self._send(status, b"{}", {"X-Error-Code": code, "Content-Type": "application/json", **(headers or {})})

    def _send_json(self, content: object, status: int = 200) -> None:
        self._send(status, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, content: bytes, headers: dict[str, str], limit: int | None = None) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
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


def endpoint(hub: LocalHub, home: Path, token: str = TOKEN) -> dict[str, str]:
    """Environment variables that send a new process to this Hub, with a cache of its own and a token."""
    return {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_TOKEN": token,
    }
