"""The client against real servers: the default release, and what happens when a server goes away."""

from __future__ import annotations

import importlib.util
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import soundfile

from orchestrator.client import SpeechClient
from orchestrator.errors import (
    ModelNotFoundError,
    ModelNotReadyError,
    RemoteInferenceError,
    RequestTimeoutError,
    ServerUnavailableError,
    UnsupportedLanguageError,
)
from orchestrator.settings import ClientSettings, Settings

pytestmark = pytest.mark.integration

Serve = Callable[..., Any]


@pytest.fixture
def serve(default_release: Any, tritonserver: Any, server_settings: Any, tmp_path: Path) -> Serve:
    """Start a server with the recogniser alone, on this test's ports; ``name`` is its folder's."""
    from orchestrator.runtime.server import TritonServer

    def start(name: str = "server") -> Any:
        return TritonServer(
            default_release.model_repository,
            ("moonshine",),
            triton=tritonserver,
            home=tmp_path / name,
            settings=server_settings,
        )

    return start


@pytest.fixture
def client(default_server: Any) -> Iterator[SpeechClient]:
    with SpeechClient(default_server.url) as made:
        yield made


@pytest.fixture(scope="module")
def sample() -> Path:
    """30 s of two people, from pyannote.audio's package."""
    found = importlib.util.find_spec("pyannote.audio")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent / "sample" / "sample.wav"


def reference(sample: Path) -> str:
    """The text that comes with the recording, in the order of its segments."""
    lines = [line.split(maxsplit=5) for line in sample.with_suffix(".stm").read_text().splitlines()]
    rows = sorted((float(line[3]), line[5]) for line in lines if not line[0].startswith(";"))
    return " ".join(text for _, text in rows)


def test_who_said_what_in_a_real_recording(client: SpeechClient, sample: Path) -> None:
    import jiwer
    from whisper_normalizer.english import EnglishTextNormalizer

    transcript = client.transcribe(sample, num_speakers=2)
    assert transcript.duration == pytest.approx(30.0, abs=0.1)
    assert transcript.engine == "moonshine"
    assert transcript.times_estimated
    assert transcript.source == "sample.wav"
    assert len(transcript.speakers) == 2
    assert len(transcript.turns) >= 4
    plain = EnglishTextNormalizer()
    assert jiwer.wer(plain(reference(sample)), plain(transcript.text)) < 0.4
    labelled = [word for word in transcript.words if word.speaker is not None]
    assert len(labelled) > 0.9 * len(transcript.words)


def test_long_audio_in_windows_says_the_same(client: SpeechClient, default_server: Any, sample: Path) -> None:
    """Short windows on a real engine: close to the whole; nothing doubled at seams."""
    import jiwer
    from whisper_normalizer.english import EnglishTextNormalizer

    plain = EnglishTextNormalizer()
    whole = plain(client.transcribe(sample, diarize=False).text)
    settings = Settings(client=ClientSettings(window_s=12.0, overlap_s=4.0))
    with SpeechClient(default_server.url, settings=settings) as short:
        cut = plain(short.transcribe(sample, diarize=False).text)
    assert jiwer.wer(whole, cut) < 0.25
    assert abs(len(cut.split()) - len(whole.split())) < 0.1 * len(whole.split())


def test_many_threads_one_client(client: SpeechClient, sample: Path) -> None:
    samples, rate = soundfile.read(sample, dtype="float32")
    pieces = [samples[start * rate : (start + 6) * rate] for start in range(0, 24, 3)]
    alone = [client.transcribe(piece, sample_rate=rate, diarize=False).text for piece in pieces]
    with ThreadPoolExecutor(len(pieces)) as threads:
        together = list(
            threads.map(lambda p: client.transcribe(p, sample_rate=rate, diarize=False).text, pieces)
        )
    assert together == alone
    assert any(alone)


def test_what_the_server_has(client: SpeechClient, default_release: Any) -> None:
    cards = {card.name: card for card in client.models()}
    assert set(cards) == set(default_release.models)
    assert cards["moonshine"].languages == ("en",)
    assert cards["moonshine"].times_estimated
    assert client.server_status().ready
    assert {card.name for card in client.wait_ready(default_release.models, timeout=60)} == set(
        default_release.models
    )


