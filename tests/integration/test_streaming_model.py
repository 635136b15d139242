"""The model of live streams in a real server: an echo for an engine, then the small checkpoint."""

from __future__ import annotations

import importlib.util
import json
import random
import re
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import pytest
from tritonclient.grpc import service_pb2

from orchestrator import resources
from orchestrator.errors import (
    AudioTooLongError,
    InvalidRequestError,
    ServerStartError,
    ServerUnavailableError,
    SpeechError,
    StreamLimitError,
    StreamLostError,
    UnsupportedLanguageError,
)
from orchestrator.settings import ServerSettings, StreamingSettings

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

_spec = importlib.util.spec_from_file_location("live_model", Path(__file__).parent / "live_model.py")
assert _spec is not None
assert _spec.loader is not None
live_model = importlib.util.module_from_spec(_spec)
sys.modules["live_model"] = live_model  # dataclasses look their module up
_spec.loader.exec_module(live_model)
Live, MODEL = live_model.Live, live_model.MODEL

FORGETFUL, REAPED, MANY, ABANDONED, TWINS = "forgetful", "reaped", "many", "abandoned", "twins"
CROWD = 250
"""Streams of `ABANDONED` that are begun at once."""
STREAMS = 4
IDLE_S = 5.0
"""Of `FORGETFUL`; only its tests may not take long between two chunks of a stream."""
LET_GO_S = 0.3
"""A request is under way in the server for a moment after its answer."""
TICK = [0] * 160
"""10 ms."""


@dataclass
class Served:
    """A running server and a connection to it."""

    server: Any
    live: Any

    def metric(self, name: str, model: str = MODEL) -> float:
        """A number of the metrics page."""
        port = self.server.settings.metrics_port
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as page:
            text = page.read().decode()
        found = re.search(rf'^{name}{{instance="{model}_0_0"}} (\S+)$', text, re.MULTILINE)
        assert found is not None, f"{name} of {model} is not shown"
        return float(found[1])

    def stubs(self) -> list[psutil.Process]:
        """The processes of the models' Python code."""
        children = psutil.Process(self.server.state.pid).children(recursive=True)
        return [child for child in children if "stub" in child.name()]


Serve = Callable[..., Any]


@pytest.fixture(scope="module")
def serve(
    tmp_path_factory: pytest.TempPathFactory, make_home: Callable[[Path], Path], tritonserver: Any
) -> Serve:
    from orchestrator.runtime.ports import free_ports
    from orchestrator.runtime.server import TritonServer

    def make(repository: Path, *models: str, stop_timeout_s: float = 2) -> Any:
        http, grpc_port, metrics = free_ports(3)
        settings = ServerSettings(
            http_port=http,
            grpc_port=grpc_port,
            metrics_port=metrics,
            ready_timeout_s=240,
            stop_timeout_s=stop_timeout_s,
        )
        home = make_home(tmp_path_factory.mktemp("home") / "home")
        return TritonServer(repository, models, triton=tritonserver, home=home, settings=settings)

    return make


@pytest.fixture(scope="module")
def echo_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = live_model.config(StreamingSettings(max_streams=STREAMS, idle_timeout_s=60, queue_delay_ms=2))
    short = live_model.config(StreamingSettings(max_streams=STREAMS, idle_timeout_s=IDLE_S, queue_delay_ms=2))
    many = live_model.config(StreamingSettings(max_streams=64, idle_timeout_s=30, queue_delay_ms=5))
    crowd = live_model.config(StreamingSettings(max_streams=2 * CROWD, idle_timeout_s=0.2, queue_delay_ms=5))
    twins = live_model.config(StreamingSettings(max_streams=8, instances=2, idle_timeout_s=30))
    return live_model.write_echo(  # type: ignore[no-any-return]
        tmp_path_factory.mktemp("echo"),
        base,
        replace(short, name=FORGETFUL),
        live_model.with_idle(base, REAPED, 200_000),
        live_model.with_idle(many, MANY, 60_000_000),
        live_model.with_idle(crowd, ABANDONED, 250_000),
        live_model.with_idle(twins, TWINS, 60_000_000),
    )


