"""The microphone, with a sound library that is made up."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from orchestrator.client import Final, Microphone, SpeechClient
from orchestrator.errors import AudioError, MissingDependencyError, OverloadedError
from tests.client.stream.simulated import say

WORDS = [(7, 200, 50), (8, 200, 600), (9, 150, 700), (10, 300, 400)]


class PortAudioError(Exception):
    pass


class SoundLibrary(SimpleNamespace):
    """One device that plays `say`, four times as fast as it was said, and then silence."""

    def __init__(self, rate: int = 16_000) -> None:
        super().__init__(PortAudioError=PortAudioError, opened=0, closed=0, rate=rate, broken=False, fast=4)

    def query_devices(self, device: Any, kind: str) -> dict[str, Any]:
        assert kind == "input"
        if device == "lost":
            raise ValueError("No input device matching 'lost'")
        if device == 7:
            raise PortAudioError("Error querying device 7")
        return {"name": "Desk", "default_samplerate": float(self.rate)}

    def check_input_settings(self, **settings: Any) -> None:
        assert settings["samplerate"] == 16_000
        if self.rate != 16_000:
            raise PortAudioError("Invalid sample rate")

    def RawInputStream(self, **settings: Any) -> Any:  # noqa: N802
        assert (settings["channels"], settings["dtype"]) == (1, "int16")
        assert settings["samplerate"] == self.rate
        if self.broken:
            raise PortAudioError("Device unavailable")
        return FakeDevice(self, settings["callback"], settings["blocksize"])


class FakeDevice:
    def __init__(self, library: SoundLibrary, callback: Any, blocksize: int) -> None:
        self._library, self._callback, self._size = library, callback, blocksize
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._play, daemon=True)

    def start(self) -> None:
        self._library.opened += 1
        self._thread.start()

    def close(self) -> None:
        self._ending.set()
        self._thread.join()
        self._library.closed += 1

    def _play(self) -> None:
        audio = np.repeat(say(WORDS), self._library.rate // 16_000).tobytes()
        at = 0
        while not self._ending.is_set():
            block = audio[at : at + 2 * self._size].ljust(2 * self._size, b"\0")
            at += len(block)
            self._callback(memoryview(block), self._size, None, None)
            time.sleep(self._size / self._library.rate / self._library.fast)


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> SoundLibrary:
    made = SoundLibrary()
    monkeypatch.setitem(sys.modules, "sounddevice", made)
    return made


@pytest.mark.parametrize("rate", [16_000, 48_000])
def test_what_it_hears(server: Any, library: SoundLibrary, rate: int) -> None:
    library.rate = rate
    microphone = Microphone()
    assert (microphone.name, microphone.sample_rate_hz) == ("Desk", rate)
    finals = []
    with SpeechClient(server.url) as client:
        stream = client.stream(microphone)
        for event in stream:
            if isinstance(event, Final):
                finals.append(event.segment.text)
                if len(finals) == 3:
                    stream.stop()
        assert (library.opened, library.closed) == (1, 1)
    if rate == 16_000:
        assert finals[:3] == ["w7 w8", "w9", "w10"]
    assert event.transcript.source == "Desk"  # type: ignore[union-attr]
    assert server.live(0)


def test_leaving_closes_the_device(server: Any, library: SoundLibrary) -> None:
    with SpeechClient(server.url) as client:
        for _ in client.stream(Microphone("Desk")):
            break
        assert (library.opened, library.closed) == (1, 1)


def test_a_microphone_that_nobody_reads_says_so(library: SoundLibrary) -> None:
    async def main() -> None:
        blocks = aiter(Microphone(buffer_s=0.1))
        await anext(blocks)
        await asyncio.sleep(0.5)
        async for _ in blocks:
            pass

    with pytest.raises(OverloadedError, match=r"Desk is 0\.1 s ahead"):
        asyncio.run(main())
    assert library.closed == 1


@pytest.mark.parametrize("device", ["lost", 7])
def test_no_such_device(library: SoundLibrary, device: Any) -> None:
    with pytest.raises(AudioError, match="no microphone"):
        Microphone(device)


def test_a_device_that_does_not_open(server: Any, library: SoundLibrary) -> None:
    library.broken = True
    with SpeechClient(server.url) as client, pytest.raises(AudioError, match="Device unavailable"):
        list(client.stream(Microphone()))
    assert server.chunks == []


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("raise ModuleNotFoundError(name='sounddevice')", "pip install"),
        ("raise OSError('PortAudio library not found')", "libportaudio2"),
    ],
)
def test_without_the_library(tmp_path: Any, monkeypatch: pytest.MonkeyPatch, code: str, message: str) -> None:
    (tmp_path / "sounddevice.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
    with pytest.raises(MissingDependencyError) as caught:
        Microphone()
    assert message in str(caught.value)
