from __future__ import annotations

import gc
import importlib.util
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.backend import updates
from orchestrator.backend.chunks import ChunkJob, read_chunks
from orchestrator.backend.context import ModelContext
from orchestrator.backend.faults import decode
from orchestrator.backend.gauges import REPORT_EVERY_S, StreamGauges
from orchestrator.backend.replies import replies
from orchestrator.backend.streams import StreamCounts, Streams
from orchestrator.backend.warmup import settle, step_sizes, warm_up
from orchestrator.contract import STREAM_RECOGNIZER
from orchestrator.engines.streaming import StreamOptions, StreamUpdate
from orchestrator.errors import (
    AudioTooLongError,
    AudioValueError,
    InferenceError,
    InvalidRequestError,
    ModelLoadError,
    SpeechError,
    StreamLimitError,
    StreamLostError,
    UnsupportedLanguageError,
)

_spec = importlib.util.spec_from_file_location("echo_streaming", Path(__file__).parent / "echo_streaming.py")
assert _spec is not None
assert _spec.loader is not None
echo = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(echo)

IDLE_S = 30.0
CONTEXT = ModelContext(
    "live", "echo", Path("/m/1"), "cpu", None, {}, max_window_s=2.0, chunk_ms=560, idle_timeout_s=IDLE_S
)
START, END = 1, 2


@dataclass
class FakeTensor:
    name: str
    values: np.ndarray[Any, Any]

    def as_numpy(self) -> np.ndarray[Any, Any]:
        return self.values


class FakeTritonError(Exception):
    INVALID_ARG = "INVALID_ARG"
    INTERNAL = "INTERNAL"
    UNAVAILABLE = "UNAVAILABLE"
    NOT_FOUND = "NOT_FOUND"
    CANCELLED = "CANCELLED"

    def __init__(self, message: str, code: str) -> None:
        self.message, self.code = message, code


@dataclass
class FakeResponse:
    output_tensors: list[FakeTensor]
    error: FakeTritonError | None = None


@dataclass
class FakeRequest:
    stream: int | str
    marks: int = 0
    tensors: dict[str, np.ndarray[Any, Any]] = field(default_factory=dict)
    given: str = ""
    gone: bool = False
    asked: bool = False

    def correlation_id(self) -> int | str:
        return self.stream

    def flags(self) -> int:
        return self.marks

    def parameters(self) -> str:
        return self.given

    def is_cancelled(self) -> bool:
        self.asked = True
        return self.gone


def _get(request: FakeRequest, name: str) -> FakeTensor | None:
    values = request.tensors.get(name)
    return None if values is None else FakeTensor(name, values)


PB: Any = SimpleNamespace(
    Tensor=FakeTensor,
    InferenceResponse=FakeResponse,
    TritonError=FakeTritonError,
    get_input_tensor_by_name=_get,
)


def request(
    stream: int | str, value: int | None, marks: int = 0, options: str | None = None, n: int = 160
) -> FakeRequest:
    """A chunk of ``n`` samples of ``value``; an empty one where that is None."""
    samples = np.full((1, 0 if value is None else n), value or 0, np.int16)
    tensors: dict[str, Any] = {"PCM16": samples}
    if options is not None:
        return FakeRequest(stream, marks, tensors, json.dumps({"options": options}))
    return FakeRequest(stream, marks, tensors)


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Server:
    """A model without Triton."""

    def __init__(self, max_streams: int = 4) -> None:
        self.engine = echo.EchoStreaming(max_streams)
        self.clock = Clock()
        self.streams = Streams(self.engine, CONTEXT, self.clock)

    def __call__(self, *requests: FakeRequest) -> list[ChunkJob]:
        jobs = read_chunks(requests, CONTEXT, PB)
        self.streams.step(jobs)
        assert self.streams.counts.open == len(self.engine.streams)
        return jobs


def words(job: ChunkJob) -> list[str]:
    assert job.fault is None, job.fault
    assert job.update is not None
    return [word.text for segment in job.update.segments for word in segment.words]


def test_streams_are_told_apart_and_share_one_step() -> None:
    server = Server()
    server(request(7, 1, START), request(8, 10, START), request("nine", 100, START))
    jobs = server(request(8, 11), request("nine", 101), request(7, 2))
    assert [words(job) for job in jobs] == [["10", "11"], ["100", "101"], ["1", "2"]]
    assert server.engine.steps == [3, 3]


