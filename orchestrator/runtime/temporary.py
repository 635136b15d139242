"""A server for one job: on free ports, out of the way of the one that runs from the home."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from orchestrator.errors import AlreadyRunningError
from orchestrator.progress import ProgressReporter
from orchestrator.repository.release import Release
from orchestrator.runtime.ports import free_ports
from orchestrator.runtime.server import TritonServer
from orchestrator.runtime.triton import TritonInstall
from orchestrator.settings import Settings

HOST: Final = "127.0.0.1"


@contextmanager
def temporary_server(
    settings: Settings, release: Release, triton: TritonInstall, progress: ProgressReporter, *, name: str
) -> Iterator[TritonServer]:
    """Serve ``release`` on loopback until the block ends.

    Its state and logs are in ``<home>/<name>``; only the cache of compiled GPU code is shared.

    Raises:
        AlreadyRunningError: another process has one of this name.
        ServerStartError: a model failed or the server was not ready in time; nothing is left of it.
    """
    home = settings.paths.home
    http_port, grpc_port, metrics_port = free_ports(3, HOST)
    ports = {"http_port": http_port, "grpc_port": grpc_port, "metrics_port": metrics_port}
    server = TritonServer(
        release.model_repository,
        release.models,
        triton=triton,
        home=home / name,
        settings=settings.server.model_copy(update={"host": HOST, **ports}),
        release=release.id,
        cache=home / "cache" / "gpu",
        progress=progress,
    )
    try:
        try:
            server.start()
        except AlreadyRunningError as error:
            error.fix = f"wait until the other {name} has ended"
            raise
        yield server
    finally:
        task = progress.task("Stopping tritonserver")
        server.stop()
        task.finish("Stopped tritonserver")
