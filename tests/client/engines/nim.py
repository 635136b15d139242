"""A server that speaks Riva's protocol as NVIDIA's do: answers when it likes, partials in parts, codes with
regions; what it says and how it fails is chosen."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from riva.client.proto import riva_asr_pb2 as pb
from riva.client.proto.riva_asr_pb2_grpc import (
    RivaSpeechRecognitionServicer,
    add_RivaSpeechRecognitionServicer_to_server,
)

MODELS = (
    ("parakeet-1.1b-en-US-asr-offline", {"type": "offline", "language_code": "en-US"}),
    ("parakeet-1.1b-unified-streaming", {"type": "online", "language_code": "en-US"}),
    ("parakeet-rnnt-multi", {"type": "offline", "language_code": "multi"}),
)
STEP_BYTES = 2 * 8000
"""One word each half second of a stream."""


def word(text: str, start: int, end: int, tag: int = 0, confidence: float = 0.5) -> pb.WordInfo:
    return pb.WordInfo(word=text, start_time=start, end_time=end, confidence=confidence, speaker_tag=tag)


def alternative(text: str, *words: pb.WordInfo, sure: float = 0.75, language: str = "en-US") -> Any:
    return pb.SpeechRecognitionAlternative(
        transcript=text, confidence=sure, words=words, language_code=[language] if language else []
    )


class Nim(RivaSpeechRecognitionServicer):
    """``faults`` are tried, one a call, before it answers."""

    def __init__(self) -> None:
        self.results: list[Any] = [
            pb.SpeechRecognitionResult(
                alternatives=[alternative("Hello there ", word("Hello", 100, 400), word("there", 500, 900))]
            )
        ]
        self.faults: list[Callable[[grpc.ServicerContext], None]] = []
        self.recordings: list[Any] = []
        self.streams: list[list[Any]] = []
        self.metadata: list[dict[str, str]] = []
        self.silent = False
        """Partials and finals come with every fourth message only."""
        self.left = threading.Event()
        self._server = grpc.server(ThreadPoolExecutor(16))
        add_RivaSpeechRecognitionServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()

    @property
    def url(self) -> str:
        return f"127.0.0.1:{self.port}"

    def stop(self) -> None:
        self._server.stop(0).wait()

    def fail(self, code: grpc.StatusCode, details: str, times: int = 1) -> None:
        self.faults += [lambda context: context.abort(code, details)] * times

    def GetRivaSpeechRecognitionConfig(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._fault(context)
        response = pb.RivaSpeechRecognitionConfigResponse()
        for name, parameters in MODELS:
            if request.model_name in ("", name):
                response.model_config.add(model_name=name, parameters=parameters)
        return response

    def Recognize(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.recordings.append(request)
        self._fault(context)
        return pb.RecognizeResponse(results=self.results)

    def StreamingRecognize(self, requests: Iterator[Any], context: Any) -> Iterator[Any]:  # noqa: N802
        seen: list[Any] = []
        self.streams.append(seen)
        context.add_callback(self.left.set)
        self._fault(context)
        received, finals, messages = 0, 0, 0
        for request in requests:
            seen.append(request)
            if request.HasField("streaming_config"):
                continue
            received += len(request.audio_content)
            messages += 1
            self._fault(context)
            forced = request.runtime_config.get("force_eou") == "true"
            if self.silent and messages % 4 and not forced:
                continue
            words = received // STEP_BYTES
            if words - finals >= 4 or (forced and words > finals):
                yield self._final(finals, words, received)
                finals = words
            else:
                yield self._partial(finals, words, received)
        words = received // STEP_BYTES
        if words > finals:
            yield self._final(finals, words, received)

    def _final(self, first: int, last: int, received: int) -> Any:
        words = [word(f"w{number}", number * 500 + 50, number * 500 + 450) for number in range(first, last)]
        text = "".join(f"{one.word} " for one in words)
        return pb.StreamingRecognizeResponse(
            results=[
                pb.StreamingRecognitionResult(
                    alternatives=[alternative(text, *words)],
                    is_final=True,
                    stability=1.0,
                    audio_processed=received / 32_000,
                )
            ]
        )

    def _partial(self, first: int, last: int, received: int) -> Any:
        """The stable part, then the word that may still change; words have no times."""
        response = pb.StreamingRecognizeResponse()
        parts = [(range(first, max(first, last - 1)), 0.9), (range(max(first, last - 1), last), 0.1)]
        for numbers, stability in parts:
            text = "".join(f"w{number} " for number in numbers)
            if text:
                response.results.add(
                    alternatives=[pb.SpeechRecognitionAlternative(transcript=text)],
                    stability=stability,
                    audio_processed=received / 32_000,
                )
        return response

    def _fault(self, context: grpc.ServicerContext) -> None:
        self.metadata.append({item.key: str(item.value) for item in context.invocation_metadata()})
        if self.faults:
            self.faults.pop(0)(context)
