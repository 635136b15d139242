"""The ASGI application: routes, errors in one shape, and what goes around every request."""

from __future__ import annotations

import logging

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp

from orchestrator import __version__
from orchestrator.errors import SpeechError
from orchestrator.gateway.http import audio, info
from orchestrator.gateway.http.auth import Authenticate
from orchestrator.gateway.http.errors import CLIENT_CLOSED, CLIENT_GONE, ApiError, as_api_error, response
from orchestrator.gateway.http.observe import REQUEST_ID, Observe
from orchestrator.gateway.http.state import Shared, note_of, shared_of
from orchestrator.gateway.http.work import ClientGoneError
from orchestrator.gateway.page import files, status
from orchestrator.gateway.realtime import route as realtime

logger = logging.getLogger(__name__)


def create_app(shared: Shared) -> ASGIApp:
    """The application over ``shared``; whoever calls this also closes the service."""
    app = FastAPI(
        title="spark-speech gateway",
        version=__version__,
        docs_url=None,  # its page would load scripts from other hosts
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.shared = shared
    app.include_router(audio.router)
    app.include_router(info.router)
    app.include_router(realtime.router)
    app.include_router(status.router)
    app.include_router(files.router)
    app.add_exception_handler(SpeechError, _on_error)
    app.add_exception_handler(ClientDisconnect, _on_gone)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(Exception, _on_fault)
    app.add_middleware(Authenticate, keys=shared.keys)
    if shared.settings.cors_origins:
        # Around the keys: a browser's preflight carries none.
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(shared.settings.cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", REQUEST_ID],
            expose_headers=[REQUEST_ID, "Retry-After"],
        )
    return Observe(app, shared.metrics)


async def _on_error(request: Request, error: Exception) -> Response:
    if isinstance(error, ClientGoneError) or not isinstance(error, SpeechError):
        return await _on_gone(request, error)
    answer = as_api_error(error, shared_of(request).admission.retry_after_s)
    note_of(request).error = answer.code
    if answer.status >= 500:
        logger.warning("%s: %s", type(error).__name__, error.message)
    return response(answer)


async def _on_gone(request: Request, error: Exception) -> Response:
    note_of(request).error = CLIENT_GONE
    return Response(status_code=CLIENT_CLOSED)  # nobody reads it


async def _on_http_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        return await _on_fault(request, error)
    known = {404: "There is no such path.", 405: "This path does not take this method."}
    message = known.get(error.status_code, "The request cannot be served.")
    codes = {404: "not_found", 405: "method_not_allowed"}
    code = codes.get(error.status_code, "invalid_request")
    note_of(request).error = code
    return response(ApiError(message, status=error.status_code, code=code, headers=error.headers))


async def _on_invalid(request: Request, error: Exception) -> Response:
    note_of(request).error = "invalid_value"
    return response(ApiError("A parameter of the path or the query is not valid.", code="invalid_value"))


async def _on_fault(request: Request, error: Exception) -> Response:
    """A fault of this package; the server logs the traceback."""
    note_of(request).error = "internal_error"
    return response(ApiError("The gateway failed; its log says why.", status=500, code="internal_error"))
