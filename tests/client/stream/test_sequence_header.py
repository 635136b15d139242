"""The header by which a proxy keeps a live stream on its server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from orchestrator.client import SpeechClient
from tests.client.stream.conftest import FakeStreams
from tests.client.stream.simulated import say


class Listening(FakeStreams):
    """Notes the header and the number of each request."""

    def __init__(self) -> None:
        super().__init__()
        self.noted: list[tuple[str | None, str | None]] = []

    def _infer(self, request: Any, context: Any, fault: Any) -> Any:
        headers = {item.key: item.value for item in context.invocation_metadata()}
        number = request.parameters.get("sequence_id")
        inside = None if number is None else str(number.int64_param)
        self.noted.append((headers.get("spark-speech-sequence"), inside))
        return super()._infer(request, context, fault)


@pytest.fixture
def listening() -> Iterator[Listening]:
    made = Listening()
    made.start()
    yield made
    made.stop()


def test_each_request_of_a_stream_carries_its_number(listening: Listening) -> None:
    talk = say([(1, 160, 400), (2, 160, 400)])
    with SpeechClient(listening.url, metadata={"x-key": "k"}) as client:
        for _ in range(2):
            assert list(client.stream([talk], diarize=False))
    assert len(listening.noted) >= 4
    assert all(header is not None and header == inside for header, inside in listening.noted)
    assert len({header for header, _ in listening.noted}) == 2
    assert listening.live(0)