def test_a_stream_that_ends_leaves_its_place() -> None:
    server = Server(max_streams=1)
    server(request(1, 5, START))
    (last,) = server(request(1, 6, END))
    assert words(last) == ["5", "6"]
    assert last.update is not None
    assert last.update.segments[0].final
    assert server.streams.counts.open == 0
    assert words(server(request(2, 7, START | END))[0]) == ["7"], "one chunk can be a whole stream"


def test_empty_chunks_keep_a_stream_and_say_nothing() -> None:
    server = Server()
    server(request(1, None, START))
    for _ in range(3):
        server.clock.now_s += 0.9 * IDLE_S
        (job,) = server(request(1, None))
        assert words(job) == []
    assert words(server(request(1, 4))[0]) == ["4"]


def test_one_more_than_there_is_room_for_is_refused_and_the_others_go_on() -> None:
    server = Server(max_streams=2)
    server(request(1, 1, START), request(2, 2, START))
    running, refused, other = server(request(1, 3), request(3, 9, START), request(2, 4))
    assert isinstance(refused.fault, StreamLimitError)
    assert "2 live streams" in refused.fault.message
    assert (words(running), words(other)) == (["1", "3"], ["2", "4"])
    (late,) = server(request(3, 9))
    assert isinstance(late.fault, StreamLostError), "what was refused was not begun"
    server(request(1, None, END))
    assert words(server(request(3, 9, START))[0]) == ["9"]


def test_starting_again_forgets_what_was_said() -> None:
    server = Server(max_streams=1)
    server(request(1, 1, START))
    (again,) = server(request(1, 2, START))
    assert words(again) == ["2"]
    assert again.update is not None
    assert again.update.processed_ms == 10


def test_an_id_that_starts_again_with_a_bad_request_is_forgotten() -> None:
    server = Server()
    server(request(1, 1, START))
    (bad,) = server(request(1, 2, START, "{"))
    assert isinstance(bad.fault, InvalidRequestError)
    assert server.streams.counts.open == 0


def test_a_chunk_without_a_start_is_no_stream() -> None:
    server = Server()
    (job,) = server(request(1, 1))
    assert isinstance(job.fault, StreamLostError)
    assert job.fault.fix is not None
    assert server.engine.steps == []


def test_idle_streams_are_forgotten_and_others_take_their_places() -> None:
    server = Server(max_streams=2)
    server(request(1, 1, START))
    server.clock.now_s += 20
    server(request(2, 2, START))
    server.clock.now_s += 11
    (newcomer,) = server(request(3, 3, START))
    assert words(newcomer) == ["3"]
    lost, alive = server(request(1, 1), request(2, 4))
    assert isinstance(lost.fault, StreamLostError)
    assert words(alive) == ["2", "4"]
    assert server.streams.counts.expired == 1


def test_a_chunk_that_waited_for_a_busy_model_is_not_idle() -> None:
    server = Server()
    server(request(1, 1, START))
    server.clock.now_s += 2 * IDLE_S
    assert words(server(request(1, 2))[0]) == ["1", "2"]


@pytest.mark.parametrize(
    ("bad", "expected"),
    [
        (request(9, 1, START, "{"), InvalidRequestError),
        (request(9, 1, START, '{"sample_rate_hz": 8000}'), InvalidRequestError),
        (request(9, 1, START, '{"language": "tlh"}'), UnsupportedLanguageError),
        (request(9, 1, START, '{"partial": true}'), InvalidRequestError),
        (request(9, 1, START, n=2 * 16_000 + 1), AudioTooLongError),
        (FakeRequest(9, START), InvalidRequestError),
        (FakeRequest(9, START, {"PCM16": np.zeros((1, 9), np.float32)}), AudioValueError),
        (FakeRequest(9, START, {"PCM16": np.zeros((2, 9), np.int16)}), AudioValueError),
        (FakeRequest(9, START, {"PCM16": np.zeros(9, np.int16)}), AudioValueError),
        (request(1, 1, 0, '{"sample_rate_hz": 16000}'), InvalidRequestError),
        (request(1, 1, 0, n=2 * 16_000 + 1), AudioTooLongError),
    ],
)
def test_a_bad_request_fails_alone(bad: FakeRequest, expected: type[SpeechError]) -> None:
    server = Server()
    server(request(1, 1, START), request(2, 2, START))
    good, job = server(request(2, 3), bad)
    assert type(job.fault) is expected
    assert job.fault.model == "live"
    assert words(good) == ["2", "3"]
    assert server.streams.counts.open == 2, "nothing was opened, and nothing closed"
    assert words(server(request(1, 4))[0]) == ["1", "4"], "a stream that runs is as it was"


