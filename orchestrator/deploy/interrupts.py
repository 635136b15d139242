"""Ctrl-C during a roll-out: the first asks for the way back, the second leaves at once."""

from __future__ import annotations

import signal
from collections.abc import Iterator
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
def watched() -> Iterator[Interrupts]:
    """Count requests to stop instead of stopping; the second one raises.

    Raises:
        KeyboardInterrupt: the second request came.
    """
    interrupts = Interrupts()

    def handle(number: int, frame: FrameType | None) -> None:
        interrupts.count += 1
        if interrupts.count > 1:
            raise KeyboardInterrupt

    before = {number: signal.signal(number, handle) for number in _SIGNALS}
    try:
        yield interrupts
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
