"""The hosts' logs: each one's journal over its own connection, merged into one.

A host's line comes once: after a lost connection the journal is taken up again behind the last line that was
seen, by its cursor (https://www.freedesktop.org/software/systemd/man/latest/journalctl.html).
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

from orchestrator.deploy import connection
from orchestrator.deploy.inventory import Host
from orchestrator.errors import HostUnreachableError

UNITS: Final = "spark-speech-*"
LAST_LINES: Final = 100
"""Of each host, where no time is given."""
_AGO: Final = re.compile(r"\d+\s*(?:us|ms|s|sec|m|min|h|hr|d|w|month|y)\w*")
_FIRST_RETRY_S: Final = 1.0
_LAST_RETRY_S: Final = 30.0
_ERROR: Final = re.compile(r"\b(?:Error|ERROR|CRITICAL)\b|^E\d{4} |Traceback")
"""Lines that say what is wrong; ``E1122`` is how Triton's log begins one."""
_NO_ENTRIES: Final = 1
"""journalctl's exit code where nothing matches ``--grep``."""


@dataclass(frozen=True, slots=True)
class Query:
    """Which lines are wanted.

    Attributes:
        since: as journalctl takes it, or a duration such as ``10m`` for "10m ago"; None for the last lines.
        grep: a regular expression (PCRE2) that a message must match; small letters match capital ones too.
        lines: how many of each host, None for all since ``since``.
        follow: go on with what comes.
        after: a cursor; only what is behind it.
    """

    since: str | None = None
    grep: str | None = None
    lines: int | None = LAST_LINES
    follow: bool = False
    after: str | None = None

    def command(self) -> list[str]:
        """The argument vector on a host."""
        command = [
            "journalctl",
            "--no-pager",
            "--quiet",
            "--output=json",
            "--output-fields=MESSAGE,_SYSTEMD_UNIT,UNIT,PRIORITY",
            f"--unit={UNITS}",
        ]
        if self.after is not None:
            command.append(f"--after-cursor={self.after}")
        elif self.since is not None:
            command.append(f"--since={f'{self.since} ago' if _AGO.fullmatch(self.since) else self.since}")
        elif self.lines is not None:
            command.append(f"--lines={self.lines}")
        if self.grep is not None:
            command.append(f"--grep={self.grep}")
        if self.follow:
            command += [
                "--follow",
                *(["--no-tail"] if self.since is not None or self.after is not None else []),
            ]
        return command


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a host's log.

    Attributes:
        host: its name in the inventory.
        time_us: microseconds since the epoch, by the host's clock.
        unit: the service, without its suffix; None for what is said about a connection.
        message: the text.
        priority: 0 emergency to 7 debug, as syslog has it.
        cursor: its place in the host's journal.
    """

    host: str
    time_us: int
    unit: str | None
    message: str
    priority: int = 6
    cursor: str | None = None

    @property
    def time(self) -> datetime:
        """When it was written, in UTC."""
        return datetime.fromtimestamp(self.time_us / 1e6, UTC)

    def to_dict(self) -> dict[str, Any]:
        """The line as JSON-ready data."""
        return {
            "host": self.host,
            "time": self.time.isoformat(timespec="microseconds"),
            "unit": self.unit,
            "priority": self.priority,
            "message": self.message,
        }


def telling(lines: Sequence[Line], most: int) -> list[Line]:
    """The lines that best tell why something failed: the last ones, and errors before them, each once.

    A server that is started again and again, and all that wait for it, soon write more than a few lines.
    """
    errors: dict[tuple[str, str | None, str], int] = {}
    for place, line in enumerate(lines):
        if _ERROR.search(line.message):
            errors[line.host, line.unit, line.message] = place  # the latest of those that are the same
    kept = set(sorted(errors.values())[-(most // 2) :])
    for place in reversed(range(len(lines))):
        if len(kept) >= most:
            break
        kept.add(place)
    return [lines[place] for place in sorted(kept)]


def line_of(host: str, printed: str | bytes) -> Line | None:
    """The line that ``journalctl --output=json`` printed, None where it is none."""
    try:
        entry = json.loads(printed)
        time_us = int(entry["__REALTIME_TIMESTAMP"])
    except (ValueError, KeyError, TypeError):
        return None
    unit = entry.get("UNIT") or entry.get("_SYSTEMD_UNIT")
    priority = entry.get("PRIORITY")
    return Line(
        host,
        time_us,
        unit.removesuffix(".service") if isinstance(unit, str) else None,
        _message(entry.get("MESSAGE")),
        int(priority) if isinstance(priority, str) and priority.isdigit() else 6,
        entry.get("__CURSOR") if isinstance(entry.get("__CURSOR"), str) else None,
    )


def in_time(lines: Sequence[Line]) -> list[Line]:
    """Lines of several hosts as one log; what happened at once stays in each host's order."""
    return sorted(lines, key=lambda line: line.time_us)


