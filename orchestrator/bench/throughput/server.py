"""A server of one recogniser's weights as they lie in a folder, without a release of them."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

import orchestrator
from orchestrator import resources
from orchestrator.client import codec, failures
from orchestrator.client.failures import Call
from orchestrator.contract import Parameter
from orchestrator.engines.base import EngineSource, Recognition
from orchestrator.errors import ConfigurationError, ServerUnavailableError
from orchestrator.progress import ProgressReporter
from orchestrator.repository.catalog import MODEL_VERSION
from orchestrator.repository.config import FILE_NAME, Device, render
from orchestrator.repository.plan import ModelOptions, make_plan
from orchestrator.repository.storage import storage_errors
from orchestrator.runtime import triton
from orchestrator.runtime.ports import free_ports
from orchestrator.runtime.server import TritonServer
from orchestrator.settings import Settings

MODEL: Final = "parakeet"
HOME: Final = "bench-throughput"
"""The folder in the home where the server keeps its state and logs."""
_HOST: Final = "127.0.0.1"
_ASK_S: Final = 10.0
_INFER_S: Final = 600.0
INFER: Final = "/inference.GRPCInferenceService/ModelInfer"
"""The method as gRPC names it, for requests that are serialised already."""


@dataclass(frozen=True, slots=True)
class Setup:
    """How the model is served, and loaded in this process.

    Attributes:
        weights: a ``.nemo`` file, or a folder of what the engine loads; None: the checkpoint in this package.
        device: where it computes.
        batch: most recordings in one call.
        instances: processes that serve it.
        options: for the engine, see `EngineSource.options`.
    """

    weights: Path | None
    device: Device
    batch: int
    instances: int = 1
    options: Mapping[str, Any] | None = None


@contextmanager
def repository(setup: Setup) -> Iterator[Path]:
    """A model repository that links to the weights, until the block ends.

    Raises:
        ConfigurationError: there are no weights.
        RepositoryError: it cannot be written.
    """
    files = files_of(setup.weights)
    options = {MODEL: ModelOptions(max_batch_size=setup.batch, instances=setup.instances)}
    (model,) = make_plan({MODEL: "embedded"}, device=setup.device, options=options).models
    parameters = dict(model.config.parameters)
    known = json.loads(parameters[Parameter.ENGINE_OPTIONS])
    parameters[Parameter.ENGINE_OPTIONS] = json.dumps({**known, **(setup.options or {})})
    with tempfile.TemporaryDirectory(prefix="spark-speech-bench-") as name, storage_errors(Path(name)):
        folder = Path(name) / MODEL
        version = folder / MODEL_VERSION
        version.mkdir(parents=True)
        (folder / FILE_NAME).write_text(render(replace(model.config, parameters=parameters)), "utf-8")
        shutil.copyfile(
            resources.model_repository() / MODEL / MODEL_VERSION / "model.py", version / "model.py"
        )
        for target, source in files.items():
            (version / target).symlink_to(source)
        yield Path(name)


def engine_source(where: Path, setup: Setup) -> EngineSource:
    """What loads the same engine in this process."""
    return EngineSource(where / MODEL / MODEL_VERSION, setup.device, options=dict(setup.options or {}))


@contextmanager
def serving(settings: Settings, where: Path, progress: ProgressReporter) -> Iterator[Asked]:
    """A temporary server of the repository ``where``.

    Raises:
        TritonNotFoundError: there is none on this machine, and none can be fetched.
        ServerStartError: the model failed or was not ready in time.
    """
    home = settings.paths.home
    installed = triton.install(home, home / "cache", progress)
    http_port, grpc_port, metrics_port = free_ports(3, _HOST)
    ports = {"http_port": http_port, "grpc_port": grpc_port, "metrics_port": metrics_port}
    with (
        TritonServer(
            where,
            (MODEL,),
            triton=installed,
            home=home / HOME,
            settings=settings.server.model_copy(update={"host": _HOST, **ports}),
            cache=home / "cache" / "gpu",
            progress=progress,
        ) as server,
        grpc.insecure_channel(server.url) as channel,
    ):
        yield Asked(server.url, channel)


@dataclass(frozen=True, slots=True)
class Counts:
    """What the server has done so far: requests, calls of the model, and times in ns summed over requests."""

    requests: int
    calls: int
    queue_ns: int
    compute_ns: int

    def since(self, before: Counts) -> Counts:
        """What it did since ``before``."""
        return Counts(
            self.requests - before.requests,
            self.calls - before.calls,
            self.queue_ns - before.queue_ns,
            self.compute_ns - before.compute_ns,
        )


class Asked:
    """The running server: its own account of the model, and single requests."""

    def __init__(self, url: str, channel: grpc.Channel) -> None:
        self.url = url
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        self._infer = channel.unary_unary(
            INFER, request_serializer=None, response_deserializer=service_pb2.ModelInferResponse.FromString
        )

    def infer(self, request: bytes) -> Recognition:
        """The answer to one serialised request.

        Raises:
            ServiceError: the server failed; the subclass says how.
        """
        try:
            answer = self._infer(request, timeout=_INFER_S)
        except grpc.RpcError as error:
            known = isinstance(error, grpc.Call)
            code, text = (error.code(), error.details()) if known else (grpc.StatusCode.UNKNOWN, str(error))
            raise failures.from_status(code, text, Call(self.url, MODEL, limit_s=_INFER_S)).error from error
        return codec.decode_recognition(answer, self.url)

    def counts_after(self, before: Counts, requests: int) -> Counts:
        """What was done since ``before``, once ``requests`` more are counted; Triton answers before that.

        Raises:
            ServerUnavailableError: the server does not answer, or does not count them.
        """
        deadline = time.monotonic() + _ASK_S
        last = self.counts()
        while time.monotonic() < deadline:
            now = self.counts()
            if now == last and now.requests - before.requests >= requests:
                return now.since(before)
            last = now
        raise ServerUnavailableError(f"{self.url} did not count {requests} requests", host=self.url)

    def counts(self) -> Counts:
        """The counts now; compute is the time to hand over inputs, to infer and to take outputs.

        Raises:
            ServerUnavailableError: the server does not answer.
        """
        try:
            answer = self._stub.ModelStatistics(
                service_pb2.ModelStatisticsRequest(name=MODEL), timeout=_ASK_S, wait_for_ready=True
            )
        except grpc.RpcError as error:
            raise ServerUnavailableError(f"no statistics: {error}", host=self.url) from error
        (found,) = answer.model_stats
        stats = found.inference_stats
        computed = (stats.compute_input, stats.compute_infer, stats.compute_output)
        return Counts(
            requests=stats.success.count,
            calls=found.execution_count,
            queue_ns=stats.queue.ns,
            compute_ns=sum(part.ns for part in computed),
        )


def files_of(weights: Path | None) -> dict[str, Path]:
    """What goes into the model's folder, by name."""
    if weights is None:
        (packaged,) = (Path(orchestrator.__file__).parent / "training" / "checkpoint").glob("*.nemo")
        return {"model.nemo": packaged}
    if weights.is_file():
        return {"model.nemo": weights.absolute()}
    files = {path.name: path.absolute() for path in weights.glob("*") if path.is_file()}
    if not files:
        raise ConfigurationError(
            f"{weights} holds no weights",
            fix="name a .nemo file, or the folder of a recogniser",
            path=weights,
        )
    return files