def test_a_bad_last_chunk_ends_its_stream_all_the_same() -> None:
    server = Server()
    server(request(1, 1, START))
    (job,) = server(request(1, 1, END, n=2 * 16_000 + 1))
    assert isinstance(job.fault, AudioTooLongError)
    assert server.streams.counts.open == 0


def test_full_scale_is_one() -> None:
    (job,) = read_chunks([request(1, -32_768, START)], CONTEXT, PB)
    assert job.samples is not None
    assert job.samples.dtype == np.float32
    assert set(job.samples.tolist()) == {-1.0}


def test_options_of_a_chunk_reach_the_engine() -> None:
    server = Server()
    server(request(1, 1, START))
    (forced,) = server(request(1, 2, 0, '{"force_end_of_utterance": true}'))
    assert forced.update is not None
    assert [segment.final for segment in forced.update.segments] == [True]
    (after,) = server(request(1, 3))
    assert after.update is not None
    assert [(segment.utterance, segment.final) for segment in after.update.segments] == [(1, False)]
    (at_once,) = server(request(2, 7, START, '{"force_end_of_utterance": true}'))
    assert at_once.update is not None
    assert at_once.update.segments[0].final


def test_a_step_that_fails_loses_its_streams_and_no_others() -> None:
    server = Server()
    server(request(1, 1, START), request(2, 2, START), request(3, 3, START))
    failed = server(request(1, echo.POISON), request(2, 4))
    for job in failed:
        assert isinstance(job.fault, StreamLostError)
        assert "poison" in job.fault.message
    assert words(server(request(3, 5))[0]) == ["3", "5"]
    assert words(server(request(2, 6, START))[0]) == ["6"]
    assert server.streams.counts.lost == 2


