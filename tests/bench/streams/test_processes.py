from __future__ import annotations

import multiprocessing
import socket
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from orchestrator.bench.streams.load import Load
from orchestrator.bench.streams.processes import Processes, client_processes
from orchestrator.errors import ServerUnavailableError


def loads(url: str, **changes) -> list[Load]:
    return [
        Load(
            url=url,
            model="live",
            streams=(number, number + 2),
            total=4,
            first_sequence=10,
            chunk_ms=80,
            ramp_s=0.08,
            seconds=0.53,
            samples=np.zeros(16_000, np.int16),
            **changes,
        )
        for number in range(2)
    ]


def test_processes_send_at_the_same_time_and_again(fake_server):
    with client_processes(2) as clients:
        assert len(clients) == 2
        for turn in range(2):
            fake_server.requests.clear()
            outcomes = clients.run(loads(fake_server.url))
            assert [len(outcome.times.due) for outcome in outcomes] == [12, 11], turn
            # What a busy machine sends late arrives late: from the two follows when a process began to count.
            begins = []
            for number, outcome in enumerate(outcomes):
                arrived = sorted(
                    at
                    for at, request in fake_server.requests
                    if request.parameters["sequence_id"].int64_param in (10 + number, 12 + number)
                )
                begins.append(min(np.array(arrived) - np.sort(outcome.times.sent)))
            assert abs(begins[0] - begins[1]) < 0.5
    assert not multiprocessing.active_children()


def test_a_server_that_is_not_there_is_told():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"127.0.0.1:{taken.getsockname()[1]}"
        with (
            client_processes(1) as clients,
            pytest.raises(ServerUnavailableError, match="cannot connect") as told,
        ):
            clients.run(loads(url, connect_limit_s=0.3)[:1])
    assert told.value.host == url


def test_a_client_process_that_died_before_it_is_asked_is_told():
    with client_processes(1) as clients:
        (child,) = multiprocessing.active_children()
        child.kill()
        child.join()
        with pytest.raises(ServerUnavailableError, match="client process ended"):
            clients.run(loads("127.0.0.1:1")[:1])
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("answers", [0, 1])
def test_a_client_process_that_dies_in_a_run_is_told(answers):
    here, there = multiprocessing.Pipe()

    def client():
        with there:
            there.recv()
            for _ in range(answers):
                there.send(None)

    with here, ThreadPoolExecutor(1) as threads:
        ended = threads.submit(client)
        with pytest.raises(ServerUnavailableError, match="client process ended"):
            Processes([here]).run(loads("127.0.0.1:1")[:1])
        ended.result()
