"""A hub on this machine: the part of its protocol that fetching a repository at a commit takes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "c" * 40


class Hub(NamedTuple):
    """A served repository."""

    environment: dict[str, str]
    """In which the hub's libraries ask this server."""
    asked: list[str]
    """Paths that were asked for."""


class _Handler(BaseHTTPRequestHandler):
    root: Path
    name: str
    kind: str
    asked: list[str]
    gated: bool

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_POST(self) -> None:
        """What the server is told of paths (``paths-info``)."""
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        form = json.loads(data) if data.startswith(b"{") else {}
        self.asked.append(unquote(urlsplit(self.path).path))
        wanted = [name for name in form.get("paths", []) if (self.root / name).exists()]
        self._json([self._entry(self.root / name) for name in wanted], True)

    def _answer(self, body: bool) -> None:
        url = urlsplit(self.path)
        path = unquote(url.path)
        self.asked.append(path)
        if self.gated:
            return self._refuse(403, "GatedRepo")
        api = f"/api/{self.kind}s/{self.name}"
        tree, files = f"{api}/tree/{COMMIT}", [file for file in sorted(self.root.rglob("*")) if file.is_file()]
        below = self.root / path.removeprefix(tree).strip("/")
        if path == tree or (path.startswith(f"{tree}/") and below.is_dir()):
            recursive = parse_qs(url.query).get("recursive", ["false"])[0].lower() == "true"
            return self._json(
                [self._entry(each) for each in sorted(below.rglob("*") if recursive else below.iterdir())], body
            )
        if path == f"{api}/revision/{COMMIT}":
            names = [{"rfilename": file.relative_to(self.root).as_posix()} for file in files]
            return self._json({"id": self.name, "sha": COMMIT, "siblings": names, "tags": []}, body)
        prefix = ("/datasets" if self.kind == "dataset" else "") + f"/{self.name}/resolve/{COMMIT}/"
        file = self.root / path.removeprefix(prefix)
        if not path.startswith(prefix) or not file.is_file():
            there = path.startswith((prefix, tree))
            commit = path.startswith((f"{api}/revision/", f"{api}/tree/"))
            return self._refuse(404, "EntryNotFound" if there else "RevisionNotFound" if commit else "RepoNotFound")
        data = file.read_bytes()
        return self._send(data, body, {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha256(data).hexdigest()}"'})

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _entry(self, path: Path) -> dict:
        kind = "file" if path.is_file() else "directory"
        size = path.stat().st_size if path.is_file() else 0
        return {"type": kind, "path": path.relative_to(self.root).as_posix(), "size": size, "oid": "0"}

    def _json(self, content: object, body: bool) -> None:
        self._send(json.dumps(content).encode(), body, {"Content-Type": "application/json"})

    def _send(self, data: bytes, body: bool, headers: dict[str, str]) -> None:
        self.send_response(200)
        for key, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, *arguments: object) -> None:
        """Nothing."""


@contextlib.contextmanager
def serve(folder: Path, name: str, cache: Path, kind: str = "model", gated: bool = False) -> Iterator[Hub]:
    """Serve ``folder`` as the repository ``name`` at ``COMMIT``; the libraries keep what they fetch in ``cache``.

    ``gated``: to nobody, as the hub refuses whoever has not accepted a model's conditions.
    """
    handler = type("Served", (_Handler,), {"root": folder, "name": name, "kind": kind, "asked": [], "gated": gated})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    environment = os.environ | {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(cache),
        "NO_PROXY": "127.0.0.1", "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1",
    }  # fmt: skip
    yield Hub(environment, handler.asked)
    server.shutdown()