@pytest.mark.parametrize("failure", [RuntimeError("CUDA error"), MemoryError(), ValueError("not open")])
def test_what_an_engine_lets_through_still_answers_each_request(
    failure: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server()
    server(request(1, 1, START))

    def fail(_chunks: Sequence[Any]) -> list[Any]:
        raise failure

    monkeypatch.setattr(server.engine, "step", fail)
    (job,) = server(request(1, 2))
    assert isinstance(job.fault, StreamLostError)
    assert server.engine.streams == {}, "an engine that did not close them itself is told to"


def test_two_chunks_of_one_stream_at_once() -> None:
    server = Server()
    server(request(1, 1, START))
    first, second = server(request(1, 2), request(1, 3))
    assert words(first) == ["1", "2"]
    assert isinstance(second.fault, InvalidRequestError)
    assert words(server(request(1, 4))[0]) == ["1", "2", "4"]


def test_a_client_that_left_before_its_start_takes_no_place() -> None:
    server = Server()
    gone = request(1, 1, START)
    gone.gone = True
    (job,) = server(gone)
    assert job.cancelled
    assert server.streams.counts.open == 0
    later = request(1, 1)
    read_chunks([later], CONTEXT, PB)
    assert not later.asked, "asking for each chunk would cost more than the chunk"


def test_closing_forgets_everything() -> None:
    server = Server()
    server(request(1, 1, START), request(2, 2, START))
    server.streams.close()
    assert server.engine.streams == {}
    assert server.engine.closed


def test_an_engine_with_other_chunks_than_the_clients_are_told_does_not_load() -> None:
    with pytest.raises(ModelLoadError, match="160 ms"):
        Streams(echo.EchoStreaming(chunk_ms=160), CONTEXT)


@pytest.mark.parametrize(
    ("most", "sizes"),
    [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (7, [1, 2, 3, 4, 6, 7]), (8, [1, 2, 3, 4, 6, 8])],
)
def test_a_gpu_is_warmed_up_for_each_size_of_a_step(most: int, sizes: list[int]) -> None:
    assert list(step_sizes(most)) == sizes
    engine = echo.EchoStreaming(most)
    warm_up(engine, "cuda:0")
    assert engine.steps == [most, *sizes, 1]
    assert engine.streams == {}


def test_a_cpu_has_one_size(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = echo.EchoStreaming(4)
    warm_up(engine, "cpu")
    assert engine.steps == [1, 1, 1]
    monkeypatch.setattr(engine, "_hear", lambda _chunk: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        warm_up(engine, "cpu")
    assert engine.streams == {}, "an engine that cannot compute is not left with streams"


def test_full_collections_do_not_look_at_what_stays() -> None:
    try:
        settle()
        assert gc.get_freeze_count() > 10_000
    finally:
        gc.unfreeze()


def test_ten_thousand_streams_that_never_end_leave_nothing() -> None:
    server = Server(max_streams=8)
    for number in range(10_000):
        server.clock.now_s += IDLE_S / 4
        assert words(server(request(number + 1, 1, START))[0]) == ["1"]
    server.clock.now_s += 2 * IDLE_S
    server(request(1, 1))
    counts = server.streams.counts
    assert (counts.opened, counts.expired, counts.open, counts.refused) == (10_000, 10_000, 0, 0)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.lists(
            st.tuples(st.integers(1, 5), st.integers(0, 3), st.booleans(), st.integers(1, 999)),
            min_size=1,
            max_size=5,
            unique_by=lambda row: row[0],
        ),
        max_size=25,
    ),
    st.lists(st.sampled_from([0.0, 1.0, IDLE_S / 2, IDLE_S * 1.5]), min_size=25, max_size=25),
)
def test_in_any_order_each_stream_hears_itself_alone(
    steps: list[list[tuple[int, int, bool, int]]], pauses: list[float]
) -> None:
    """Streams that start, go on, end, start again, fall idle and are refused, against a plain model."""
    server = Server(max_streams=3)
    said: dict[int, tuple[list[str], float]] = {}
    for chunks, pause_s in zip(steps, pauses, strict=False):
        server.clock.now_s += pause_s
        now_s = server.clock.now_s
        jobs = server(*(request(i, None if e else v, marks) for i, marks, e, v in chunks))
        present = {i for i, *_ in chunks}
        said = {i: s for i, s in said.items() if i in present or now_s - s[1] <= IDLE_S}
        for (i, marks, empty, value), job in zip(chunks, jobs, strict=True):
            if marks & START:
                said.pop(i, None)
            elif i not in said:
                assert isinstance(job.fault, StreamLostError)
                continue
            if isinstance(job.fault, StreamLimitError):
                assert marks & START
                continue
            heard = [*(said[i][0] if i in said else []), *([] if empty else [str(value)])]
            expected = heard if not empty or marks & END else []
            assert words(job) == expected
            said[i] = (heard, now_s)
        for i, marks, *_ in chunks:
            if marks & END:
                said.pop(i, None)
        assert server.streams.counts.open == len(said) <= 3


def tensors_of(response: FakeResponse) -> dict[str, np.ndarray[Any, Any]]:
    assert response.error is None, response.error
    return {tensor.name: tensor.values for tensor in response.output_tensors}


def update_in(response: FakeResponse) -> StreamUpdate:
    """The update that an answer carries, in the tensor of the contract and no other."""
    ((name, content),) = tensors_of(response).items()
    (spec,) = STREAM_RECOGNIZER.outputs
    assert (name, content.dtype, content.ndim, content.shape[0]) == (spec.name, np.uint8, 2, 1)
    return updates.decode(content.tobytes())


@pytest.mark.parametrize("value", [None, 5])
def test_every_answer_says_how_far_the_stream_is(value: int | None) -> None:
    server = Server()
    jobs = server(request(1, value, START))
    (response,) = replies(jobs, PB)
    assert update_in(response) == jobs[0].update


def test_words_and_times_arrive() -> None:
    server = Server()
    server(request(1, 5, START))
    jobs = server(request(1, -6, 0, '{"force_end_of_utterance": true}'))
    update = update_in(replies(jobs, PB)[0])
    (segment,) = update.segments
    assert [(word.text, word.start_ms, word.end_ms) for word in segment.words] == [
        ("5", 0, 10),
        ("-6", 10, 20),
    ]
    assert (segment.final, update.processed_ms, update.final_ms, update.language) == (True, 20, 20, "en")


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (StreamLimitError("full"), "UNAVAILABLE"),
        (StreamLostError("gone"), "NOT_FOUND"),
        (AudioTooLongError("long"), "INVALID_ARG"),
        (UnsupportedLanguageError("no"), "INVALID_ARG"),
        (InferenceError("broken"), "INTERNAL"),
        (None, "INTERNAL"),
    ],
)
def test_a_fault_arrives_as_what_it_is(fault: SpeechError | None, code: str) -> None:
    (response,) = replies([ChunkJob(1, start=False, end=False, fault=fault)], PB)
    assert response.error.code == code
    told = decode(response.error.message)
    assert told is not None
    if isinstance(fault, StreamLimitError | StreamLostError):
        assert type(told) is type(fault)


