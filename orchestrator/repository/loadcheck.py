"""Trying a release in a real tritonserver: started beside everything else, and gone afterwards.

A model of live streams is also given a short stream: it computes nothing while it loads.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from orchestrator.errors import RuntimeFailure, TritonNotFoundError
from orchestrator.progress import ProgressReporter
from orchestrator.repository.storage import storage_errors
from orchestrator.repository.streamcheck import try_streams
from orchestrator.repository.validate import LoadCheck
from orchestrator.settings import ServerSettings

FAILED_LOG: Final = "load-check.log"
"""The server's log of the last check that failed, in ``<home>/logs``."""
_SCRATCH: Final = "load-check-"


def server_load_check(home: Path, settings: ServerSettings, progress: ProgressReporter) -> LoadCheck | None:
    """A `LoadCheck` with this machine's tritonserver, None where there is none.

    It takes ports of its own and keeps its state in a folder of its own below ``home``, so that a server that
    runs from ``home`` is not disturbed. Of a check that fails the log stays.
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
        with storage_errors(home / "run"):
            (home / "run").mkdir(parents=True, exist_ok=True)
            for killed in (home / "run").glob(f"{_SCRATCH}*"):  # builds exclude each other: none is in use
                shutil.rmtree(killed, ignore_errors=True)
            scratch = Path(tempfile.mkdtemp(prefix=_SCRATCH, dir=home / "run"))
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
            ) as server:
                try_streams(repository, models, server.url)
        except RuntimeFailure as error:
            error.path = _keep_log(error.path, home)
            raise
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    return load


def _keep_log(log: str | None, home: Path) -> str | None:
    """Move a log to where it stays; its new path, None where there is none."""
    if log is None or not Path(log).is_file():
        return None
    kept = home / "logs" / FAILED_LOG
    with storage_errors(kept):
        kept.parent.mkdir(parents=True, exist_ok=True)
        Path(log).replace(kept)
    return str(kept)
