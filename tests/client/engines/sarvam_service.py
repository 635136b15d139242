"""Sarvam's documented contract on the loopback: key, fields, limits; faults to choose."""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import soundfile

SHAPES = Path(__file__).parent / "shapes"
KEY = "sk_test_1234"
LONGEST_S = 30.0
CODES = frozenset(
    f"{tag}-IN"
    for tag in (
        *("hi", "bn", "kn", "ml", "mr", "od", "pa", "ta", "te", "en", "gu", "as", "ur", "ne", "kok", "ks"),
        *("sd", "sa", "sat", "mni", "brx", "mai", "doi"),
    )
) | {"unknown"}
MODELS = frozenset({"saaras:v3", "saaras:v4"})
MODES = frozenset({"transcribe", "translate", "verbatim", "translit", "codemix"})


def shape(name: str) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((SHAPES / f"{name}.json").read_text(encoding="utf-8"))
    return read


@dataclass
class Request:
    """One request that arrived."""

    fields: dict[str, str]
    headers: dict[str, str]
    seconds: float
    at_s: float = field(default_factory=time.monotonic)


Fault = Callable[[BaseHTTPRequestHandler], None]
"""Answers in the service's place."""


class SarvamService:
    """A server in a thread; ``faults`` are tried, one a request, before it answers."""

    def __init__(self) -> None:
        self.answer: Callable[[Request], dict[str, Any]] = lambda request: shape("transcribe")
        self.faults: list[Fault] = []
        self.seen: list[Request] = []
        self.most_at_once = 0
        self.delay_s = 0.0
        self._at_once = 0
        self._lock = threading.Lock()
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def do_POST(self) -> None:
                service._handle(self)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def fail(self, status: str, times: int = 1, **headers: str) -> None:
        """Answer with a documented error of `errors.json`."""
        body = shape("errors")[status]
        number = int(status.split()[0])
        self.faults += [lambda handler: reply(handler, number, body, headers)] * times

    def _handle(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers["Content-Length"]))
        head = f"Content-Type: {handler.headers['Content-Type']}\r\n\r\n".encode()
        parts = {
            part.get_param("name", header="content-disposition"): part.get_payload(decode=True)
            for part in BytesParser().parsebytes(head + body).get_payload()
        }
        file = parts.pop("file", None)
        seconds = 0.0
        if file is not None:
            with soundfile.SoundFile(io.BytesIO(file)) as audio:
                seconds = len(audio) / audio.samplerate
                assert (audio.samplerate, audio.channels, audio.subtype) == (16_000, 1, "PCM_16")
        fields = {str(name): value.decode() for name, value in parts.items()}
        request = Request(fields, {name.lower(): value for name, value in handler.headers.items()}, seconds)
        with self._lock:
            self.seen.append(request)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            fault = self.faults.pop(0) if self.faults else None
        time.sleep(self.delay_s)
        with self._lock:  # before it is answered: its sender may send the next one at once
            self._at_once -= 1
        try:
            if fault is not None:
                fault(handler)
            else:
                self._answer(handler, request, file)
        except (BrokenPipeError, ConnectionResetError):
            handler.close_connection = True

    def _answer(self, handler: BaseHTTPRequestHandler, request: Request, file: bytes | None) -> None:
        errors = shape("errors")
        fields = request.fields
        if handler.path != "/speech-to-text":
            return reply(handler, 404, {"error": {"message": "Not Found", "code": "not_found_error"}})
        if request.headers.get("api-subscription-key") != KEY:
            return reply(handler, 403, errors["403"])
        allowed = {"model", "mode", "language_code", "with_timestamps", "input_audio_codec", "keyterms"}
        wrong = (
            file is None
            or set(fields) - allowed
            or fields.get("language_code", "unknown") not in CODES
            or fields.get("model", "saaras:v3") not in MODELS
            or fields.get("mode", "transcribe") not in MODES
            or ("keyterms" in fields and fields.get("model") != "saaras:v4")
        )
        if wrong:
            return reply(handler, 422, errors["422"])
        if request.seconds >= LONGEST_S:
            return reply(handler, 400, errors["400"])
        answer = self.answer(request)
        if fields.get("with_timestamps") != "true":
            answer = {**answer, "timestamps": None}
        return reply(handler, 200, answer)


def reply(
    handler: BaseHTTPRequestHandler, status: int, body: Any, headers: dict[str, str] | None = None
) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    handler.send_response(status)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(len(content)))
    for name, value in (headers or {}).items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(content)


def half(handler: BaseHTTPRequestHandler) -> None:
    """A fault: the connection breaks in the middle of the body."""
    content = json.dumps(shape("transcribe")).encode()
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content[: len(content) // 2])
    handler.wfile.flush()
    handler.close_connection = True


def cut(handler: BaseHTTPRequestHandler) -> None:
    """A fault: a body that ends early, and says so."""
    content = json.dumps(shape("transcribe")).encode()
    reply(handler, 200, content[: len(content) // 2])


def hang_up(handler: BaseHTTPRequestHandler) -> None:
    """A fault: no answer at all."""
    handler.close_connection = True


def body(content: bytes, status: int = 200) -> Fault:
    """A fault: this body."""
    return lambda handler: reply(handler, status, content)
