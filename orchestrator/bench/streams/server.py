"""The server under load: a release of the streaming model alone, and what its metrics page says."""

from __future__ import annotations

import http.client
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from orchestrator import resources
from orchestrator.contract import Parameter, Task
from orchestrator.errors import ConfigurationError, ServerUnavailableError
from orchestrator.progress import ProgressReporter
from orchestrator.repository.builder import Builder, HubAccess
from orchestrator.repository.plan import make_plan
from orchestrator.repository.release import Release
from orchestrator.repository.validate import device_named, machine
from orchestrator.runtime import triton
from orchestrator.runtime.server import TritonServer
from orchestrator.runtime.temporary import temporary_server
from orchestrator.settings import Settings, StreamingSettings

MODEL: Final = "parakeet_streaming"
HOME: Final = "bench-streams"
"""The folder in the home that the release is built in, so that the home's own current release stays."""
_ASK_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Target:
    """A server with the streaming model.

    Attributes:
        url: ``host:port`` of its gRPC.
        metrics: host and port of its metrics page.
        pid: its process.
        model: the streaming model's name.
        chunk_ms: audio in a chunk.
        max_streams: how many streams it takes.
        idle_timeout_s: after which it forgets a stream.
    """

    url: str
    metrics: tuple[str, int]
    pid: int
    model: str
    chunk_ms: int
    max_streams: int
    idle_timeout_s: float

    def counters(self) -> dict[str, float]:
        """Every metric of the model's streams, summed over its instances; empty where it shows none.

        Raises:
            ServerUnavailableError: the page cannot be had.
        """
        host, port = self.metrics
        connection = http.client.HTTPConnection(host, port, timeout=_ASK_S)
        try:
            connection.request("GET", "/metrics")
            return metrics_of(connection.getresponse().read().decode("utf-8", "replace"))
        except (OSError, http.client.HTTPException) as error:
            raise ServerUnavailableError(f"no metrics: {error}", host=f"{host}:{port}") from error
        finally:
            connection.close()


def metrics_of(page: str) -> dict[str, float]:
    """The ``speech_stream*`` metrics of a page in Prometheus' text format, summed over their labels."""
    found: dict[str, float] = {}
    for line in page.splitlines():
        name, _, rest = line.partition("{")
        if not name.startswith("speech_stream"):
            continue
        try:
            value = float(rest.rpartition("}")[2].split()[0])
        except (ValueError, IndexError):
            continue
        found[name] = found.get(name, 0.0) + value
    return found


def build(
    settings: Settings,
    streaming: StreamingSettings,
    *,
    source: str,
    device: str,
    progress: ProgressReporter,
) -> Release:
    """A release of the streaming model alone, in a home of its own below the home.

    Args:
        settings: of this machine.
        streaming: how the model is set up.
        source: its weights, see `orchestrator.repository.sources`.
        device: ``cpu``, ``cuda``, or ``auto`` for a GPU where there is one.
        progress: where the build is reported.

    Raises:
        ConfigurationError: a device that is none.
        RepositoryError: the release cannot be built.
    """
    plan = make_plan(
        {MODEL: source},
        device=device_named(device),
        target="aarch64" if machine() == "aarch64" else "x86_64",
        streaming=streaming,
    )
    builder = Builder(
        home=settings.paths.home / HOME,
        models=resources.model_repository(),
        hub=HubAccess(endpoint=settings.build.hub_endpoint, token=None, offline=settings.build.offline),
        progress=progress,
    )
    return builder.build(plan).release


@contextmanager
def serving(settings: Settings, release: Release, progress: ProgressReporter) -> Iterator[Target]:
    """A temporary server over ``release``, whose first streaming model is the target.

    Raises:
        ConfigurationError: the release has no streaming model.
        ServerStartError: the server does not come up.
    """
    model = next((model for model in release.manifest.models if model.task == Task.STREAM), None)
    if model is None:
        raise ConfigurationError(
            f"release {release.id[:16]} has no model for live streams",
            fix=f"build one with `spark-speech build --model {MODEL}=embedded`",
        )
    home = settings.paths.home
    installed = triton.install(home, home / "cache", progress)
    with temporary_server(settings, release, installed, progress, name=HOME) as server:
        yield _target(server, model.name, model.settings)


def _target(server: TritonServer, model: str, known: Mapping[str, object]) -> Target:
    host = server.url.rpartition(":")[0]
    return Target(
        url=server.url,
        metrics=(host, server.settings.metrics_port),
        pid=server.state.pid,
        model=model,
        chunk_ms=int(str(known[Parameter.CHUNK_MS])),
        max_streams=int(str(known[Parameter.MAX_STREAMS])),
        idle_timeout_s=float(str(known[Parameter.IDLE_TIMEOUT_S])),
    )
