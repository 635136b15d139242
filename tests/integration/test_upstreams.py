"""Two real servers behind one gateway, and kill -9 of the one that does the work."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile
from riva.client import ASRService, Auth
from riva.client.proto import riva_asr_pb2 as pb

from orchestrator import resources
from orchestrator.settings import ServerSettings, StreamingSettings
from tests.integration.gateway_process import LIMIT_S, Running, running

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

DIALOGUE = Path(resources.__file__).parent / "training" / "checkpoint" / "dialogue.flac"
TEXT = json.loads(DIALOGUE.with_suffix(".json").read_text())["text"]
MODELS = {"parakeet": "embedded", "parakeet_streaming": "embedded"}
SPEED = 3.0
"""Of a live stream, in times the speed of speech."""
PART_S = 0.1


@pytest.fixture(scope="module")
def pair(
    tmp_path_factory: pytest.TempPathFactory, make_home: Callable[[Path], Path], tritonserver: Any
) -> Iterator[Callable[[], list[Any]]]:
    """Two servers of one release; each call starts those again that were killed."""
    from orchestrator.repository.builder import Builder
    from orchestrator.repository.plan import make_plan
    from orchestrator.repository.validate import machine
    from orchestrator.runtime.server import TritonServer
    from tests.conftest import free_server_settings

    home = make_home(tmp_path_factory.mktemp("release") / "home")
    plan = make_plan(
        MODELS,
        target=machine(),  # type: ignore[arg-type]
        streaming=StreamingSettings(max_streams=4),
    )
    release = Builder(home=home, models=resources.model_repository()).build(plan).release

    def make(settings: ServerSettings) -> Any:
        own = make_home(tmp_path_factory.mktemp("server") / "home")
        return TritonServer(
            release.model_repository, release.models, triton=tritonserver, home=own, settings=settings
        )

    settings = [free_server_settings() for _ in range(2)]
    servers = [make(one) for one in settings]
    # A server goes with the thread that started it, so that thread has to stay.
    with ThreadPoolExecutor(1) as threads:
        list(threads.map(lambda server: server.start(), servers))

        def alive() -> list[Any]:
            for place, server in enumerate(servers):
                if not answers(server.settings.grpc_port):
                    server.stop()
                    servers[place] = make(free_server_settings())
                    threads.submit(servers[place].start).result()
            return servers

        try:
            yield alive
        finally:
            for server in servers:
                server.stop()


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


@pytest.fixture
def gateway(pair: Callable[[], list[Any]], tmp_path: Path) -> Iterator[Running]:
    upstreams = json.dumps([server.url for server in pair()])
    with running(tmp_path / "gateway", upstream=None, upstreams=upstreams) as started:
        yield started
        assert started.process.poll() is None, "it must have lived through the test"
        assert "Traceback" not in started.log.read_text()


def open_streams(server: Any) -> float:
    """Live streams that a server has."""
    page = urllib.request.urlopen(f"http://127.0.0.1:{server.settings.metrics_port}/metrics", timeout=LIMIT_S)
    lines = [line for line in page.read().decode().splitlines() if line.startswith("speech_streams_open{")]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


def outstanding(gateway: Running) -> dict[str, float]:
    """What the gateway says that each upstream has in work."""
    lines = httpx.get(f"{gateway.url}/metrics", timeout=LIMIT_S).text.splitlines()
    named = [line for line in lines if line.startswith("spark_speech_gateway_upstream_outstanding{")]
    return {line.split('"')[1]: float(line.rpartition(" ")[2]) for line in named}


def until(condition: Callable[[], Any], timeout_s: float = LIMIT_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def live(gateway: Running, act: Callable[[], None] = lambda: None, at_s: float = 9.0) -> list[str]:
    """The finals of the dialogue, sent as it is spoken; ``act`` happens at ``at_s`` of it."""
    samples, rate = soundfile.read(DIALOGUE, dtype="int16")

    def messages() -> Iterator[Any]:
        config = pb.RecognitionConfig(
            encoding="LINEAR_PCM",
            sample_rate_hertz=rate,
            verbatim_transcripts=True,
            endpointing_config=pb.EndpointingConfig(stop_history=320, stop_threshold=0.5),
        )
        yield pb.StreamingRecognizeRequest(
            streaming_config=pb.StreamingRecognitionConfig(config=config, interim_results=True)
        )
        step = int(PART_S * rate)
        for begin in range(0, len(samples), step):
            if begin == round(at_s / PART_S) * step:
                act()
            time.sleep(PART_S / SPEED)
            yield pb.StreamingRecognizeRequest(audio_content=samples[begin : begin + step].tobytes())

    asr = ASRService(Auth(uri=gateway.riva))
    try:
        responses = list(asr.stub.StreamingRecognize(messages(), timeout=240))
    finally:
        asr.auth.channel.close()
    results = [result for response in responses for result in response.results]
    return [result.alternatives[0].transcript.strip() for result in results if result.is_final]


def errors(said: str, expected: str) -> float:
    import jiwer

    return float(jiwer.wer(expected, said))


def test_a_stream_whose_server_is_killed_goes_on_at_the_other(
    gateway: Running, pair: Callable[[], list[Any]]
) -> None:
    """No word is lost, none comes twice, and the finals told before stay as they were."""
    undisturbed = live(gateway)
    servers = pair()
    killed: list[str] = []

    def kill() -> None:
        until(lambda: sorted(open_streams(server) for server in servers) == [0, 1])
        (victim,) = [server for server in servers if open_streams(server) == 1]
        os.kill(victim.state.pid, signal.SIGKILL)
        killed.append(victim.url)

    disturbed = live(gateway, kill)
    assert len(killed) == 1
    assert errors(" ".join(undisturbed), TEXT) < 0.15
    assert errors(" ".join(disturbed), TEXT) <= errors(" ".join(undisturbed), TEXT) + 0.02
    assert disturbed[:2] == undisturbed[:2], "what was final before"
    (left,) = [server for server in servers if server.url not in killed]
    until(lambda: open_streams(left) == 0)
    until(lambda: outstanding(gateway) == {left.url: 0})
    assert httpx.get(f"{gateway.url}/v1/health/ready", timeout=LIMIT_S).status_code == 200


def test_streams_are_spread_and_all_survive(gateway: Running, pair: Callable[[], list[Any]]) -> None:
    servers = pair()
    alone = live(gateway)
    both = threading.Event()

    def kill() -> None:
        until(lambda: [open_streams(server) for server in servers] == [2, 2])
        both.set()
        os.kill(servers[0].state.pid, signal.SIGKILL)

    with ThreadPoolExecutor(4) as threads:
        streams = [threads.submit(live, gateway, kill if number == 3 else both.wait) for number in range(4)]
        said = [stream.result(240) for stream in streams]
    for finals in said:
        assert errors(" ".join(finals), TEXT) <= errors(" ".join(alone), TEXT) + 0.02
    until(lambda: open_streams(servers[1]) == 0)


def test_a_recording_whose_server_is_killed_is_done_by_the_other(
    gateway: Running, pair: Callable[[], list[Any]], tmp_path: Path
) -> None:
    servers = pair()
    samples, rate = soundfile.read(DIALOGUE, dtype="int16")
    long = tmp_path / "long.wav"
    soundfile.write(long, np.tile(samples, 8), rate, subtype="PCM_16")

    def ask() -> httpx.Response:
        with long.open("rb") as file:
            return httpx.post(
                f"{gateway.url}/v1/audio/transcriptions",
                data={"model": "parakeet"},
                files={"file": file},
                timeout=240,
            )

    with ThreadPoolExecutor(1) as threads:
        work = threads.submit(ask)
        until(lambda: all(count > 0 for count in outstanding(gateway).values()))
        os.kill(servers[1].state.pid, signal.SIGKILL)
        answer = work.result(240)
    assert answer.status_code == 200
    assert errors(answer.json()["text"], " ".join([TEXT] * 8)) < 0.05


def test_servers_that_come_back_are_used_and_none_is_told(
    pair: Callable[[], list[Any]], tmp_path: Path
) -> None:
    servers = pair()
    upstreams = json.dumps([server.url for server in servers])
    with running(tmp_path / "gateway", upstream=None, upstreams=upstreams) as gateway:

        def ready() -> httpx.Response:
            return httpx.get(f"{gateway.url}/v1/health/ready", timeout=LIMIT_S)

        until(lambda: ready().status_code == 200)
        until(lambda: outstanding(gateway) == {server.url: 0 for server in servers})
        for server in servers:
            os.kill(server.state.pid, signal.SIGKILL)
        until(lambda: ready().status_code == 503)
        assert ready().json()["error"]["code"] == "server_unavailable"
        until(lambda: outstanding(gateway) == {})
        assert gateway.stop() == 0