@pytest.fixture(scope="module")
def served(serve: Serve, echo_repository: Path) -> Iterator[Served]:
    with (
        serve(echo_repository, MODEL, FORGETFUL, REAPED, MANY, ABANDONED, TWINS) as server,
        Live(server.url) as live,
    ):
        yield Served(server, live)


_numbers = iter(range(1, 10**9))


@pytest.fixture
def ids() -> Iterator[int]:
    """Stream ids that no other test uses."""
    return _numbers


def test_many_streams_at_once_hear_themselves_alone_and_share_steps(
    served: Served, ids: Iterator[int]
) -> None:
    """Chunks of odd sizes, some of them empty, in an order that chance decides."""
    rng = random.Random(5)
    streams = [next(ids) for _ in range(64)]
    said: dict[int, list[str]] = {stream: [] for stream in streams}
    before = served.metric("speech_stream_steps_total", MANY)
    rounds = 8
    for number in range(rounds):
        rng.shuffle(streams)
        calls = {}
        for stream in streams:
            size = rng.choice([0, 1, 79, 160, 161, 1777, 8960])
            value = rng.randrange(1, 30_000)
            said[stream] += [str(value)] if size else []
            calls[stream] = served.live.begin(
                stream,
                np.full(size, value),
                start=number == 0,
                end=number == rounds - 1,
                model=MANY,
            )
        answers = {stream: served.live.finish(call) for stream, call in calls.items()}
        if number == rounds - 1:
            assert {stream: answer.words for stream, answer in answers.items()} == said
    steps = served.metric("speech_stream_steps_total", MANY) - before
    assert steps < 64 * rounds / 4, "hardly anything was batched"
    assert served.metric("speech_streams_open", MANY) == 0


def test_a_stream_may_have_a_name(served: Served) -> None:
    assert served.live.send("ada", [5], start=True).words == ["5"]
    assert served.live.send("ada", [6], end=True).words == ["5", "6"]


def test_empty_chunks_are_answered(served: Served, ids: Iterator[int]) -> None:
    stream = next(ids)
    assert served.live.send(stream, [], start=True).words == []
    assert served.live.send(stream, []).processed_ms == 0
    assert served.live.send(stream, [], end=True).segments == []


def test_starting_twice_begins_anew(served: Served, ids: Iterator[int]) -> None:
    stream = next(ids)
    served.live.send(stream, [5], start=True)
    assert served.live.send(stream, [6], start=True).words == ["6"]
    assert served.live.send(stream, [7], end=True).words == ["6", "7"]


def test_a_stream_that_never_started_is_lost(served: Served, ids: Iterator[int]) -> None:
    assert isinstance(served.live.fault(next(ids), [5]), StreamLostError)


def test_a_stream_that_has_ended_is_lost(served: Served, ids: Iterator[int]) -> None:
    stream = next(ids)
    served.live.send(stream, [5], start=True, end=True)
    assert isinstance(served.live.fault(stream, [5]), StreamLostError)


def test_a_chunk_with_force_ends_the_utterance_and_not_the_stream(served: Served, ids: Iterator[int]) -> None:
    stream = next(ids)
    served.live.send(stream, [5], start=True)
    forced = served.live.send(stream, [6], options={"force_end_of_utterance": True})
    assert forced.segments == [(0, ["5", "6"], True)]
    assert served.live.send(stream, [7], end=True).segments == [(1, ["7"], True)]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("{", InvalidRequestError),
        ("[1]", InvalidRequestError),
        ('{"sample_rate_hz": "fast"}', InvalidRequestError),
        ('{"punctuation": true}', InvalidRequestError),
        ('{"endpointing": {"stop_threshold": 7}}', InvalidRequestError),
        ('{"sample_rate_hz": 8000}', InvalidRequestError),
        ('{"language": "tlh"}', UnsupportedLanguageError),
        ("\x00", InvalidRequestError),
    ],
)
def test_options_that_mean_nothing_are_refused_and_disturb_nobody(
    served: Served, ids: Iterator[int], options: str, expected: type[SpeechError]
) -> None:
    running, refused = next(ids), next(ids)
    served.live.send(running, [1], start=True)
    fault = served.live.fault(refused, [5], start=True, options=options)
    assert type(fault) is expected
    assert fault.model == MODEL
    assert served.live.send(running, [2], end=True).words == ["1", "2"]
    assert isinstance(served.live.fault(refused, [5], end=True), StreamLostError)


