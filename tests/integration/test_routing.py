"""Engines outside Triton and in it, as real processes, and kill -9 of the one that does the work."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import soundfile

from orchestrator import resources
from orchestrator.client import AsyncSpeechClient, Completed, Final, Reconnected
from orchestrator.settings import Settings
from tests.integration.gateway_process import NOWHERE, Running, running
from tests.integration.talk import DIALOGUE, Talk

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

MODELS = {"parakeet": "embedded", "parakeet_streaming": "embedded"}


@pytest.fixture
def gateway(triton: Any, tmp_path: Path) -> Iterator[Running]:
    with running(tmp_path / "gateway", triton.url) as started:
        yield started


@pytest.fixture
def doomed(tmp_path: Path, make_home: Callable[[Path], Path], tritonserver: Any) -> Iterator[Any]:
    """A tritonserver of its own, to be killed."""
    from orchestrator.repository.builder import Builder
    from orchestrator.repository.plan import make_plan
    from orchestrator.repository.validate import machine
    from orchestrator.runtime.server import TritonServer
    from tests.conftest import free_server_settings

    home = make_home(tmp_path / "home")
    plan = make_plan(MODELS, target=machine())  # type: ignore[arg-type]
    release = Builder(home=home, models=resources.model_repository()).build(plan).release
    server = TritonServer(
        release.model_repository,
        release.models,
        triton=tritonserver,
        home=home,
        settings=free_server_settings(),
    )
    # A server goes with the thread that started it, so that thread has to stay.
    with ThreadPoolExecutor(1) as threads:
        threads.submit(server.start).result()
        try:
            yield server
        finally:
            server.stop()


def settings(gateway: Running, *order: str) -> Settings:
    return Settings.model_validate(
        {
            "riva": {"url": gateway.riva, "verbatim": True},
            "client": {"retries": 1, "stream_reconnect_s": 60},
            "routing": {"rules": [{"language": "en", "engines": order}], "otherwise": "none", "failures": 2},
        }
    )


def run(url: str, made: Settings, act: Callable[[AsyncSpeechClient], Any]) -> Any:
    async def main() -> Any:
        async with AsyncSpeechClient(url, settings=made) as client:
            return await act(client)

    return asyncio.run(main())


def errors(said: str, expected: str) -> float:
    import jiwer

    return float(jiwer.wer(expected, said))


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def test_riva_over_the_projects_own_gateway(gateway: Running, talk: Talk) -> None:
    """No Triton of the client's own: recordings, speakers and live streams all go by Riva's protocol."""
    made = settings(gateway, "riva")

    async def act(client: AsyncSpeechClient) -> tuple[Any, Any, list[Any]]:
        names = {card.name for card in await client.models()}
        assert names == {"riva/parakeet", "riva/parakeet_streaming", "riva/diarizer"}
        transcript = await client.transcribe(talk.wav, language="en", max_speakers=2)
        live = client.stream(talk.wav, language="en", pace="fast")
        return transcript, live, [event async for event in live]

    transcript, live, events = run(NOWHERE, made, act)
    assert errors(transcript.text, talk.text) < 0.15
    assert (transcript.engine, transcript.language, transcript.times_estimated) == ("riva", "en", False)
    assert len(transcript.speakers) == 2
    words = transcript.words
    assert all(0 <= word.start <= word.end <= transcript.duration for word in words)
    assert any(0 < word.confidence < 1 for word in words)
    assert transcript.routing is not None
    assert transcript.routing.model == "riva/parakeet"
    assert isinstance(events[-1], Completed)
    assert errors(events[-1].transcript.text, talk.text) < 0.15
    assert live.routing.model == "riva/parakeet_streaming"


def test_a_recording_whose_server_is_killed(doomed: Any, gateway: Running, talk: Talk) -> None:
    made = settings(gateway, "parakeet", "riva")
    pid = doomed.state.process().pid

    async def act(client: AsyncSpeechClient) -> Any:
        before = await client.transcribe(talk.wav, language="en", diarize=False)
        assert before.engine == "parakeet"
        kill(pid)
        return before, await client.transcribe(talk.wav, language="en", diarize=False)

    before, after = run(doomed.url, made, act)
    assert after.engine == "riva"
    assert [(one.engine, one.error) for one in after.routing.failed] == [
        ("parakeet", "ServerUnavailableError")
    ]
    assert errors(after.text, before.text) < 0.05, "the same model heard the same audio"


def live_stream(url: str, made: Settings, talk: Talk, act: Callable[[], None]) -> list[Any]:
    """The dialogue at four times the speed of speech; ``act`` happens when its first utterance is final."""
    samples, rate = soundfile.read(DIALOGUE, dtype="float32")
    part = int(0.16 * rate)

    async def main(client: AsyncSpeechClient) -> list[Any]:
        async def pieces() -> Any:
            for begin in range(0, len(samples), part):
                yield samples[begin : begin + part]
                await asyncio.sleep(0.04)

        events: list[Any] = []
        done = False
        live = client.stream(pieces(), sample_rate=rate, language="en", diarize=False)
        async for event in live:
            events.append(event)
            if isinstance(event, Final) and not done:
                done = True
                threading.Thread(target=act).start()
        return events

    return list(run(url, made, main))


def check_moved(events: list[Any], talk: Talk, engine: str, failed: str) -> None:
    finals = [event for event in events if isinstance(event, Final)]
    assert [final.utterance for final in finals] == list(range(len(finals))), "none twice, none left out"
    starts = [word.start for final in finals for word in final.segment.words]
    assert starts == sorted(starts)
    assert any(isinstance(event, Reconnected) for event in events)
    assert isinstance(events[-1], Completed)
    transcript = events[-1].transcript
    assert transcript.engine == engine
    assert [one.engine for one in transcript.routing.failed] == [failed]
    assert errors(transcript.text, talk.text) < 0.2, "nothing is lost"


def test_a_live_stream_whose_riva_server_is_killed(triton: Any, gateway: Running, talk: Talk) -> None:
    made = settings(gateway, "riva", "parakeet")
    events = live_stream(triton.url, made, talk, lambda: kill(gateway.process.pid))
    check_moved(events, talk, "parakeet_streaming", "riva")


def test_a_live_stream_whose_triton_is_killed(doomed: Any, gateway: Running, talk: Talk) -> None:
    made = settings(gateway, "parakeet", "riva")
    pid = doomed.state.process().pid
    events = live_stream(doomed.url, made, talk, lambda: kill(pid))
    check_moved(events, talk, "riva", "parakeet_streaming")


def test_the_command_explains_itself_after_a_kill(
    triton: Any, gateway: Running, talk: Talk, tmp_path: Path
) -> None:
    config = tmp_path / "spark-speech.toml"
    config.write_text(
        f'[riva]\nurl = "{gateway.riva}"\n[client]\nretries = 0\n[routing]\n'
        'rules = [{ language = "en", engines = ["riva", "parakeet"] }]\n'
    )
    command = [sys.executable, "-m", "orchestrator.cli", "--config", str(config)]
    ask = [*command, "transcribe", str(talk.short), "--language", "en", "--no-diarize", "--explain"]

    def told() -> str:
        done = subprocess.run(
            [*ask, "--url", triton.url], capture_output=True, text=True, check=True, cwd=tmp_path
        )
        assert done.stdout.strip()
        return done.stderr

    first = told()
    assert "Rule: en -> riva, parakeet" in first
    assert "Engine: riva (model riva/parakeet)" in first
    kill(gateway.process.pid)
    gateway.process.wait()
    second = told()
    assert "riva: is away:" in second
    assert "Engine: parakeet (model parakeet)" in second
