"""The page's files: read once, sent compressed, and only where the browser has another version."""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Final

from fastapi import APIRouter, Request
from fastapi.responses import Response

from orchestrator.gateway.http.errors import ApiError

FOLDER: Final = Path(__file__).parent / "static"
INDEX: Final = "index.html"
PREFIX: Final = "/page/"
router: Final = APIRouter(include_in_schema=False)

_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "media-src blob:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
_HEADERS: Final = MappingProxyType(
    {
        "Cache-Control": "no-cache",  # kept, but asked for each time: files of two versions do not fit
        "Content-Security-Policy": _POLICY,
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
        "Referrer-Policy": "no-referrer",
        "Vary": "Accept-Encoding",
        "X-Content-Type-Options": "nosniff",
    }
)


@dataclass(frozen=True, slots=True)
class PageFile:
    """One file as it is sent: plain or compressed, each with its own entity tag (RFC 9110, 8.8.3)."""

    media_type: str
    plain: bytes
    packed: bytes
    digest: str

    @classmethod
    def read(cls, path: Path) -> PageFile:
        """Read and compress the file at ``path``."""
        content = path.read_bytes()
        digest = hashlib.sha256(content).hexdigest()[:24]
        return cls(_TYPES[path.suffix], content, gzip.compress(content, mtime=0), digest)

    def response(self, request: Request) -> Response:
        """The file, or 304 where the caller has it."""
        packed = "gzip" in request.headers.get("accept-encoding", "")
        tag = f'"{self.digest}{"-gzip" if packed else ""}"'
        headers = {**_HEADERS, "ETag": tag}
        known = {
            part.strip().removeprefix("W/") for part in request.headers.get("if-none-match", "").split(",")
        }
        if tag in known:
            return Response(status_code=304, headers=headers)
        if packed:
            headers["Content-Encoding"] = "gzip"
        content = self.packed if packed else self.plain
        return Response(content, headers=headers, media_type=self.media_type)


@cache
def files() -> MappingProxyType[str, PageFile]:
    """Every file of the page by its name; a name that is not among them is no path on the disk."""
    return MappingProxyType(
        {path.name: PageFile.read(path) for path in sorted(FOLDER.iterdir()) if path.suffix in _TYPES}
    )


@router.api_route("/", methods=["GET", "HEAD"])
async def index(request: Request) -> Response:
    """The page."""
    return files()[INDEX].response(request)


@router.api_route(f"{PREFIX}{{name}}", methods=["GET", "HEAD"])
async def file(request: Request, name: str) -> Response:
    """One of its files."""
    found = files().get(name)
    if found is None:
        raise ApiError("There is no such path.", status=404, code="not_found")
    return found.response(request)
