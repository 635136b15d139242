"""Asking a gateway over HTTP: whether it is ready, and for a transcript; with the standard library alone."""

from __future__ import annotations

import http.client
import json
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from orchestrator.errors import (
    ConfigurationError,
    InvalidRequestError,
    OverloadedError,
    RequestTimeoutError,
    ServerUnavailableError,
    ServiceError,
)

_READY_LIMIT_S: Final = 10.0


class GatewayProbe:
    """One gateway, ``http://host:port`` or ``https://host:port``."""

    def __init__(self, url: str, *, api_key: str | None = None, timeout_s: float = 300.0) -> None:
        """Take the address; nothing is asked yet.

        Args:
            url: of the gateway, without a path.
            api_key: sent as a bearer token.
            timeout_s: for a transcript.

        Raises:
            ConfigurationError: ``url`` is no such address.
        """
        parts = urlsplit(url)
        try:
            port = parts.port
        except ValueError:
            port = None
        if parts.scheme not in ("http", "https") or not parts.hostname or port is None:
            raise ConfigurationError(
                f"{url!r} is not an address of a gateway.", fix="write it as http://host:port."
            )
        self.host = f"{parts.hostname}:{port}"
        self._secure = parts.scheme == "https"
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._timeout_s = timeout_s

    def check_ready(self) -> None:
        """Return where a recording sent now can be recognised.

        Raises:
            ServiceError: it cannot; the message has the gateway's own words.
        """
        self._ask("GET", "/v1/health/ready", b"", {}, _READY_LIMIT_S)

    def transcribe(self, recording: Path, *, model: str = "auto", language: str | None = None) -> str:
        """The text of a recording.

        Raises:
            ServiceError: no transcript; the message has the gateway's own words.
            ConfigurationError: the recording cannot be read.
        """
        try:
            content = recording.read_bytes()
        except OSError as error:
            raise ConfigurationError(
                f"{recording} cannot be read: {error.strerror}", path=recording, fix="name another recording."
            ) from error
        fields = {"model": model, "response_format": "json", **({"language": language} if language else {})}
        boundary = secrets.token_hex(16)
        body = _form(boundary, fields, recording.name, content)
        headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        answer = self._ask("POST", "/v1/audio/transcriptions", body, headers, self._timeout_s)
        try:
            return str(json.loads(answer)["text"])
        except (ValueError, KeyError, TypeError) as error:
            raise ServiceError(
                f"the gateway at {self.host} answers with no transcript",
                host=self.host,
                fix="check the address: the probe needs the gateway's HTTP port.",
            ) from error

    def _ask(
        self, method: str, path: str, body: bytes, headers: Mapping[str, str], timeout_s: float
    ) -> bytes:
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        host, _, port = self.host.rpartition(":")
        connection = kind(host, int(port), timeout=timeout_s)
        try:
            connection.request(method, path, body or None, {**self._headers, **headers})
            response = connection.getresponse()
            status, answer = response.status, response.read()
        except TimeoutError as error:
            raise RequestTimeoutError(
                f"the gateway at {self.host} did not answer within {timeout_s:g} s",
                host=self.host,
                fix="look at its load with `spark-speech status`, or give it more time.",
            ) from error
        except (OSError, http.client.HTTPException) as error:
            raise ServerUnavailableError(
                f"no gateway answers at {self.host}: {error}",
                host=self.host,
                fix="start it with `spark-speech gateway`.",
            ) from error
        finally:
            connection.close()
        if status != http.client.OK:
            raise _refused(self.host, status, answer)
        return answer


def _form(boundary: str, fields: Mapping[str, str], name: str, content: bytes) -> bytes:
    """``multipart/form-data`` (RFC 7578) of some fields and one file."""
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'.encode()
        for key, value in fields.items()
    ]
    safe = name.replace('"', "_").replace("\r", "_").replace("\n", "_")
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{safe}"\r\n'
    return b"".join(
        [
            *parts,
            head.encode(),
            b"Content-Type: application/octet-stream\r\n\r\n",
            content,
            f"\r\n--{boundary}--\r\n".encode(),
        ]
    )


def _refused(host: str, status: int, answer: bytes) -> ServiceError:
    try:
        told = str(json.loads(answer)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        told = http.client.responses.get(status, "no reason given")
    message = f"the gateway at {host} answers {status}: {told}"
    if status in (401, 403):
        return InvalidRequestError(message, host=host, fix="give it an API key that it knows.")
    if status == 429:
        return OverloadedError(message, host=host, fix="try again when it has less to do.")
    if status in (502, 503, 504):
        return ServerUnavailableError(message, host=host, fix="see its models: `spark-speech status`.")
    return ServiceError(message, host=host, fix="see the gateway's log.")
