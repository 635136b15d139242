"""Trying a release in a real tritonserver: started beside everything else, and gone afterwards."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from orchestrator.errors import TritonNotFoundError
from orchestrator.progress import ProgressReporter
from orchestrator.repository.validate import LoadCheck
from orchestrator.settings import ServerSettings


def server_load_check(home: Path, settings: ServerSettings, progress: ProgressReporter) -> LoadCheck | None:
    """A `LoadCheck` with this machine's tritonserver, None where there is none.

    It takes ports of its own and keeps its state and log in a temporary folder, so that a server which runs
    from ``home`` is not disturbed.
    """
    from orchestrator.runtime.ports import free_ports
    from orchestrator.runtime.server import TritonServer
    from orchestrator.runtime.triton import find

    try:
        triton = find(home)
    except TritonNotFoundError:
        return None

    def load(repository: Path, models: Sequence[str]) -> None:
        http, grpc, metrics = free_ports(3)
        scratch = Path(tempfile.mkdtemp(prefix="spark-speech-check-"))
        try:
            with TritonServer(
                repository,
                models,
                triton=triton,
                home=scratch,
                settings=settings.model_copy(
                    update={
                        "host": "127.0.0.1",
                        "http_port": http,
                        "grpc_port": grpc,
                        "metrics_port": metrics,
                    }
                ),
                cache=home / "cache" / "gpu",
                environment={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
                progress=progress,
            ):
                pass
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    return load
