"""`spark-speech gateway --reload`: edits are served by new workers, on the same ports and the same Triton."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import httpx
import psutil
import pytest
import soundfile
from riva.client.proto import riva_asr_pb2 as pb
from riva.client.proto.riva_asr_pb2_grpc import RivaSpeechRecognitionStub

import orchestrator
from orchestrator import resources
from orchestrator.runtime.ports import free_ports
from tests.integration.gateway_process import LIMIT_S, NOWHERE, Running, running

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

DIALOGUE = Path(resources.__file__).parent / "training" / "checkpoint" / "dialogue.flac"
EDITED = Path("orchestrator", "gateway", "http", "info.py")
STALL_S = 20.0
"""A caller who waits longer has noticed; so long may a busy machine stall."""


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A folder with a copy of the package, which is what Python finds there."""
    shutil.copytree(
        Path(orchestrator.__file__).parent,
        tmp_path / "orchestrator",
        ignore=shutil.ignore_patterns("__pycache__", "*.flac", "*.safetensors"),
    )
    return tmp_path


def api_of(gateway: Running) -> str:
    return str(httpx.get(f"{gateway.url}/v1/version", timeout=LIMIT_S).json()["api"])


def edit(copy: Path, old: str, new: str) -> None:
    path = copy / EDITED
    text = path.read_text()
    assert old in text
    write(copy, path, text.replace(old, new))


def write(copy: Path, path: Path, text: str) -> None:
    """The whole at once: half of it would be served as well, if somebody looked just then."""
    fresh = copy / "fresh"
    fresh.write_text(text)
    fresh.replace(path)


def events(gateway: Running) -> list[dict[str, Any]]:
    """What the supervisor said."""
    lines = gateway.log.read_text().splitlines()
    return [json.loads(line) for line in lines if line.startswith('{"event"')]


def workers_of(gateway: Running) -> list[psutil.Process]:
    try:
        return psutil.Process(gateway.process.pid).children()
    except psutil.NoSuchProcess:
        return []


def until(true: Callable[[], Any], limit_s: float = LIMIT_S) -> Any:
    """Wait for something; what it was."""
    end = time.monotonic() + limit_s
    while not (found := true()):
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.05)
    return found


@dataclass
class Caller:
    """Calls something over and over; notes how long each took, and what went wrong."""

    call: Callable[[], Any]
    took_s: list[float] = field(default_factory=list)
    answers: list[Any] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    @contextmanager
    def calling(self) -> Iterator[None]:
        over = threading.Event()

        def run() -> None:
            while not over.wait(0.01):
                started = time.monotonic()
                try:
                    self.answers.append(self.call())
                except (httpx.HTTPError, grpc.RpcError) as error:
                    self.errors.append(repr(error))
                self.took_s.append(time.monotonic() - started)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


def process_tree(pid: int) -> dict[int, float]:
    """The server's processes, the models' among them, and when each began."""
    root = psutil.Process(pid)
    return {each.pid: each.create_time() for each in (root, *root.children(recursive=True))}


def model_states(triton: Any) -> Any:
    index = httpx.post(f"http://127.0.0.1:{triton.settings.http_port}/v2/repository/index", timeout=LIMIT_S)
    return index.json()


def streamed(gateway: Running, seconds: float, speed: float) -> str:
    """What a live stream of the dialogue's first ``seconds`` hears, ``speed`` times as fast as spoken."""
    samples, rate = soundfile.read(DIALOGUE, dtype="int16", frames=int(seconds * 16_000))
    config = pb.StreamingRecognitionConfig(
        config=pb.RecognitionConfig(
            encoding="LINEAR_PCM", sample_rate_hertz=rate, language_code="en", model="parakeet_streaming"
        )
    )

    def messages() -> Iterator[Any]:
        yield pb.StreamingRecognizeRequest(streaming_config=config)
        step = rate // 10
        for begin in range(0, len(samples), step):
            time.sleep(0.1 / speed)
            yield pb.StreamingRecognizeRequest(audio_content=samples[begin : begin + step].tobytes())

    with grpc.insecure_channel(gateway.riva) as channel:
        answers = RivaSpeechRecognitionStub(channel).StreamingRecognize(messages())
        finals = [result for answer in answers for result in answer.results if result.is_final]
    return "".join(result.alternatives[0].transcript for result in finals)


