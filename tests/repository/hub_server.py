"""A small HTTP server that speaks the part of the hub's protocol that fetching a model needs."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "5c0a1f0e" * 5


def git_oid(data: bytes) -> str:
    return hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()


@dataclass
class FakeHub:
    """One model of one commit, and how the server behaves."""

    files: dict[str, bytes]
    model: str = "org/model"
    lfs: frozenset[str] = frozenset()
    """Files served as large ones: their sha256 is stated and the download is elsewhere on the server."""
    token: str | None = None
    """Gated: only a request with this token gets files."""
    cuts: list[int] = field(default_factory=list)
    """After how many bytes each next download breaks off."""
    ranges: bool = True
    tampered: int = 0
    """How many downloads give other bytes than stated."""
    status: int | None = None
    """Answer everything with this status."""
    page: bytes | None = None
    """Answer everything with this page, as a login portal does."""
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    """Method, path and Range of every request."""
    url: str = ""

    @property
    def downloads(self) -> list[str | None]:
        """The Range header of every download."""
        return [
            requested for method, path, requested in self.requests if method == "GET" and "/api/" not in path
        ]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: FakeHub

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        hub, path = self.hub, unquote(urlsplit(self.path).path)
        hub.requests.append((self.command, path, self.headers.get("Range")))
        if hub.status is not None:
            self._send(hub.status)
        elif hub.page is not None:
            self._send(200, hub.page, {"Content-Type": "text/html"})
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/revision/(.+)", path):
            self._info(*match.groups())
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._resolve(*match.groups(), body=body)
        elif path.startswith("/storage/"):
            self._content(path.removeprefix("/storage/"), body=body)
        else:
            self._send(404)

    def _info(self, model: str, revision: str) -> None:
        if model != self.hub.model:
            self._send(401 if self.headers.get("Authorization") is None else 404, error="RepoNotFound")
        elif revision not in {"main", COMMIT}:
            self._send(404, error="RevisionNotFound")
        else:
            siblings = []
            for name, data in self.hub.files.items():
                row = {"rfilename": name, "size": len(data), "blobId": git_oid(data)}
                if name in self.hub.lfs:
                    sha = hashlib.sha256(data).hexdigest()
                    row["lfs"] = {"size": len(data), "sha256": sha, "pointerSize": 130}
                siblings.append(row)
            text = json.dumps({"id": model, "modelId": model, "sha": COMMIT, "siblings": siblings})
            self._send(200, text.encode(), {"Content-Type": "application/json"})

    def _resolve(self, model: str, revision: str, name: str, *, body: bool) -> None:
        hub = self.hub
        if hub.token is not None and self.headers.get("Authorization") != f"Bearer {hub.token}":
            self._send(401, error="GatedRepo")
        elif model != hub.model or revision != COMMIT or name not in hub.files:
            self._send(404, error="EntryNotFound")
        elif name in hub.lfs:
            data = hub.files[name]
            headers = {
                "X-Repo-Commit": COMMIT,
                "X-Linked-Size": str(len(data)),
                "X-Linked-ETag": f'"{hashlib.sha256(data).hexdigest()}"',
                "Location": f"{hub.url}/storage/{name}",
            }
            self._send(302, b"", headers)
        else:
            self._content(name, body=body)

    def _content(self, name: str, *, body: bool) -> None:
        hub, data = self.hub, self.hub.files[name]
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{git_oid(data)}"', "Accept-Ranges": "bytes"}
        if not body:
            self._send(200, data, headers, body=False)
            return
        if hub.tampered:
            hub.tampered -= 1
            data = bytes([data[0] ^ 1]) + data[1:]
        start, status = 0, 200
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if match and hub.ranges:
            start, status = int(match[1]), 206
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        part = data[start:]
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(part))}.items():
            self.send_header(key, value)
        self.end_headers()
        cut = hub.cuts.pop(0) if hub.cuts else len(part)
        self.wfile.write(part[:cut])
        if cut < len(part):
            self.wfile.flush()
            self.close_connection = True

    def _send(
        self,
        status: int,
        data: bytes = b"",
        headers: dict[str, str] | None = None,
        *,
        error: str | None = None,
        body: bool = True,
    ) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        if error is not None:
            self.send_header("X-Error-Code", error)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body and self.command != "HEAD":
            self.wfile.write(data)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away in the middle is what some tests are about."""


@contextmanager
def serve(hub: FakeHub) -> Iterator[FakeHub]:
    """Run the server on a free port of this machine; ``hub.url`` is its address."""
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = _Server(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
