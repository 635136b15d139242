from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable

import pytest

from orchestrator.errors import ConfigurationError
from orchestrator.gateway.supervise.orders import RETIRE, Brief, follow
from orchestrator.gateway.supervise.worker import share_of
from orchestrator.settings import GatewaySettings, KeySettings, Settings


def brief(workers: int = 1, **changes: object) -> Brief:
    known = Brief(
        config_file=None,
        overrides=(),
        verbosity=0,
        url=None,
        workers=workers,
        listener=3,
        report=4,
        host="127.0.0.1",
        http_port=9000,
        grpc_port=50051,
        secret="s",
    )
    return known.model_copy(update=changes)


def test_workers_share_the_limits() -> None:
    keys = {"ada": KeySettings(sha256="0" * 64, max_streams=5)}
    settings = Settings(gateway=GatewaySettings(max_requests=16, max_streams=64, keys=keys))
    part = share_of(settings, brief(workers=3)).gateway
    assert (part.max_requests, part.max_streams) == (6, 22)
    assert (part.keys["ada"].max_requests, part.keys["ada"].max_streams) == (None, 2)
    assert share_of(settings, brief()) == settings


@pytest.mark.parametrize("change", [{"host": "::1"}, {"http_port": 9001}, {"grpc_port": None}])
def test_ports_cannot_change(change: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError, match="cannot be exchanged"):
        share_of(Settings(), brief(**change))


async def _ordered(order: Callable[[int], None]) -> int:
    reader, writer = os.pipe()
    retired = 0
    done = asyncio.Event()

    async def retire() -> None:
        nonlocal retired
        retired += 1
        done.set()

    follow(reader, retire)
    order(writer)
    async with asyncio.timeout(60):
        await done.wait()
    await asyncio.sleep(0.01)
    asyncio.get_running_loop().remove_reader(reader)
    os.close(writer)
    os.close(reader)
    return retired


def test_a_worker_retires_once() -> None:
    assert asyncio.run(_ordered(lambda writer: os.write(writer, b"?" + RETIRE + RETIRE) and None)) == 1


def test_without_a_supervisor_a_worker_ends() -> None:
    async def wait() -> bool:
        reader, writer = os.pipe()
        ended = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
        try:
            follow(reader, asyncio.Event().wait)  # type: ignore[arg-type]
            os.close(writer)
            async with asyncio.timeout(60):
                return await ended.wait()
        finally:
            asyncio.get_running_loop().remove_signal_handler(signal.SIGTERM)
            os.close(reader)

    assert asyncio.run(wait())