def test_what_the_server_has_not(client: SpeechClient) -> None:
    audio = np.zeros(16_000, np.float32)
    with pytest.raises(ModelNotFoundError, match="no version 7 of the model moonshine"):
        client.transcribe(audio, diarize=False, model_version="7")
    with pytest.raises(ModelNotFoundError, match="no recogniser 'whisper'"):
        client.transcribe(audio, engine="whisper")
    with pytest.raises(UnsupportedLanguageError, match="'kn'; offered: en"):
        client.transcribe(audio, language="kn")


def test_an_error_of_the_model_arrives_with_its_class(default_server: Any) -> None:
    """Past the client's own checks, as another client's request would come."""
    import asyncio

    from orchestrator.client.triton import TritonTransport
    from orchestrator.engines.base import RecognitionOptions

    async def ask() -> None:
        transport = TritonTransport(default_server.url, timeout_s=30, max_concurrency=1)
        try:
            await transport.recognize(
                "moonshine", np.zeros(16_000, np.float32), RecognitionOptions(language="kn")
            )
        finally:
            await transport.close()

    with pytest.raises(UnsupportedLanguageError) as caught:
        asyncio.run(ask())
    assert caught.value.host == default_server.url


def test_time_is_up(client: SpeechClient, sample: Path) -> None:
    with pytest.raises(RequestTimeoutError, match=r"within 0\.2 s"):
        client.transcribe(sample, timeout=0.2)
    assert client.transcribe(np.zeros(16_000, np.float32), diarize=False, timeout=60).text == ""


def test_a_model_that_is_not_loaded(serve: Serve, sample: Path) -> None:
    with serve() as server, SpeechClient(server.url) as client:
        with pytest.raises(ModelNotReadyError, match="diarizer"):
            client.transcribe(sample)
        with pytest.raises(ModelNotReadyError):
            client.wait_ready(["diarizer"], timeout=5)
        assert client.transcribe(sample, diarize=False).text


def until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def lives(child: psutil.Process) -> bool:
    try:
        return bool(child.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@pytest.mark.timeout(900)
def test_a_killed_server(serve: Serve, sample: Path) -> None:
    """Killed under a request: it comes back and the request succeeds; it stays away and the error says so."""
    samples, _ = soundfile.read(sample, dtype="float32")
    audio = np.tile(samples, 2)
    patient = Settings(client=ClientSettings(retries=40))

    with (
        serve("one") as first,
        SpeechClient(first.url, settings=patient) as client,
    ):
        expected = client.transcribe(audio, diarize=False).text
        with ThreadPoolExecutor(1) as threads:
            job = threads.submit(client.transcribe, audio, diarize=False)
            time.sleep(1.0)
            assert not job.done(), "the request must be in flight"
            os.kill(first.state.pid, signal.SIGKILL)
            first.wait()  # its ports are free only then
            with serve("two") as second:
                assert job.result(300).text == expected
                impatient = Settings(client=ClientSettings(retries=1))
                with SpeechClient(second.url, settings=impatient) as other:
                    killer = threading.Timer(1.0, os.kill, (second.state.pid, signal.SIGKILL))
                    killer.start()
                    with pytest.raises(ServerUnavailableError, match=second.url) as caught:
                        other.transcribe(audio, diarize=False)
                    killer.join()
                    assert "spark-speech up" in str(caught.value)
                    with pytest.raises(ServerUnavailableError):
                        other.server_status()


def test_a_models_process_that_was_killed(serve: Serve, sample: Path) -> None:
    with serve() as server, SpeechClient(server.url) as client:
        children = psutil.Process(server.state.pid).children(recursive=True)
        for child in children:
            child.kill()
        until(lambda: not any(map(lives, children)))
        with pytest.raises(RemoteInferenceError, match="not healthy") as caught:
            client.transcribe(sample, diarize=False, timeout=60)
        assert "spark-speech down" in str(caught.value)