def test_a_chunk_that_is_too_long_fails_alone_and_its_stream_goes_on(
    served: Served, ids: Iterator[int]
) -> None:
    stream = next(ids)
    served.live.send(stream, [1], start=True)
    fault = served.live.fault(stream, np.zeros(11 * 16_000))
    assert isinstance(fault, AudioTooLongError)
    assert "10 s" in fault.message
    assert served.live.send(stream, [2], end=True).words == ["1", "2"]


@pytest.mark.parametrize(
    ("datatype", "shape", "content"),
    [
        ("FP32", [1, 4], bytes(16)),
        ("INT16", [4], bytes(8)),
        ("INT16", [2, 4], bytes(16)),
        ("INT16", [1, 2, 2], bytes(8)),
        ("INT16", [1, 4], bytes(7)),
    ],
)
def test_audio_of_another_type_or_shape_is_refused(
    served: Served, ids: Iterator[int], datatype: str, shape: list[int], content: bytes
) -> None:
    import grpc

    request = service_pb2.ModelInferRequest(model_name=MODEL)
    request.inputs.add(name="PCM16", datatype=datatype, shape=shape)
    request.raw_input_contents.append(content)
    request.parameters["sequence_id"].int64_param = next(ids)
    request.parameters["sequence_start"].bool_param = True
    request.parameters["sequence_end"].bool_param = True
    with pytest.raises(grpc.RpcError) as caught:
        served.live.stub.ModelInfer(request, timeout=30)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert served.live.send(next(ids), [5], start=True, end=True).words == ["5"]


def test_streams_over_the_limit_are_refused_at_once_and_the_others_go_on(
    served: Served, ids: Iterator[int]
) -> None:
    """Far more newcomers than Triton has places for: each says that it ends, and so gives its place back."""
    running = [next(ids) for _ in range(STREAMS)]
    for stream in running:
        served.live.send(stream, [1], start=True)
    for number in range(100):
        newcomer = next(ids)
        fault = served.live.fault(newcomer, [9], start=True)
        assert isinstance(fault, StreamLimitError)
        assert f"{STREAMS} live streams" in fault.message
        assert isinstance(served.live.fault(newcomer, [], end=True), StreamLostError)
        if number % 5 == 0:
            for stream in running:
                served.live.send(stream, [])
    assert served.metric("speech_streams_capacity") == STREAMS
    deadline = time.monotonic() + 60
    while served.metric("speech_streams_open") != STREAMS:  # shown once a second
        assert time.monotonic() < deadline
        for stream in running:
            served.live.send(stream, [])
    for stream in running:
        assert served.live.send(stream, [2], end=True).words == ["1", "2"]
    assert served.live.send(next(ids), [3], start=True, end=True).words == ["3"]


def test_two_instances_share_the_streams_evenly(served: Served, ids: Iterator[int]) -> None:
    """Also after some of one instance's have ended: a newcomer goes where there is room."""
    open_streams: list[int] = []
    for _ in range(3):
        while len(open_streams) < 8:
            open_streams.append(next(ids))
            served.live.send(open_streams[-1], [1], start=True, model=TWINS)
        refused = next(ids)
        assert isinstance(served.live.fault(refused, [1], start=True, model=TWINS), StreamLimitError)
        served.live.fault(refused, [], end=True, model=TWINS)
        for stream in open_streams[1:4]:
            assert served.live.send(stream, [], end=True, model=TWINS).words
        del open_streams[1:4]
    for stream in open_streams:
        served.live.send(stream, [], end=True, model=TWINS)


