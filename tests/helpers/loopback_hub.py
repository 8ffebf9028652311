"""A Hub on 127.0.0.1 that serves folders and takes pushes, with the faults of a real one; and its client.

It speaks as much of the protocol as `huggingface_hub` asks for, without Xet. Weights are large files (ETag: sha256),
all others git's (ETag: sha1 of the blob).
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

WEIGHTS = "diffusion_pytorch_model.safetensors"
NOBODY = "http://127.0.0.1:9"  # the port of `discard`, where nothing listens


class Request(NamedTuple):
    method: str
    path: str
    range: str


@dataclass
class Fault:
    """What goes wrong with a request, and how many times.

    Kinds: `corrupt` flips a bit, `short` has fewer bytes than promised before, `cut` breaks off in the middle, after
    `die` nobody listens any more, `silent` answers nothing for half a minute, `slow` takes a second; a number is a
    status.
    """

    kind: str
    path: str
    method: str = "GET"
    times: int = 1
    headers: dict[str, str] = field(default_factory=dict)

    def hits(self, method: str, path: str) -> bool:
        if self.times and self.method == method and self.path in path:
            self.times -= 1
            return True
        return False


@dataclass
class Hub:
    """Repositories are folders: `repositories[name]` until something is published or pushed there.

    Tokens: `good` may do everything, `stranger` is known and may do nothing, all others are invalid.
    """

    repositories: dict[str, Path]
    workplace: Path
    corrupt: set[str] = field(default_factory=set)  # repositories whose weights arrive with a flipped bit
    gated: set[str] = field(default_factory=set)
    private: set[str] = field(default_factory=set)
    faults: list[Fault] = field(default_factory=list)
    asked: list[Request] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)
    branches: dict[tuple[str, str], str] = field(default_factory=dict)
    commits: dict[str, Path] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    address: str = ""

    @staticmethod
    def commit(repository: str) -> str:
        """The first commit."""
        return hashlib.sha1(repository.encode()).hexdigest()

    def publish(self, repository: str, folder: Path, branch: str = "main") -> str:
        """A commit that consists of a folder."""
        commit = hashlib.sha1(f"{repository} {branch} {len(self.commits)}".encode()).hexdigest()
        self.commits[commit], self.branches[repository, branch] = folder, commit
        return commit

    def find(self, repository: str, revision: str) -> tuple[str, Path] | None:
        first = self.commit(repository)
        commit = self.branches.get((repository, revision), first if revision == "main" else revision)
        folder = self.commits.get(commit, self.repositories[repository] if commit == first else None)
        return (commit, folder) if folder else None

    def fault(self, method: str, path: str) -> Fault | None:
        return next((fault for fault in self.faults if fault.hits(method, path)), None)

    def count(self, method: str, part: str = "") -> int:
        return sum(request.method == method and part in request.path for request in self.asked)


@contextmanager
def serve(repositories: dict[str, Path], workplace: Path, **settings: Any) -> Iterator[Hub]:
    hub = Hub(repositories, workplace, **settings)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (_Handler,), {"hub": hub}))
    server.daemon_threads, server.block_on_close = True, False
    hub.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()  # a second time does no harm


class _RefusedError(Exception):
    def __init__(self, status: int, code: str = "", message: str = "", **headers: str) -> None:
        self.status = status
        named = {"X-Error-Code": code, "X-Error-Message": message} | headers
        self.headers = {key: value for key, value in named.items() if value}


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:  # noqa: N802
        self.answer(self.read)

    def do_GET(self) -> None:  # noqa: N802
        self.answer(self.read)

    def do_POST(self) -> None:  # noqa: N802
        self.answer(self.write)

    def do_PUT(self) -> None:  # noqa: N802
        self.answer(self.write)

    def answer(self, handle: Callable[[list[str]], tuple[int, dict[str, str], bytes]]) -> None:
        path = unquote(self.path.partition("?")[0])
        self.hub.asked.append(Request(self.command, path, self.headers.get("Range", "")))
        fault = self.hub.fault(self.command, path)
        kind = fault.kind if fault else ""
        if kind == "silent":
            time.sleep(30)
            return
        try:
            if fault and kind.isdigit():
                raise _RefusedError(int(kind), **fault.headers)
            # A revision may hold a slash, which comes quoted.
            status, headers, body = handle(
                [unquote(part) for part in self.path.partition("?")[0].strip("/").split("/")]
            )
        except _RefusedError as refused:
            status, headers, body = refused.status, refused.headers, b""
        if kind == "corrupt":
            body = _flipped(body)
        if kind == "short":
            body = body[: len(body) // 2]
        self.send_response(status)
        for key, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        for part in (body[: len(body) // 2], body[len(body) // 2 :]):
            self.wfile.write(part)
            if kind == "die":
                self.server.shutdown()
                self.server.server_close()
            if kind in ("cut", "die"):
                return
            if kind == "slow":
                time.sleep(0.5)

    def token(self) -> str:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token not in ("", "good", "stranger"):
            raise _RefusedError(401, message="Invalid credentials in Authorization header")
        return token

    def repository(self, owner: str, name: str) -> str:
        repository, token = f"{owner}/{name}", self.token()
        if repository not in self.hub.repositories or (repository in self.hub.private and token != "good"):
            raise _RefusedError(404 if token else 401, "RepoNotFound")
        return repository

    def read(self, parts: list[str]) -> tuple[int, dict[str, str], bytes]:
        match parts:
            case ["api", "models", owner, name, *rest] if len(rest) in (0, 2):
                repository, (kind, revision) = self.repository(owner, name), rest or ("revision", "main")
                commit, folder = self.snapshot(repository, revision)
                return _json(self.tree(folder) if kind == "tree" else self.info(repository, commit, folder))
            case [owner, name, "resolve", revision, *rest]:
                repository, file = self.repository(owner, name), "/".join(rest)
                if repository in self.hub.gated and self.token() != "good":
                    raise _RefusedError(403 if self.token() else 401, "GatedRepo")
                commit, folder = self.snapshot(repository, revision)
                if not (folder / file).is_file():
                    raise _RefusedError(404, "EntryNotFound", **{"X-Repo-Commit": commit})
                return self.file(repository, commit, folder / file)
        raise _RefusedError(404)

    def snapshot(self, repository: str, revision: str) -> tuple[str, Path]:
        found = self.hub.find(repository, revision)
        if found is None:
            raise _RefusedError(404, "RevisionNotFound")
        return found

    def info(self, repository: str, commit: str, folder: Path) -> dict[str, Any]:
        siblings = [{"rfilename": entry["path"]} for entry in self.tree(folder)]
        return {"id": repository, "sha": commit, "private": repository in self.hub.private, "siblings": siblings}

    def tree(self, folder: Path) -> list[dict[str, Any]]:
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        return [
            {"type": "file", "path": p.relative_to(folder).as_posix(), "size": p.stat().st_size, "oid": _oid(p)[:40]}
            for p in files
        ]

    def file(self, repository: str, commit: str, path: Path) -> tuple[int, dict[str, str], bytes]:
        body = path.read_bytes()
        headers = {"X-Repo-Commit": commit, "ETag": f'"{_oid(path)}"', "Accept-Ranges": "bytes"}
        if repository in self.hub.corrupt and path.name == WEIGHTS:
            body = _flipped(body)
        if asked := self.headers.get("Range"):
            start = int(asked.removeprefix("bytes=").partition("-")[0])
            return 206, headers | {"Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}"}, body[start:]
        return 200, headers, body

    def write(self, parts: list[str]) -> tuple[int, dict[str, str], bytes]:
        body = self.body()
        if parts[0] == "objects":
            assert hashlib.sha256(body).hexdigest() == parts[1]
            self.hub.objects[parts[1]] = body
            return 200, {}, b""
        if parts == ["api", "validate-yaml"]:
            return _json({})
        if self.token() != "good":
            raise _RefusedError(403 if self.token() else 401)
        match parts:
            case ["api", "repos", "create"]:
                return self.create(json.loads(body))
            case ["api", "models", owner, name, "branch", branch]:
                repository = self.repository(owner, name)
                if (repository, branch) in self.hub.branches:
                    raise _RefusedError(409)
                self.hub.branches[repository, branch], _ = self.snapshot(repository, "main")
                return _json({})
            case ["api", "models", owner, name, "preupload", revision]:
                folder = self.snapshot(self.repository(owner, name), revision)[1]
                return _json({"files": [self.mode(file["path"], folder) for file in json.loads(body)["files"]]})
            case [_, _, "info", "lfs", "objects", "batch"]:
                objects = [
                    entry | {"actions": {"upload": {"href": f"{self.hub.address}/objects/{entry['oid']}"}}}
                    for entry in json.loads(body)["objects"]
                ]
                return _json({"objects": objects})
            case ["api", "models", owner, name, "commit", revision]:
                commit = self.commit(self.repository(owner, name), revision, body)
                return _json({"commitUrl": f"{self.hub.address}/{owner}/{name}/commit/{commit}", "commitOid": commit})
        raise _RefusedError(404)

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def create(self, asked: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
        repository = f"{asked['organization']}/{asked['name']}"
        if repository in self.hub.repositories:
            raise _RefusedError(409)
        folder = self.hub.workplace / repository / "first"
        folder.mkdir(parents=True)
        (folder / ".gitattributes").write_text("*.safetensors filter=lfs\n")
        self.hub.repositories[repository] = folder
        if asked.get("visibility") == "private":
            self.hub.private.add(repository)
        return _json({"url": f"{self.hub.address}/{repository}"})

    def mode(self, file: str, folder: Path) -> dict[str, Any]:
        path = folder / file
        mode = "lfs" if file.endswith(".safetensors") else "regular"
        return {"path": file, "uploadMode": mode, "shouldIgnore": False, "oid": _oid(path) if path.is_file() else None}

    def commit(self, repository: str, branch: str, body: bytes) -> str:
        folder = self.hub.workplace / repository / str(len(self.hub.commits))
        shutil.copytree(self.snapshot(repository, branch)[1], folder)
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            path = folder / value.get("path", "")
            path.parent.mkdir(parents=True, exist_ok=True)
            match entry["key"]:
                case "header":
                    self.hub.messages.append(value["summary"])
                case "file":
                    path.write_bytes(base64.b64decode(value["content"]))
                case "lfsFile":
                    path.write_bytes(self.hub.objects[value["oid"]])
                case "deletedFile":
                    path.unlink()
        return self.hub.publish(repository, folder, branch)


def _json(value: Any) -> tuple[int, dict[str, str], bytes]:
    return 200, {"Content-Type": "application/json"}, json.dumps(value).encode()


def _oid(path: Path) -> str:
    data = path.read_bytes()
    if path.suffix == ".safetensors":
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _flipped(body: bytes) -> bytes:
    middle = len(body) // 2
    return body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]


class Done(NamedTuple):
    """What a client printed, line by line as JSON, what it logged, and how long it took."""

    answers: list[Any]
    log: str
    seconds: float


@dataclass
class Client:
    """A process of its own, for `huggingface_hub` reads its settings at import."""

    process: subprocess.Popen[str]
    started: float

    def done(self) -> Done:
        out, log = self.process.communicate(timeout=100)
        assert self.process.returncode == 0, log[-3000:]
        return Done([json.loads(line) for line in out.splitlines()], log, time.monotonic() - self.started)


def start(
    script: str, cache: Path, endpoint: str, *calls: str, before: Callable[[], object] | None = None, **environment: str
) -> Client:
    """A client that starts from an environment without settings of the Hub; `before` runs in its process."""
    foreign = ("HF_", "HUGGING", "UDC_DEFENSE_")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(foreign) and "proxy" not in k.lower()}
    settings = {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(cache),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    process = subprocess.Popen(
        [sys.executable, "-c", script, *calls],
        env=kept | settings | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=before,
    )
    return Client(process, time.monotonic())
