"""A stand-in for the Hugging Face hub on 127.0.0.1: what its client asks for, from a folder of models."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

__all__ = ["COMMIT", "Hub", "hub"]

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """`<folder>/<owner>/<name>/…` as repositories; `asked` are the requests that came."""

    def __init__(self, folder: Path, token: str | None = None) -> None:
        self.folder, self.token = folder, token
        self.asked: list[str] = []
        self.url = ""

    def files(self, repository: str) -> list[Path]:
        return sorted(path for path in (self.folder / repository).rglob("*") if path.is_file())


@contextlib.contextmanager
def hub(folder: Path, token: str | None = None) -> Iterator[Hub]:
    """A running hub; with a token, none of its repositories is seen without it."""
    state = Hub(folder, token)
    server = _Server(("127.0.0.1", 0), _Handler)
    server.hub = state
    state.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    hub: Hub


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def hub(self) -> Hub:
        return self.server.hub

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        path = self.path.split("?")[0].lstrip("/")
        self.hub.asked.append(f"{self.command} {path}")
        if self.hub.token and self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            return self.missing("RepoNotFound", 401)
        parts = path.split("/")
        if parts[:2] == ["api", "models"]:
            return self.describe("/".join(parts[2:4]), parts[4:])
        if len(parts) >= 5 and parts[2] == "resolve":
            return self.file("/".join(parts[:2]), "/".join(parts[4:]))
        return self.missing("RepoNotFound")

    def describe(self, repository: str, rest: list[str]) -> None:
        files = self.hub.files(repository)
        if not files:
            return self.missing("RepoNotFound")
        home = self.hub.folder / repository
        rows: Any = [
            {"type": "file", "path": str(path.relative_to(home)), "size": path.stat().st_size, "oid": "0"}
            for path in files
        ]
        if rest[:1] != ["tree"]:
            siblings = [{"rfilename": row["path"]} for row in rows]
            rows = {"id": repository, "modelId": repository, "sha": COMMIT, "siblings": siblings}
        self.send(json.dumps(rows).encode(), {"Content-Type": "application/json"})

    def file(self, repository: str, name: str) -> None:
        path = self.hub.folder / repository / name
        if not path.is_file():
            return self.missing("EntryNotFound" if self.hub.files(repository) else "RepoNotFound")
        data = path.read_bytes()
        self.send(data, {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "Accept-Ranges": "bytes"})

    def missing(self, code: str, status: int = 404) -> None:
        self.send(b"{}", {"X-Error-Code": code, "X-Error-Message": code}, status)

    def send(self, data: bytes, headers: dict[str, str], status: int = 200) -> None:
        self.send_response(status)
        for name, value in {**headers, "X-Repo-Commit": COMMIT}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass
