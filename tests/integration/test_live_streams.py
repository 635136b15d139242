"""Live streams through the client and a real server, with the small checkpoint."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import orchestrator
from orchestrator import resources
from orchestrator.client import Completed, Final, Partial, Reconnected, SpeechClient, StreamEvent
from orchestrator.errors import PortInUseError, StreamLimitError
from orchestrator.runtime.ports import free_ports
from orchestrator.settings import ServerSettings, StreamingSettings

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

MODEL = "parakeet_streaming"
STREAMS = 4
CHECKPOINT = Path(orchestrator.__file__).parent / "training" / "checkpoint"
DIALOGUE = CHECKPOINT / "dialogue.flac"
PAUSE_MS = 320
"""The speakers of the dialogue pause for 500 ms."""
ENDS: Any = {"stop_history_ms": PAUSE_MS}
REFERENCE = json.loads((CHECKPOINT / "dialogue.json").read_text())["text"].split()


@pytest.fixture(scope="module")
def serve(
    tmp_path_factory: pytest.TempPathFactory, make_home: Callable[[Path], Path], tritonserver: Any
) -> Callable[[ServerSettings], Any]:
    """Make a server with given ports."""
    from orchestrator.repository.builder import Builder
    from orchestrator.repository.plan import make_plan
    from orchestrator.repository.validate import machine
    from orchestrator.runtime.server import TritonServer

    home = make_home(tmp_path_factory.mktemp("release") / "home")
    plan = make_plan(
        {MODEL: "embedded", "parakeet": "embedded"},
        target=machine(),  # type: ignore[arg-type]
        streaming=StreamingSettings(max_streams=STREAMS),
    )
    release = Builder(home=home, models=resources.model_repository()).build(plan).release

    def make(settings: ServerSettings) -> Any:
        own = make_home(tmp_path_factory.mktemp("server") / "home")
        return TritonServer(
            release.model_repository, release.models, triton=tritonserver, home=own, settings=settings
        )

    return make


def free_settings() -> ServerSettings:
    http, grpc, metrics = free_ports(3)
    return ServerSettings(
        http_port=http, grpc_port=grpc, metrics_port=metrics, ready_timeout_s=240, stop_timeout_s=10
    )


@pytest.fixture(scope="module")
def server(serve: Callable[[ServerSettings], Any]) -> Iterator[Any]:
    with serve(free_settings()) as running:
        yield running


def texts(events: list[StreamEvent]) -> list[str]:
    return [event.segment.text for event in events if isinstance(event, Final)]


def errors(words: list[str]) -> int:
    """Words that differ from what was said (edit distance)."""
    row = list(range(len(REFERENCE) + 1))
    for i, word in enumerate(words, 1):
        last, row[0] = row[0], i
        for j, said in enumerate(REFERENCE, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (word != said))
    return row[-1]


def is_free(server: Any, within_s: float = 60.0) -> bool:
    """Whether soon no stream is open on the server."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        page = urllib.request.urlopen(f"http://127.0.0.1:{server.settings.metrics_port}/metrics", timeout=10)
        found = re.search(
            rf'^speech_streams_open{{instance="{MODEL}_0_0"}} (\S+)$', page.read().decode(), re.M
        )
        assert found is not None
        if float(found[1]) == 0:
            return True
        time.sleep(0.1)
    return False


def paced(speed: float, act: Callable[[], object] | None = None, at_s: float = 8.0) -> Iterator[np.ndarray]:
    """The dialogue, faster than it was spoken; ``act`` happens at ``at_s`` of it."""
    samples, rate = soundfile.read(DIALOGUE, dtype="int16")
    for begin in range(0, len(samples), rate // 10):
        if act is not None and begin == int(at_s * rate):
            act()
        time.sleep(0.1 / speed)
        yield samples[begin : begin + rate // 10]


def test_it_says_what_was_said(server: Any) -> None:
    with SpeechClient(server.url) as client:
        events = list(client.stream(DIALOGUE, endpointing=ENDS, pace="fast"))
        whole = client.transcribe(DIALOGUE, diarize=False, engine="parakeet")
    done = events[-1]
    assert isinstance(done, Completed)
    transcript = done.transcript
    assert (transcript.source, transcript.engine, transcript.language) == ("dialogue.flac", MODEL, "en")
    assert transcript.duration == pytest.approx(22.552, abs=0.01)
    assert " ".join(texts(events)) == transcript.text
    heard = [word.text for word in transcript.words]
    assert errors(whole.text.split()) == 0
    assert errors(heard) <= 3
    starts = [word.start for word in transcript.words]
    assert starts == sorted(starts)
    if heard == whole.text.split():
        for mine, theirs in zip(transcript.words, whole.words, strict=True):
            assert mine.start == pytest.approx(theirs.start, abs=0.25)
    numbers = [event.utterance for event in events if isinstance(event, Final)]
    assert numbers == sorted(set(numbers))
    assert len(numbers) >= 6
    assert any(isinstance(event, Partial) for event in events)
    assert is_free(server)


def test_in_real_time_words_come_soon_after_they_are_said(server: Any) -> None:
    began = time.monotonic()
    late: list[float] = []
    with SpeechClient(server.url) as client:
        for event in client.stream(DIALOGUE, endpointing=ENDS):
            if isinstance(event, Final) and event.segment.words:
                late.append(time.monotonic() - began - event.segment.end)
    assert time.monotonic() - began >= 22
    assert late
    assert sorted(late)[len(late) // 2] < 10, "finals come while the stream goes on"


def start_soon(server: Any) -> None:
    """Start on the ports of a server that was killed, whose last process may live a moment longer."""
    for _ in range(300):
        try:
            server.start()
        except PortInUseError:
            time.sleep(0.2)
        else:
            return
    server.start()


def test_killed_and_started_again_under_a_stream(serve: Callable[[ServerSettings], Any]) -> None:
    settings = free_settings()
    first, second = serve(settings), serve(settings)
    starting: list[Future[None]] = []

    # A server goes with the thread that started it, so that thread has to stay.
    with ThreadPoolExecutor(1) as threads, SpeechClient(f"127.0.0.1:{settings.grpc_port}") as client:
        try:
            first.start()
            undisturbed = texts(list(client.stream(paced(4.0), endpointing=ENDS, diarize=False)))

            def kill() -> None:
                os.kill(first.state.pid, signal.SIGKILL)
                starting.append(threads.submit(start_soon, second))

            events = list(client.stream(paced(4.0, kill), endpointing=ENDS, diarize=False))
            starting[0].result(120)
            assert is_free(second)
        finally:
            first.stop()
            second.stop()
    told = [event for event in events if isinstance(event, Reconnected)]
    assert len(told) == 1
    assert told[0].after_s > 1
    assert 0 < told[0].resent_s < 15
    words = " ".join(texts(events)).split()
    assert errors(words) <= errors(" ".join(undisturbed).split())
    done = events[-1]
    assert isinstance(done, Completed)
    assert done.transcript.text.split() == words
    spans = [(word.start, word.end) for word in done.transcript.words]
    assert spans == sorted(spans)
    assert done.transcript.duration == pytest.approx(22.552, abs=0.01)
    numbers = [event.utterance for event in events if isinstance(event, Final)]
    assert numbers == sorted(set(numbers))


def test_several_streams_at_once_hear_what_each_hears_alone(server: Any) -> None:
    with SpeechClient(server.url) as client:
        alone = texts(list(client.stream(DIALOGUE, endpointing=ENDS, pace="fast", diarize=False)))
        with ThreadPoolExecutor(STREAMS) as threads:
            together = list(
                threads.map(
                    lambda _: texts(list(client.stream(paced(3.0), endpointing=ENDS, diarize=False))),
                    range(STREAMS),
                )
            )
    assert together == [alone] * STREAMS
    assert is_free(server)


def test_one_stream_too_many_is_refused_and_the_others_go_on(server: Any) -> None:
    all_there, refused = threading.Barrier(STREAMS + 1, timeout=240), threading.Event()

    def talk(client: SpeechClient) -> list[str]:
        events: list[StreamEvent] = []
        for event in client.stream(paced(3.0, lambda: refused.wait(240)), endpointing=ENDS, diarize=False):
            if not events:
                all_there.wait()
            events.append(event)
        return texts(events)

    with SpeechClient(server.url) as client, ThreadPoolExecutor(STREAMS) as threads:
        running = [threads.submit(talk, client) for _ in range(STREAMS)]
        all_there.wait()
        with pytest.raises(StreamLimitError, match="4 live streams"):
            list(client.stream(DIALOGUE, endpointing=ENDS, pace="fast"))
        refused.set()
        said = [one.result(240) for one in running]
    assert all(errors(" ".join(words).split()) <= 3 for words in said)
    assert is_free(server)


def test_breaking_out_frees_the_place(server: Any) -> None:
    with SpeechClient(server.url) as client:
        for _ in range(3 * STREAMS):
            for _event in client.stream(paced(20.0)):
                break
        assert is_free(server)


def test_the_command(server: Any, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "orchestrator.cli", "stream", str(DIALOGUE), "--url", server.url]
    command += ["--pause", str(PAUSE_MS)]
    done = subprocess.run(
        [*command, "--no-realtime", "--json", "-o", str(tmp_path), "--format", "txt,srt"],
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert events[-1]["event"] == "completed"
    finals = [event["segment"]["text"] for event in events if event["event"] == "final"]
    assert errors(" ".join(finals).split()) <= 3
    assert finals[0] in (tmp_path / "dialogue.txt").read_text()
    assert "-->" in (tmp_path / "dialogue.srt").read_text()

    process = subprocess.Popen(
        [*command, "-o", str(tmp_path / "cut")], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("[00:00.")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert (process.returncode, "Traceback" in err) == (0, False)
    assert json.loads((tmp_path / "cut" / "dialogue.json").read_text())["segments"]
    assert is_free(server)
