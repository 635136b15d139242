from __future__ import annotations

import asyncio
import time

import grpc
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from orchestrator.bench.streams.figures import figures
from orchestrator.bench.streams.load import Clients, Load, Messages, shared_out
from orchestrator.bench.streams.runs import ramp
from orchestrator.client.stream.codec import WireChunk, encode
from orchestrator.engines.streaming import StreamOptions

CHUNK_MS = 80
SIZE = CHUNK_MS * 16
RECORDING = np.arange(10 * SIZE + 300, dtype=np.int16)


def load_of(url: str, **changes) -> Load:
    values = {
        "url": url,
        "model": "live",
        "streams": (0, 1, 2),
        "total": 3,
        "first_sequence": 1000,
        "chunk_ms": CHUNK_MS,
        "ramp_s": CHUNK_MS / 1000,
        "seconds": 0.5,
        "samples": RECORDING,
    }
    return Load(**(values | changes))


def drive(load: Load, head_start_s: float = 0.1):
    async def run():
        clients = Clients(load)
        await clients.connect()
        start = time.monotonic() + head_start_s
        return start, await clients.run(start)

    return asyncio.run(run())


def same(content: bytes, chunk: WireChunk) -> None:
    found = service_pb2.ModelInferRequest.FromString(content)
    expected = encode("live", "", chunk)
    assert found.model_name == expected.model_name
    assert dict(found.parameters) == dict(expected.parameters)
    assert list(found.inputs) == list(expected.inputs)
    assert list(found.raw_input_contents) == list(expected.raw_input_contents)
    assert list(found.outputs) == list(expected.outputs)


def test_requests_put_together_are_those_of_the_client():
    messages = Messages("live", RECORDING, CHUNK_MS)
    first, middle, last = messages.heads(77)
    chunk = RECORDING[2 * SIZE : 3 * SIZE]
    same(messages.audio(2) + first, WireChunk(77, chunk, start=True, options=StreamOptions()))
    same(messages.audio(2) + middle, WireChunk(77, chunk))
    same(messages.audio(2) + last, WireChunk(77, chunk, end=True))


def test_the_recording_is_said_over_and_over_in_whole_chunks():
    messages = Messages("live", RECORDING, CHUNK_MS)
    assert len(messages) == 10
    assert messages.audio(13) == messages.audio(3) != messages.audio(4)


def test_a_recording_shorter_than_a_chunk_is_repeated():
    messages = Messages("live", RECORDING[:100], CHUNK_MS)
    sent = service_pb2.ModelInferRequest.FromString(messages.audio(0)).raw_input_contents[0]
    assert np.frombuffer(sent, "<i2").tolist() == np.resize(RECORDING[:100], SIZE).tolist()


def test_each_stream_sends_its_chunks_by_an_absolute_schedule(fake_server):
    start, outcome = drive(load_of(fake_server.url))
    assert not outcome.errors
    times = outcome.times
    for stream in range(3):
        requests = fake_server.of(1000 + stream)
        begin = 0.08 * stream / 3
        assert len(requests) == int((0.5 - begin) / 0.08)
        flags = [
            (
                request.parameters["sequence_start"].bool_param,
                request.parameters["sequence_end"].bool_param,
            )
            for request in requests
        ]
        assert flags == [(True, False), *[(False, False)] * (len(requests) - 2), (False, True)]
        due = [begin + 0.08 * (number + 1) for number in range(len(requests))]
        mine = np.isclose(times.due[:, None], due, atol=1e-9).any(axis=1)
        assert mine.sum() == len(requests)
        # A chunk is sent when its last sample is there, never before.
        arrived = [at - start for at, request in fake_server.requests if request in requests]
        assert all(at >= planned - 1e-3 for at, planned in zip(arrived, due, strict=True))
    assert (times.sent >= times.due - 1e-3).all()
    assert (times.done >= times.sent).all()


def test_streams_say_different_things_at_a_time(fake_server):
    drive(load_of(fake_server.url))
    begins = [fake_server.of(1000 + stream)[0].raw_input_contents[0] for stream in range(3)]
    assert len(set(begins)) == 3


def test_answers_of_the_first_stream_are_kept(fake_server):
    _, outcome = drive(load_of(fake_server.url, streams=(2, 5), total=6))
    assert len(outcome.answers) == len(fake_server.of(1002))
    assert service_pb2.ModelInferResponse.FromString(outcome.answers[0]).model_name == "live"


def test_a_failed_stream_ends_and_the_others_go_on(fake_server):
    def fail_second(request, context):
        if request.parameters["sequence_id"].int64_param == 1001 and len(fake_server.of(1001)) == 3:
            context.abort(grpc.StatusCode.UNAVAILABLE, "no room")

    fake_server.behave = fail_second
    _, outcome = drive(load_of(fake_server.url))
    assert outcome.errors == {"UNAVAILABLE": 1}
    assert outcome.messages == {"UNAVAILABLE": "no room"}
    assert len(fake_server.of(1001)) == 3
    assert fake_server.of(1000)[-1].parameters["sequence_end"].bool_param


def test_a_server_slower_than_the_audio_is_found_out(fake_server):
    fake_server.behave = lambda request, context: time.sleep(0.1)
    _, outcome = drive(load_of(fake_server.url, seconds=1.2))
    found = figures(
        outcome.times,
        outcome.errors,
        streams=3,
        chunk_ms=CHUNK_MS,
        limit_ms=60_000,
        begin_s=0.08,
        end_s=1.2,
    )
    assert found.p95 is not None
    assert found.p95 >= 100
    assert found.growing
    assert found.fault == "lag grows"


@given(st.integers(1, 5000), st.integers(1, 40))
def test_every_stream_has_one_process(total, processes):
    shares = shared_out(total, processes)
    assert sorted(stream for share in shares for stream in share) == list(range(total))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert all(shares)


@given(st.integers(1, 5000), st.sampled_from([80, 160, 560, 960]))
def test_streams_begin_over_whole_chunks_and_not_too_fast(streams, chunk_ms):
    seconds = ramp(streams, chunk_ms)
    assert seconds * 1000 % chunk_ms == pytest.approx(0, abs=1e-6) or (
        seconds * 1000 % chunk_ms == pytest.approx(chunk_ms, abs=1e-6)
    )
    assert seconds >= chunk_ms / 1000
    assert streams / seconds <= 300 + 1e-6
