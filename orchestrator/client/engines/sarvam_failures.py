"""What a failed request to Sarvam means: one of the project's errors, and whether and when to try again.

Statuses and codes: "Errors & Troubleshooting" in docs.sarvam.ai. A wrong key is a 403, not a 401; a 429 is
either the rate limit, which time heals, or an account without credits, which it does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from json import loads
from typing import Final

from orchestrator.client.engines.sarvam_messages import ENGINE
from orchestrator.engines.checks import reason_of
from orchestrator.errors import (
    AccessDeniedError,
    InvalidRequestError,
    MessageTooLargeError,
    OverloadedError,
    RemoteInferenceError,
    RequestTimeoutError,
    ServerUnavailableError,
    SpeechError,
)

_NO_CREDITS: Final = "insufficient_quota_error"
_MAX_DETAILS: Final = 300
"""Characters kept of the service's own words."""


@dataclass(frozen=True, slots=True)
class Failure:
    """``error`` to raise; where it is ``transient`` the same request may succeed after a while.

    Attributes:
        after_s: how long the service asks to wait, in seconds; None: it does not say.
    """

    error: SpeechError
    transient: bool = False
    after_s: float | None = None


def from_response(status: int, headers: Mapping[str, str], body: bytes, host: str, now: datetime) -> Failure:
    """The meaning of an answer that is no 200."""
    code, text = _told(body)
    said = f"{status} {code}: {text}" if code else f"{status} {text}".strip()
    after_s = retry_after_s(headers.get("retry-after"), now)
    if code == _NO_CREDITS:
        return Failure(
            AccessDeniedError(
                f"The Sarvam account has no credits left: {said}",
                fix="add credits to the account, or route to another engine.",
                host=host,
                model=ENGINE,
            )
        )
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return Failure(
            AccessDeniedError(
                f"{host} does not accept the key: {said}",
                fix="set sarvam.api_key (SPARK_SPEECH__SARVAM__API_KEY) to a valid key.",
                host=host,
                model=ENGINE,
            )
        )
    if status == HTTPStatus.TOO_MANY_REQUESTS or code == "rate_limit_exceeded_error":
        return Failure(
            OverloadedError(
                f"{host} takes no more requests now: {said}",
                fix="set sarvam.requests_per_minute to what the account's plan allows, or try again later.",
                host=host,
                model=ENGINE,
            ),
            transient=True,
            after_s=after_s,
        )
    if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return Failure(
            MessageTooLargeError(
                f"{host} takes no request of this size: {said}",
                fix="lower sarvam.max_request_s.",
                host=host,
                model=ENGINE,
            )
        )
    if status in (HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT):
        return Failure(unavailable(host, said), transient=True, after_s=after_s)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return Failure(
            RemoteInferenceError(
                f"{host} failed: {said}",
                fix="try again later, or route to another engine.",
                host=host,
                model=ENGINE,
            ),
            transient=True,
            after_s=after_s,
        )
    return Failure(
        InvalidRequestError(
            f"{host} rejects the request: {said}",
            fix="check sarvam.url, sarvam.model, sarvam.mode and sarvam.keyterms.",
            host=host,
            model=ENGINE,
        )
    )


def half_answer(host: str, reason: str) -> Failure:
    """A 200 whose body is cut off or no answer."""
    return Failure(
        RemoteInferenceError(
            f"The answer of {host} is not whole: {reason}",
            fix="try again; if it stays so, the service has changed, or sarvam.url is another one.",
            host=host,
            model=ENGINE,
        ),
        transient=True,
    )


def unavailable(host: str, reason: str) -> ServerUnavailableError:
    """Nothing answers, or the connection broke."""
    return ServerUnavailableError(
        f"{host} is not there, or went away: {reason}",
        fix="check the connection to the internet, sarvam.url and sarvam.proxy.",
        host=host,
        model=ENGINE,
    )


def broken(host: str, error: Exception) -> Failure:
    """The connection failed."""
    return Failure(unavailable(host, reason_of(error)), transient=True)


def timed_out(host: str, limit_s: float) -> Failure:
    """No whole answer within the limit."""
    return Failure(
        RequestTimeoutError(
            f"{host} did not answer within {limit_s:.3g} s.",
            fix="give it more time (sarvam.timeout_s), or route to another engine.",
            host=host,
            model=ENGINE,
        ),
        transient=True,
    )


def retry_after_s(value: str | None, now: datetime) -> float | None:
    """The seconds of a ``Retry-After`` (RFC 9110, 10.2.3: a number, or a date); None where there is none."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return min(float(value), 1e9)
    try:
        at = parsedate_to_datetime(value)
    except ValueError:
        return None
    at = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
    return max(0.0, (at - now).total_seconds())


def _told(body: bytes) -> tuple[str, str]:
    """Code and message of ``{"error": {"code", "message"}}``; else the body's first line."""
    try:
        error = loads(body)["error"]
        return str(error.get("code") or ""), _short(str(error.get("message") or ""))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return "", _short(body.decode("utf-8", "replace"))


def _short(text: str) -> str:
    line = text.strip().partition("\n")[0]
    return line if len(line) <= _MAX_DETAILS else line[: _MAX_DETAILS - 3] + "..."
