"""API keys as Bearer tokens (RFC 6750), checked before anything of a body is read."""

from __future__ import annotations

from typing import Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from orchestrator.gateway.http.errors import ApiError, response
from orchestrator.gateway.http.state import CALLER, NOTE
from orchestrator.gateway.keys import ApiKeys

OPEN_PATHS: Final = ("/", "/v1/health/live", "/v1/health/ready")
"""Answered without a key: browsers that come to ask for one, and load balancers, have none."""
OPEN_FOLDER: Final = "/page/"
"""The files of the page."""


class Authenticate:
    """ASGI middleware that refuses callers without a key, where keys are configured, and notes who calls."""

    def __init__(self, app: ASGIApp, keys: ApiKeys) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection's scope, as ASGI has it."""
        if scope["type"] != "http" or _is_open(scope["path"]):
            await self._app(scope, receive, send)
            return
        caller = self._keys.caller(shown_key(Headers(scope=scope)))
        if caller is not None:
            scope[CALLER] = caller
            await self._app(scope, receive, send)
            return
        error = ApiError(
            "A valid API key is needed: send it as 'Authorization: Bearer KEY'.",
            status=401,
            code="invalid_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )
        scope[NOTE].error = error.code
        await response(error)(scope, receive, send)


def shown_key(headers: Headers) -> bytes | None:
    """The key that a request shows; None where there is none."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    return key.strip().encode("latin-1") if scheme.lower() == "bearer" else None


def _is_open(path: str) -> bool:
    return path in OPEN_PATHS or path.startswith(OPEN_FOLDER)