async def collect(
    hosts: Sequence[Host], query: Query, *, timeout_s: float, connect_timeout_s: int
) -> tuple[list[Line], list[HostUnreachableError]]:
    """What is in the hosts' journals now, merged; and the hosts that do not answer."""

    async def one(host: Host) -> list[Line] | HostUnreachableError:
        try:
            answer = await connection.ask(
                host, query.command(), timeout_s=timeout_s, connect_timeout_s=connect_timeout_s
            )
        except HostUnreachableError as error:
            return error
        if answer.rc not in (0, _NO_ENTRIES) or (answer.rc == _NO_ENTRIES and answer.stderr.strip()):
            return connection.unreachable(host, answer.stderr)
        return [line for text in answer.stdout.splitlines() if (line := line_of(host.name, text)) is not None]

    answers = await asyncio.gather(*(one(host) for host in hosts))
    lines = [line for answer in answers if isinstance(answer, list) for line in answer]
    return in_time(lines), [answer for answer in answers if isinstance(answer, HostUnreachableError)]


async def follow(
    hosts: Sequence[Host], query: Query, *, connect_timeout_s: int
) -> AsyncGenerator[Line, None]:
    """The hosts' lines as they come, until the caller stops; a lost connection is made again.

    What happens to a connection is a line too, with no unit.
    """
    queue: asyncio.Queue[Line] = asyncio.Queue()
    readers = [
        asyncio.create_task(_read(host, replace(query, follow=True), queue, connect_timeout_s))
        for host in hosts
    ]
    try:
        while True:
            yield await queue.get()
    finally:
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)


async def _read(host: Host, query: Query, queue: asyncio.Queue[Line], connect_timeout_s: int) -> None:
    wait_s = _FIRST_RETRY_S
    while True:
        try:
            async with aclosing(_lines(host, query, connect_timeout_s)) as lines:
                async for line in lines:
                    if line.cursor is not None:
                        query = replace(query, after=line.cursor)
                    wait_s = _FIRST_RETRY_S
                    await queue.put(line)
        except HostUnreachableError as error:
            notice = f"no connection, next try in {wait_s:g} s: {error.message}"
            now_us = round(datetime.now(UTC).timestamp() * 1e6)
            await queue.put(Line(host.name, now_us, None, notice, priority=4))
        await asyncio.sleep(wait_s)
        wait_s = min(wait_s * 2, _LAST_RETRY_S)


async def _lines(host: Host, query: Query, connect_timeout_s: int) -> AsyncGenerator[Line, None]:
    """One connection's lines, until it ends.

    Raises:
        HostUnreachableError: always in the end; following a journal has no other.
    """
    process = await connection.start(host, query.command(), connect_timeout_s=connect_timeout_s)
    try:
        if process.stdout is None or process.stderr is None:  # both are pipes
            raise RuntimeError("a process without its pipes")
        async for printed in process.stdout:
            line = line_of(host.name, printed)
            if line is not None:
                yield line
        said = await process.stderr.read()
    finally:
        await connection.end(process)
    raise connection.unreachable(host, said.decode("utf-8", errors="replace"))


def _message(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list):  # bytes that are no text
        return bytes(item & 255 for item in value if isinstance(item, int)).decode("utf-8", errors="replace")
    return ""