def test_an_edit_is_served_while_triton_and_its_callers_notice_nothing(triton: Any, copy: Path) -> None:
    samples, rate = soundfile.read(DIALOGUE, dtype="int16", frames=3 * 16_000)
    wav = io.BytesIO()
    soundfile.write(wav, samples, rate, format="WAV")
    ask = pb.RivaSpeechRecognitionConfigRequest()

    with (
        running(copy, triton.url, ["--reload"], drain_timeout_s=LIMIT_S) as gateway,
        grpc.insecure_channel(gateway.riva) as channel,
    ):

        def transcribe() -> str:
            files, fields = {"file": ("a.wav", wav.getvalue())}, {"model": "parakeet"}
            answer = httpx.post(
                f"{gateway.url}/v1/audio/transcriptions", files=files, data=fields, timeout=LIMIT_S
            )
            return str(answer.raise_for_status().json()["text"])

        def asked(at: grpc.Channel) -> str:
            """A call that reaches the old worker just as it ends is cancelled: it is asked again."""
            ask_it = RivaSpeechRecognitionStub(at).GetRivaSpeechRecognitionConfig
            end = time.monotonic() + STALL_S
            while True:
                try:
                    return str(ask_it(ask, timeout=LIMIT_S).model_config[0].model_name)
                except grpc.RpcError as error:
                    if error.code() is not grpc.StatusCode.CANCELLED or time.monotonic() > end:
                        raise
                time.sleep(0.05)

        def asked_anew() -> str:
            with grpc.insecure_channel(gateway.riva) as fresh:
                return asked(fresh)

        expected = transcribe()
        heard_before = streamed(gateway, 12, speed=8)
        (old,) = workers_of(gateway)
        tree, states = process_tree(triton.state.pid), model_states(triton)

        callers = {
            "http": Caller(lambda: api_of(gateway)),
            "kept channel": Caller(lambda: asked(channel)),
            "new channels": Caller(asked_anew),
        }
        heard: list[str] = []
        talking = threading.Thread(target=lambda: heard.append(streamed(gateway, 12, speed=2)))
        with callers["http"].calling(), callers["kept channel"].calling(), callers["new channels"].calling():
            talking.start()
            gateway.until_streaming()
            edit(copy, 'API_VERSION: Final = "1"', 'API_VERSION: Final = "two"')
            until(lambda: "two" in callers["http"].answers)
            started = time.monotonic()
            text = transcribe()
            first_s = time.monotonic() - started
            talking.join()
            until(lambda: not old.is_running(), 2 * LIMIT_S)
        assert text == expected
        assert first_s < STALL_S
        assert heard == [heard_before]
        for name, caller in callers.items():
            assert caller.errors == [], name
            assert max(caller.took_s) < STALL_S, name
        assert process_tree(triton.state.pid) == tree
        assert model_states(triton) == states
        assert [event["event"] for event in events(gateway)] == ["reloaded"]
        assert gateway.stop() == 0


def test_an_error_in_the_source_keeps_what_serves_and_says_so(copy: Path) -> None:
    with running(copy, NOWHERE, ["--reload"]) as gateway:
        (old,) = workers_of(gateway)
        edit(copy, 'API_VERSION: Final = "1"', 'API_VERSION: Final = "2')
        (told,) = until(lambda: events(gateway))
        assert told["event"] == "reload failed"
        assert "info.py, line" in told["message"]
        assert "unterminated string" in told["message"]
        assert api_of(gateway) == "1"

        edit(copy, 'API_VERSION: Final = "2', "API_VERSION: Final = nothing")
        until(lambda: len(events(gateway)) == 2)
        assert events(gateway)[1]["event"] == "reload failed"
        assert "name 'nothing' is not defined" in gateway.log.read_text()
        assert api_of(gateway) == "1"
        assert old.is_running()

        edit(copy, "= nothing", '= "three"')
        until(lambda: api_of(gateway) == "three")
        until(lambda: not old.is_running())


def test_new_settings_are_served_and_wrong_ones_are_not(copy: Path) -> None:
    file = copy / "spark-speech.toml"
    with running(copy, NOWHERE, ["--reload"]) as gateway:
        write(copy, file, f'[gateway]\napi_key_hashes = ["{hashlib.sha256(b"sesame").hexdigest()}"]\n')
        until(lambda: httpx.get(f"{gateway.url}/v1/version", timeout=LIMIT_S).status_code == 401)

        write(copy, file, "[gateway]\nmax_stream = 3\n")
        until(lambda: len(events(gateway)) == 2)
        told = events(gateway)[1]
        assert (told["event"], told["kept"]) == ("reload failed", True)
        assert "max_stream" in told["message"]
        assert httpx.get(f"{gateway.url}/v1/version", timeout=LIMIT_S).status_code == 401

        file.unlink()
        until(lambda: httpx.get(f"{gateway.url}/v1/version", timeout=LIMIT_S).status_code == 200)


def test_workers_share_the_ports_and_one_that_dies_is_replaced(copy: Path) -> None:
    with running(copy, NOWHERE, ["--workers", "2"]) as gateway:
        first, second = workers_of(gateway)
        assert api_of(gateway) == "1"
        edit(copy, 'API_VERSION: Final = "1"', 'API_VERSION: Final = "two"')
        first.kill()
        (told,) = until(lambda: events(gateway))
        assert (told["event"], told["statuses"]) == ("worker died", [-signal.SIGKILL])
        assert {each.pid for each in workers_of(gateway)} == {second.pid, *told["pids"]}
        assert api_of(gateway) in ("1", "two"), "without --reload only the new worker has seen the edit"
        assert gateway.stop() == 0
        assert not second.is_running()


def test_workers_do_not_outlive_their_supervisor(copy: Path) -> None:
    with running(copy, NOWHERE, ["--reload", "--workers", "2"]) as gateway:
        workers = workers_of(gateway)
        assert len(workers) == 2
        os.kill(gateway.process.pid, signal.SIGKILL)
        until(lambda: not any(worker.is_running() for worker in workers))


def test_the_first_workers_say_why_they_cannot_serve(tmp_path: Path) -> None:
    (tmp_path / "empty.pem").touch()
    pems = [f"--set=gateway.tls_{kind}file={tmp_path / 'empty.pem'}" for kind in ("cert", "key")]
    (port,) = free_ports(1)
    ports = [f"--set=gateway.http_port={port}", "--set=gateway.grpc_port="]
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator.cli", *pems, *ports, "gateway", "--reload", "--json"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        timeout=LIMIT_S,
    )
    assert done.returncode == 1
    assert "TLS files" in json.loads(done.stdout)["message"]
