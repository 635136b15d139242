from __future__ import annotations

from typing import Any

from orchestrator.client import Final, SpeechClient
from orchestrator.client.stream.events import CaughtUp
from tests.client.stream.simulated import say

WORDS = [(7, 200, 50), (8, 200, 600), (9, 150, 700)]


def test_who_asks_is_told_that_the_server_caught_up(server: Any) -> None:
    audio = say(WORDS)
    pieces = [audio[begin : begin + 999] for begin in range(0, len(audio), 999)]
    with SpeechClient(server.url) as client:
        events = list(client.stream(iter(pieces), caught_up=True))
        told = [event.until_s for event in events if isinstance(event, CaughtUp)]
        assert told == sorted(told)
        assert len(told) > 1
        assert [event.segment.text for event in events if isinstance(event, Final)] == ["w7 w8", "w9"]
        assert not any(isinstance(event, CaughtUp) for event in client.stream(iter(pieces)))
