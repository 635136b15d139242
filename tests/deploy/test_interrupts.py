from __future__ import annotations

import os
import signal

import pytest

from orchestrator.deploy.interrupts import watched


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_request_only_counts_and_the_second_leaves(number: int) -> None:
    before = signal.getsignal(number)
    counts = []

    def ask_twice() -> None:
        with watched() as interrupts:
            counts.append(interrupts.asked())
            os.kill(os.getpid(), number)
            counts.append(interrupts.asked())
            os.kill(os.getpid(), number)
            counts.append("still here")

    with pytest.raises(KeyboardInterrupt):
        ask_twice()
    assert counts == [False, True]
    assert signal.getsignal(number) is before
