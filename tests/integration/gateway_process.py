"""`spark-speech gateway` as a process of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

SCRATCH = "spark-speech-gateway-"
NOWHERE = "127.0.0.1:9"
"""No Triton: for what must be answered without one."""
LIMIT_S = 60.0
"""For what must happen, on a machine that does much else."""


@dataclass
class Running:
    """A gateway process."""

    process: subprocess.Popen[str]
    url: str
    riva: str
    folder: Path
    log: Path
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def scratch(self) -> list[Path]:
        """Its folder of uploads."""
        return list(self.folder.glob(f"{SCRATCH}*"))

    @property
    def uploads(self) -> list[Path]:
        return [upload for folder in self.scratch for upload in folder.iterdir()]

    def until_streaming(self, timeout_s: float = LIMIT_S) -> None:
        """Wait until a live stream is open: one that only was sent may still be refused."""
        opened = re.compile(r"^spark_speech_gateway_streams [1-9]", re.MULTILINE)
        end = time.monotonic() + timeout_s
        while not opened.search(httpx.get(f"{self.url}/metrics", timeout=timeout_s).text):
            assert time.monotonic() < end, f"no live stream within {timeout_s:g} s"
            time.sleep(0.05)

    def stop(self, timeout_s: float = LIMIT_S) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout_s)


@contextmanager
def running(
    folder: Path, upstream: str | None = NOWHERE, arguments: Sequence[str] = (), **settings: Any
) -> Iterator[Running]:
    """Start ``spark-speech gateway`` and wait for its line; kill what is left of it.

    With None for ``upstream``, those of the settings count.
    """
    from orchestrator.runtime.ports import free_ports

    folder.mkdir(parents=True, exist_ok=True)
    http_port, grpc_port = free_ports(2)
    settings = {"http_port": http_port, "grpc_port": grpc_port, "drain_timeout_s": 5} | settings
    overrides = [f"--set=gateway.{key}={value}" for key, value in settings.items()]
    command = [sys.executable, "-m", "orchestrator.cli", *overrides, "gateway", "--json", *arguments]
    if upstream is not None:
        command += ["--url", upstream]
    log = folder / "gateway.log"
    with log.open("w") as errors:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            cwd=folder,
            env=os.environ | {"TMPDIR": str(folder)},
        )
    try:
        assert process.stdout is not None
        told = process.stdout.read(1) and json.loads("{" + _rest_of_object(process.stdout))
        assert upstream is None or told["upstream"] == upstream
        yield Running(process, told["url"], told["riva"], folder, log)
    finally:
        process.kill()
        process.wait()


def _rest_of_object(lines: Any) -> str:
    text = ""
    for line in lines:
        text += line
        if line.startswith("}"):
            break
    return text
