"""Writes ``recorded/*.jsonl``: what ansible-runner says of the playbooks beside it.

python -m tests.deploy.record_events
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any, Final

from orchestrator.deploy.runner import Event, Play, run

HERE: Final = Path(__file__).parent
KEPT: Final = {"event", "stdout", "event_data"}
DROPPED: Final = {
    "invocation",
    "src",
    "start",
    "end",
    "delta",
    "duration",
    "stdout_lines",
    "stderr_lines",
    "uid",
    "gid",
    "owner",
    "group",
}


def record(playbook: str, folder: Path) -> list[Event]:
    """The events of one playbook over the hosts beside it."""
    events: list[Event] = []
    play = Play(
        HERE / "playbooks" / f"{playbook}.yml", HERE / "playbooks" / "hosts.yml", {"folder": str(folder)}
    )
    run(play, events.append)
    return events


def trimmed(value: Any, folder: str) -> Any:
    """Without what differs from run to run and machine to machine."""
    if isinstance(value, dict):
        return {
            key: trimmed(item, folder)
            for key, item in value.items()
            if key not in DROPPED and not key.endswith("uuid")
        }
    if isinstance(value, list):
        return [trimmed(item, folder) for item in value]
    if isinstance(value, str):
        return value.replace(str(HERE), "/tests/deploy").replace(folder, "/folder")
    return value


def main() -> None:
    """Record every playbook."""
    for path in sorted((HERE / "playbooks").glob("*.yml")):
        if path.stem == "hosts":
            continue
        with tempfile.TemporaryDirectory() as folder:
            events = record(path.stem, Path(folder))
            lines = [
                json.dumps({key: trimmed(event[key], folder) for key in sorted(KEPT & set(event))})
                for event in events
            ]
        (HERE / "recorded" / f"{path.stem}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
