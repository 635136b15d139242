"""Who may open a WebSocket: keys, the secrets that stand for them, and the pages of other origins.

A browser sends no ``Authorization`` header with a WebSocket, so a key may come as a subprotocol, which is
OpenAI's way, or as a secret that was got with the key before, which is NIM's. Nor does a browser ask before
it connects to another origin, so the origin is checked here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import urlsplit

from orchestrator.gateway.http.errors import ApiError
from orchestrator.gateway.keys import ApiKeys, Caller
from orchestrator.gateway.realtime.secrets import ClientSecrets

SUBPROTOCOL: Final = "realtime"
KEY_PREFIX: Final = "openai-insecure-api-key."
TOKEN_PREFIX: Final = "realtime-token."
INTENT: Final = "transcription"


def check_intent(query: Mapping[str, str]) -> None:
    """Refuse what is no transcription.

    Raises:
        ApiError: 400.
    """
    if query.get("intent", INTENT) != INTENT:
        raise ApiError(f"intent must be {INTENT!r}: sessions here only transcribe.", param="intent")


def check_origin(headers: Mapping[str, str], allowed: Sequence[str]) -> None:
    """Refuse pages of origins that are neither this service's own nor among ``allowed``.

    Raises:
        ApiError: 403.
    """
    origin = headers.get("origin")
    if origin is None or origin in allowed:
        return
    try:
        own = urlsplit(origin).netloc
    except ValueError:
        own = ""
    if not own or own != headers.get("host"):
        raise ApiError("Pages of this origin may not use the service.", status=403, code="origin_not_allowed")


def caller_of(
    headers: Mapping[str, str], offered: Sequence[str], keys: ApiKeys, given_out: ClientSecrets
) -> Caller:
    """Who is asking.

    Args:
        headers: of the handshake.
        offered: its subprotocols.
        keys: that may use the service.
        given_out: secrets that stand for a key.

    Raises:
        ApiError: 401; keys are configured, and none of them was shown.
    """
    scheme, _, key = headers.get("authorization", "").partition(" ")
    shown: list[bytes | None] = [key.strip().encode("latin-1")] if scheme.lower() == "bearer" else []
    secrets: list[str] = []
    for name in offered:
        if name.startswith(KEY_PREFIX):
            secrets.append(name.removeprefix(KEY_PREFIX))
            shown.append(secrets[-1].encode("latin-1"))
        elif name.startswith(TOKEN_PREFIX):
            secrets.append(name.removeprefix(TOKEN_PREFIX))
    for each in shown or [None]:
        if (caller := keys.caller(each)) is not None:
            return caller
    for secret in secrets:
        holder = given_out.caller(secret)
        if holder is not None and (caller := keys.named(holder)) is not None:
            return caller
    raise ApiError(
        "A valid API key is needed: send it as 'Authorization: Bearer KEY', or as the subprotocol "
        f"{KEY_PREFIX}KEY.",
        status=401,
        code="invalid_api_key",
        headers={"WWW-Authenticate": "Bearer"},
    )


def chosen(offered: Sequence[str]) -> str | None:
    """The subprotocol to answer with: never one that holds a key."""
    return SUBPROTOCOL if SUBPROTOCOL in offered else None


def speaks_openai(headers: Mapping[str, str], offered: Sequence[str], query: Mapping[str, str]) -> bool:
    """Whether a client is one of OpenAI's, from how it connects; it may still say so by its events."""
    return (
        "openai-beta" in headers
        or "x-stainless-lang" in headers  # what OpenAI's SDKs send
        or "model" in query
        or any(name.startswith(KEY_PREFIX) for name in offered)
    )