def test_streams_that_never_end_give_their_places_to_others(served: Served, ids: Iterator[int]) -> None:
    left = [next(ids) for _ in range(STREAMS)]
    for stream in left:
        served.live.send(stream, [1], start=True, model=FORGETFUL)
    fault = served.live.fault(next(ids), [1], start=True, end=True, model=FORGETFUL)
    assert isinstance(fault, StreamLimitError)
    time.sleep(1.5 * IDLE_S)
    assert served.live.send(next(ids), [2], start=True, end=True, model=FORGETFUL).words == ["2"]
    fault = served.live.fault(left[0], [3], model=FORGETFUL)
    assert isinstance(fault, StreamLostError)
    assert f"sent nothing for {IDLE_S:g} s" in fault.message
    assert served.metric("speech_streams_open", FORGETFUL) == 0


def test_a_sequence_that_triton_itself_has_forgotten_is_lost_too(served: Served, ids: Iterator[int]) -> None:
    stream = next(ids)
    served.live.send(stream, [1], start=True, model=REAPED)
    deadline = time.monotonic() + 60
    while True:
        time.sleep(0.5)
        try:
            served.live.send(stream, [2], model=REAPED)
        except StreamLostError as fault:
            if "of reaped" not in fault.message:
                break
        assert time.monotonic() < deadline
    assert served.live.send(stream, [3], start=True, end=True, model=REAPED).words == ["3"]


def test_a_client_that_vanishes_leaves_nothing(served: Served, ids: Iterator[int]) -> None:
    """Its connection breaks while chunks are under way."""
    gone = Live(served.server.url)
    streams = [next(ids) for _ in range(STREAMS)]
    for stream in streams:
        gone.begin(stream, TICK, start=True, model=FORGETFUL)
    gone.close()
    time.sleep(1.5 * IDLE_S)
    others = [next(ids) for _ in range(STREAMS)]
    for stream in others:
        assert served.live.send(stream, [7], start=True, model=FORGETFUL).words == ["7"]
    for stream in others:
        served.live.send(stream, [], end=True, model=FORGETFUL)


def test_a_step_that_fails_loses_its_streams_and_the_model_goes_on(
    served: Served, ids: Iterator[int]
) -> None:
    poisoned, other = next(ids), next(ids)
    served.live.send(other, [1], start=True)
    fault = served.live.fault(poisoned, [-32_768], start=True)
    assert isinstance(fault, StreamLostError)
    assert "poison" in fault.message
    assert isinstance(served.live.fault(poisoned, [1]), StreamLostError)
    assert served.live.send(other, [2], end=True).words == ["1", "2"]


