"""A crowd before a gateway that is full, and before one that is not."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest

from orchestrator.bench.gateway import overload
from orchestrator.bench.gateway.overload import CrowdLoad, command_of
from orchestrator.bench.streams.load import Outcome

SERVICE = "nvidia.riva.asr.RivaSpeechRecognition"


def crowd(code: grpc.StatusCode | None) -> Outcome:
    """What a crowd gets of a server that answers each call with ``code``; None: lets it in."""

    async def scene() -> Outcome:
        async def stream(_: Any, context: Any) -> None:
            if code is None:
                await asyncio.sleep(60)
            await context.abort(code, "no")

        server = grpc.aio.server()
        handler = grpc.stream_stream_rpc_method_handler(stream)
        methods = grpc.method_handlers_generic_handler(SERVICE, {"StreamingRecognize": handler})
        server.add_generic_rpc_handlers((methods,))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        load = CrowdLoad(
            url=f"127.0.0.1:{port}",
            model="ears",
            streams=(0,),
            total=1,
            first_sequence=1,
            chunk_ms=160,
            ramp_s=0.1,
            seconds=1.35,
            samples=np.zeros(16_000, np.int16),
            calls_per_s=40.0,
        )
        clients = load.clients()
        try:
            await clients.connect()
            return await clients.run(time.monotonic())
        finally:
            await server.stop(0)

    return asyncio.run(scene())


def test_refusals_are_timed_from_the_call_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overload, "_PATIENCE_S", 60)
    outcome = crowd(grpc.StatusCode.RESOURCE_EXHAUSTED)
    assert len(outcome.times.due) == 10
    assert not outcome.errors
    assert (outcome.times.due >= 0.1 - 1e-6).all()
    assert (outcome.times.done >= outcome.times.sent).all()


@pytest.mark.parametrize(("code", "name"), [(None, "let in"), (grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE")])
def test_whatever_else_happens_counts_against_the_run(
    code: grpc.StatusCode | None, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overload, "_PATIENCE_S", 0.3 if code is None else 60)
    outcome = crowd(code)
    assert dict(outcome.errors) == {name: 10}
    assert not len(outcome.times.due)


def test_the_command() -> None:
    expected = "spark-speech bench overload --streams 64 --crowds 50,200 --seconds 15"
    assert command_of(64, (50, 200), 15.0) == expected