def test_a_request_that_was_cancelled_says_so() -> None:
    (response,) = replies([ChunkJob(1, start=True, end=False, opening=StreamOptions(), cancelled=True)], PB)
    assert response.error.code == "CANCELLED"


class FakeMetricFamily:
    GAUGE, COUNTER = "GAUGE", "COUNTER"
    values: dict[str, float]

    def __init__(self, *, name: str, description: str, kind: str) -> None:
        assert description
        self.name = name

    def Metric(self, *, labels: dict[str, str]) -> FakeMetricFamily:  # noqa: N802 (Triton's name)
        assert labels == {"instance": "live_0"}
        return self

    def set(self, value: float) -> None:
        self.values[self.name] = value

    def increment(self, value: float) -> None:
        self.values[self.name] = self.values.get(self.name, 0) + value


@pytest.fixture
def shown() -> dict[str, float]:
    FakeMetricFamily.values = {}
    return FakeMetricFamily.values


def counts(**values: float) -> StreamCounts:
    fields: dict[str, Any] = dict.fromkeys(StreamCounts.__slots__, 0)
    return StreamCounts(**{**fields, **values})


def test_metrics_add_up_and_are_not_set_too_often(shown: dict[str, float]) -> None:
    clock = Clock()
    gauges = StreamGauges("live_0", SimpleNamespace(MetricFamily=FakeMetricFamily), clock)
    gauges.report(counts(open=2, capacity=4, steps=3, step_s=0.5))
    assert (shown["speech_streams_open"], shown["speech_stream_steps_total"]) == (2, 3)
    gauges.report(counts(open=3, capacity=4, steps=5, step_s=0.75))
    assert shown["speech_streams_open"] == 2, "within a second of the last report"
    clock.now_s += REPORT_EVERY_S
    gauges.report(counts(open=3, capacity=4, steps=5, step_s=0.75))
    assert (shown["speech_streams_open"], shown["speech_stream_steps_total"]) == (3, 5)
    assert math.isclose(shown["speech_stream_step_seconds_total"], 0.75)
    gauges.report(counts(open=0, capacity=4, steps=6, step_s=0.75))
    assert shown["speech_streams_open"] == 0, "a model that falls idle would show the last second for ever"


def test_a_server_without_metrics_is_served_all_the_same() -> None:
    StreamGauges("live_0", SimpleNamespace()).report(counts(open=1))


def test_the_context_knows_a_streams_parameters(tmp_path: Path) -> None:
    import json

    def context(**parameters: str) -> ModelContext:
        given = {"engine": "e", "max_window_s": "10", **parameters}
        config = {"parameters": {key: {"string_value": value} for key, value in given.items()}}
        return ModelContext.from_args(
            {
                "model_config": json.dumps(config),
                "model_name": "live",
                "model_repository": str(tmp_path),
                "model_version": "1",
                "model_instance_kind": "CPU",
                "model_instance_device_id": "0",
            }
        )

    assert (context(chunk_ms="160", idle_timeout_s="2.5").chunk_ms) == 160
    assert context(chunk_ms="160", idle_timeout_s="2.5").idle_timeout_s == 2.5
    assert context().idle_timeout_s == math.inf
    with pytest.raises(ModelLoadError):
        context(chunk_ms="some")