def test_ten_thousand_streams_that_never_end_leave_no_state_and_take_no_memory(
    served: Served, ids: Iterator[int]
) -> None:
    """Each begins with a tenth of a second and is never heard of again."""
    rng = np.random.default_rng(3)

    def abandon(count: int) -> None:
        for _ in range(count // CROWD):
            calls = [
                served.live.begin(next(ids), rng.integers(1, 99, 1600), start=True, model=ABANDONED)
                for _ in range(CROWD)
            ]
            assert all(served.live.finish(call).words for call in calls)
            time.sleep(0.3)

    def resident() -> int:
        return sum(stub.memory_info().rss for stub in served.stubs())

    abandon(4 * CROWD)
    before = resident()
    abandon(10_000)
    assert resident() < 1.05 * before
    assert served.metric("speech_streams_refused_total", ABANDONED) == 0
    assert served.live.send(next(ids), [1], start=True, end=True, model=ABANDONED).words == ["1"]
    assert served.metric("speech_streams_open", ABANDONED) == 0
    assert served.metric("speech_streams_expired_total", ABANDONED) == 10_000 + 4 * CROWD


def test_models_that_serve_cannot_be_unloaded_or_replaced(served: Served, ids: Iterator[int]) -> None:
    """Triton 2.51 may crash when they are, with requests under way; so it is told to refuse."""
    live, stream = served.live, next(ids)
    live.send(stream, [1], start=True, model=MANY)
    others = [next(ids) for _ in range(32)]
    under_way = [live.begin(other, [5], start=True, end=True, model=MANY) for other in others]
    for change in (
        lambda: live.stub.RepositoryModelUnload(service_pb2.RepositoryModelUnloadRequest(model_name=MANY)),
        lambda: live.stub.RepositoryModelLoad(service_pb2.RepositoryModelLoadRequest(model_name=MANY)),
    ):
        with pytest.raises(grpc.RpcError, match="not allowed"):
            change()
    assert [live.finish(call).words for call in under_way] == [["5"]] * len(others)
    assert live.send(stream, [2], end=True, model=MANY).words == ["1", "2"]


def is_ready(live: Any) -> bool:
    try:
        return bool(live.stub.ServerReady(service_pb2.ServerReadyRequest(), timeout=30).ready)
    except grpc.RpcError:
        return False


def test_a_server_that_stops_lets_streams_end_and_takes_no_new_ones(
    serve: Serve, echo_repository: Path, ids: Iterator[int]
) -> None:
    with serve(echo_repository, MANY, stop_timeout_s=60) as server, Live(server.url, MANY) as live:
        process = psutil.Process(server.state.pid)
        stream = next(ids)
        live.send(stream, [1], start=True)
        process.terminate()
        while is_ready(live):
            time.sleep(0.1)
        assert live.send(stream, [2]).words == ["1", "2"]
        assert isinstance(live.fault(next(ids), [9], start=True, limit_s=30), ServerUnavailableError)
        assert live.send(stream, [3], end=True).words == ["1", "2", "3"]
        process.wait(60)
        assert isinstance(live.fault(stream, [4], limit_s=30), ServerUnavailableError)


def test_a_release_whose_streams_fail_is_not_good(
    home: Path, tmp_path: Path, server_settings: ServerSettings
) -> None:
    from orchestrator.progress import SilentProgress
    from orchestrator.repository.loadcheck import server_load_check

    config = live_model.config(StreamingSettings())
    repository = live_model.write_echo(tmp_path / "models", config)
    load = server_load_check(home, server_settings, SilentProgress())
    assert load is not None
    load(repository, [MODEL])
    engine = repository / MODEL / "1" / "echo_streaming.py"
    text = engine.read_text()
    engine.write_text(text.replace("self.steps.append", "raise RuntimeError('no such kernel')  # "))
    with pytest.raises(ServerStartError, match="no such kernel"):
        load(repository, [MODEL])


@dataclass(frozen=True)
class Speech:
    """A served checkpoint, an engine of the same files in this process, and what to say to both."""

    live: Any
    engine: Any
    samples: np.ndarray[Any, Any]

    def chunks(self, start_s: float = 0.0) -> list[np.ndarray[Any, Any]]:
        """The recording from ``start_s`` in chunks as a client sends them, the last one shorter."""
        size = 16 * self.engine.info.chunk_ms
        rest = self.samples[int(16_000 * start_s) :]
        return [rest[begin : begin + size] for begin in range(0, len(rest), size)]

    def in_process(self, chunks: Sequence[np.ndarray[Any, Any]]) -> list[Any]:
        """What the engine says to each chunk of one stream: (utterance, words with times, final)."""
        from orchestrator.engines.streaming import Chunk

        stream = self.engine.open()
        said = []
        for number, chunk in enumerate(chunks):
            samples = np.multiply(chunk, np.float32(1 / 32_768), dtype=np.float32)
            (update,) = self.engine.step([Chunk(stream, samples, number == len(chunks) - 1)])
            rows = [word for segment in update.segments for word in segment.words]
            said.append(
                (
                    [(s.utterance, [word.text for word in s.words], s.final) for s in update.segments],
                    [(word.start_ms, word.end_ms) for word in rows],
                    update.processed_ms,
                )
            )
        return said

    @staticmethod
    def of(answer: Any) -> Any:
        """An answer of the server in the same form."""
        times = [(w.start_ms, w.end_ms) for segment in answer.update.segments for w in segment.words]
        return (answer.segments, list(times), answer.processed_ms)


@pytest.fixture(scope="module")
def speech(
    serve: Serve, tmp_path_factory: pytest.TempPathFactory, make_home: Callable[[Path], Path]
) -> Iterator[Speech]:
    import soundfile

    import orchestrator
    from orchestrator.engines import load_streaming
    from orchestrator.engines.base import EngineSource
    from orchestrator.repository.builder import Builder
    from orchestrator.repository.plan import make_plan
    from orchestrator.repository.validate import machine

    home = make_home(tmp_path_factory.mktemp("release") / "home")
    plan = make_plan(
        {MODEL: "embedded", "parakeet": "embedded"},
        target=machine(),  # type: ignore[arg-type]
        streaming=StreamingSettings(max_streams=STREAMS),
    )
    plan = replace(plan, models=tuple(map(_with_one_thread, plan.models)))
    release = Builder(home=home, models=resources.model_repository()).build(plan).release
    for name in release.model_repository.glob(f"{MODEL}/1/*"):
        twin = release.model_repository / "parakeet" / "1" / name.name
        if name.name != "model.py":
            assert twin.samefile(name), f"{name.name} is stored twice"
    folder = Path(orchestrator.__file__).parent / "training" / "checkpoint"
    samples, rate = soundfile.read(folder / "dialogue.flac", dtype="int16")
    assert (rate, samples.ndim) == (16_000, 1)
    engine = load_streaming(
        MODEL,
        EngineSource(release.model_repository / MODEL / "1", threads=1, options={"max_streams": STREAMS}),
    )
    with serve(release.model_repository, MODEL) as server, Live(server.url) as live:
        yield Speech(live, engine, samples[: 20 * 16_000])
    engine.close()


def _with_one_thread(model: Any) -> Any:
    """Threads that wait for each other take very long on a machine that does much else meanwhile."""
    parameters = dict(model.config.parameters)
    options = json.loads(parameters["engine_options"])
    parameters["engine_options"] = json.dumps({**options, "threads": 1})
    return replace(model, config=replace(model.config, parameters=parameters))


def test_a_stream_through_the_server_says_what_the_engine_says(speech: Speech, ids: Iterator[int]) -> None:
    chunks = speech.chunks()
    stream = next(ids)
    answers = [
        speech.of(speech.live.send(stream, chunk, start=n == 0, end=n == len(chunks) - 1))
        for n, chunk in enumerate(chunks)
    ]
    expected = speech.in_process(chunks)
    assert answers == expected
    assert sum(len(words) for row in expected for _, words, final in row[0] if final) > 10


def test_streams_at_once_say_what_each_says_alone(speech: Speech, ids: Iterator[int]) -> None:
    streams = {next(ids): speech.chunks(start_s) for start_s in (0.0, 3.3, 8.7, 13.9)}
    answers: dict[int, list[Any]] = {stream: [] for stream in streams}
    for n in range(max(map(len, streams.values()))):
        calls = {
            stream: speech.live.begin(stream, chunks[n], start=n == 0, end=n == len(chunks) - 1)
            for stream, chunks in streams.items()
            if n < len(chunks)
        }
        for stream, call in calls.items():
            answers[stream].append(speech.of(speech.live.finish(call)))
    for stream, chunks in streams.items():
        assert answers[stream] == speech.in_process(chunks)
