"""A log that is copied while it grows."""

from __future__ import annotations

import io
import time
from pathlib import Path

from orchestrator.runtime.follow import followed


def test_everything_is_copied_from_the_beginning_to_the_last_line(tmp_path: Path) -> None:
    log, target = tmp_path / "server.log", io.StringIO()
    log.write_text("first\n")
    with followed(log, target), log.open("a") as source:
        for _ in range(100):
            if target.getvalue() == "first\n":
                break
            time.sleep(0.05)
        source.write("sécond\n")
        source.flush()
    assert target.getvalue() == "first\nsécond\n"


def test_a_log_that_is_not_there_and_a_closed_target_are_no_failures(tmp_path: Path) -> None:
    log, target = tmp_path / "server.log", io.StringIO()
    with followed(log, target):
        pass
    log.write_text("a line\n")
    target.close()
    with followed(log, target):
        pass
