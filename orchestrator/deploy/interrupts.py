"""Ctrl-C during a roll-out: the first asks for the way back, the second leaves at once."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""A lost terminal or a stopped service must not leave hosts half-way either."""


class Interrupts:
    """How often this process was asked to stop since `watched`."""

    def __init__(self) -> None:
        self.count = 0

    def asked(self) -> bool:
        """Whether it was asked at all."""
        return self.count > 0


@contextmanager
def watched(on_first: Callable[[], None] = lambda: None) -> Iterator[Interrupts]:
    """Count requests to stop instead of stopping; the second one raises.

    Args:
        on_first: told of the first one, from inside a signal handler: it only notes something.

    Raises:
        KeyboardInterrupt: the second request came.
    """
    interrupts = Interrupts()

    def handle(number: int, frame: FrameType | None) -> None:
        interrupts.count += 1
        if interrupts.count == 1:
            on_first()
        else:
            raise KeyboardInterrupt

    before = {number: signal.signal(number, handle) for number in _SIGNALS}
    try:
        yield interrupts
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
