"""Spans of work for those who collect traces: free where nobody does.

Code marks what it does with `span`; a tracer that was set up (`orchestrator.gateway.tracing`) gets the spans
of everything that runs in its context. Spans never hold audio, words, names of files or keys.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import Final, Literal, Protocol

Attribute = str | int | float | bool
Kind = Literal["server", "client", "internal"]
"""Whose work it is: a caller's request, a request to another server, or a part of either."""


class Span(Protocol):
    """One piece of work, while it is done."""

    def rename(self, name: str) -> None:
        """Give the name that was not known at the start."""

    def note(self, **attributes: Attribute | None) -> None:
        """Add what is known of it; None is left out."""

    def failed(self, kind: str) -> None:
        """Say that it failed, and how."""


class Tracer(Protocol):
    """Takes spans."""

    def span(
        self, name: str, kind: Kind, carrier: Mapping[str, str], attributes: Mapping[str, Attribute | None]
    ) -> AbstractContextManager[Span]:
        """See `span`."""


class _Silent:
    """A span that nobody takes."""

    def __enter__(self) -> Span:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def rename(self, name: str) -> None:
        pass

    def note(self, **attributes: Attribute | None) -> None:
        pass

    def failed(self, kind: str) -> None:
        pass


_SILENT: Final = _Silent()
_tracer: Final[ContextVar[Tracer | None]] = ContextVar("tracer", default=None)


def span(
    name: str,
    *,
    kind: Kind = "internal",
    carrier: Mapping[str, str] | None = None,
    **attributes: Attribute | None,
) -> AbstractContextManager[Span]:
    """The work of a block, below the span that it is in.

    Args:
        name: what is done; of a small set, as traces are grouped by it.
        kind: see `Kind`.
        carrier: headers of the request that asked for it, in lower case, which may name the caller's span.
        **attributes: see `Span.note`.
    """
    tracer = _tracer.get()
    if tracer is None:
        return _SILENT
    return tracer.span(name, kind, carrier or {}, attributes)


@contextmanager
def traced_by(tracer: Tracer) -> Iterator[None]:
    """Give ``tracer`` the spans of the block, and of tasks that are begun in it."""
    token = _tracer.set(tracer)
    try:
        yield
    finally:
        _tracer.reset(token)
