from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.deploy import connection, logs
from orchestrator.deploy.connection import Answer
from orchestrator.deploy.inventory import Host
from orchestrator.deploy.logs import Line, Query, in_time, line_of
from orchestrator.errors import HostUnreachableError


def entry(time_us: int, message: Any = "hello", **more: Any) -> str:
    data = {"__REALTIME_TIMESTAMP": str(time_us), "__CURSOR": f"c{time_us}", "MESSAGE": message, **more}
    return json.dumps(data)


def test_a_line_of_the_journal() -> None:
    line = line_of("a", entry(1_000_000, _SYSTEMD_UNIT="spark-speech-triton@blue.service", PRIORITY="3"))
    assert line == Line("a", 1_000_000, "spark-speech-triton@blue", "hello", 3, "c1000000")
    assert line.to_dict()["time"] == "1970-01-01T00:00:01.000000+00:00"


def test_the_cause_is_told_although_its_consequences_are_louder() -> None:
    cause = Line("a", 1, "spark-speech-triton@green", "Error: model parakeet failed to load")
    restart = Line("a", 2, "spark-speech-triton@green", "Scheduled restart job")
    waits = [Line("a", 3 + place, "spark-speech-gateway@green", f"waiting {place}") for place in range(50)]
    assert logs.telling([cause, restart, *waits], 4) == [cause, *waits[-3:]]
    again = Line("a", 99, cause.unit, cause.message)
    assert logs.telling([cause, *waits, again], 3) == [*waits[-2:], again], "the same error once"
    assert logs.telling([cause], 4) == [cause]


def test_what_systemd_says_about_a_unit_is_the_units() -> None:
    line = line_of("a", entry(1, _SYSTEMD_UNIT="init.scope", UNIT="spark-speech-front.service"))
    assert line is not None
    assert line.unit == "spark-speech-front"


def test_bytes_that_are_no_text_are_shown_all_the_same() -> None:
    line = line_of("a", entry(1, message=[104, 105, 255]))
    assert line is not None
    assert line.message.startswith("hi")


@pytest.mark.parametrize(
    "printed", ["", "-- No entries --", "{}", "[]", "null", '{"__REALTIME_TIMESTAMP": "x"}']
)
def test_what_is_no_entry_is_left_out(printed: str) -> None:
    assert line_of("a", printed) is None


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 5)), max_size=20))
def test_lines_are_in_time_and_each_hosts_keep_their_order(stamps: list[tuple[str, int]]) -> None:
    lines = [Line(host, time_us, None, str(index)) for index, (host, time_us) in enumerate(stamps)]
    merged = in_time(lines)
    assert [line.time_us for line in merged] == sorted(line.time_us for line in lines)
    for host in "abc":
        mine = [line for line in lines if line.host == host]
        assert [line for line in merged if line.host == host] == sorted(mine, key=lambda line: line.time_us)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (Query(), {"--lines=100"}),
        (Query(since="10m"), {"--since=10m ago"}),
        (Query(since="2 hours"), {"--since=2 hours ago"}),
        (Query(since="yesterday"), {"--since=yesterday"}),
        (Query(since="2026-01-31 09:00"), {"--since=2026-01-31 09:00"}),
        (Query(grep="a b"), {"--grep=a b"}),
        (Query(follow=True), {"--follow", "--lines=100"}),
        (Query(follow=True, since="1h"), {"--follow", "--no-tail", "--since=1h ago"}),
    ],
)
def test_the_command(query: Query, expected: set[str]) -> None:
    assert expected <= set(query.command())


def test_behind_a_cursor_neither_time_nor_number_counts() -> None:
    command = Query(since="1h", follow=True, after="c7").command()
    assert "--after-cursor=c7" in command
    assert not [word for word in command if word.startswith(("--since", "--lines"))]


def test_logs_of_several_hosts_are_one_and_silent_ones_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    async def ask(host: Host, command: list[str], *, timeout_s: float, connect_timeout_s: int) -> Answer:
        if host.name == "gone":
            raise HostUnreachableError("no answer", host="gone")
        if host.name == "odd":
            return Answer(1, "", "Failed to open journal")
        if host.name == "quiet":
            return Answer(1, "", "")
        return Answer(0, "\n".join(entry(stamp) for stamp in ((1, 4) if host.name == "a" else (2, 3))), "")

    monkeypatch.setattr(connection, "ask", ask)
    hosts = [Host(name) for name in ("a", "b", "gone", "odd", "quiet")]
    lines, silent = asyncio.run(logs.collect(hosts, Query(), timeout_s=1, connect_timeout_s=1))
    assert [(line.host, line.time_us) for line in lines] == [("a", 1), ("b", 2), ("b", 3), ("a", 4)]
    assert [error.host for error in silent] == ["gone", "odd"]


class _Pipe:
    """A process's output, and its end."""

    def __init__(self, lines: list[str]) -> None:
        self._lines = lines

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for line in self._lines:
            yield f"{line}\n".encode()

    async def read(self) -> bytes:
        return b"Connection reset by peer"


class _Process:
    def __init__(self, lines: list[str]) -> None:
        self.stdout = _Pipe(lines)
        self.stderr = _Pipe([])
        self.returncode = 255


def test_a_lost_connection_is_taken_up_behind_the_last_line(monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []
    parts = [[entry(1), entry(2)], [entry(3)]]

    async def start(host: Host, command: list[str], *, connect_timeout_s: int) -> _Process:
        commands.append(command)
        if len(commands) > len(parts):
            await asyncio.Event().wait()
        return _Process(parts[len(commands) - 1])

    async def take(count: int) -> list[Line]:
        found: list[Line] = []
        async with aclosing(logs.follow([Host("a")], Query(), connect_timeout_s=1)) as lines:
            async for line in lines:
                found.append(line)
                if len(found) == count:
                    break
        return found

    monkeypatch.setattr(connection, "start", start)
    monkeypatch.setattr(logs, "_FIRST_RETRY_S", 0.01)
    found = asyncio.run(take(5))
    assert [line.time_us for line in found if line.unit is not None or line.cursor] == [1, 2, 3]
    notices = [line.message for line in found if line.cursor is None]
    assert len(notices) == 2
    assert "Connection reset by peer" in notices[0]
    assert "--after-cursor=c2" in commands[1]
