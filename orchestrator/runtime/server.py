"""A local tritonserver: started, waited for, stopped, with nothing left behind.

::

    with TritonServer(release.model_repository, release.models, triton=find(home), home=home) as server:
        SpeechClient(url=server.url).transcribe("meeting.wav")
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Final

import psutil

from orchestrator.errors import (
    AlreadyRunningError,
    NotRunningError,
    RequestTimeoutError,
    ServerStartError,
    ServerUnavailableError,
)
from orchestrator.progress import ProgressReporter, ProgressTask, SilentProgress
from orchestrator.repository.storage import storage_errors
from orchestrator.runtime import log, process, scratch, state
from orchestrator.runtime.command import server_command, server_environment
from orchestrator.runtime.health import probe
from orchestrator.runtime.ports import check_ports, reachable_host
from orchestrator.runtime.state import ServerState
from orchestrator.runtime.triton import TritonInstall
from orchestrator.settings import ServerSettings

KEPT_LOGS: Final = 10
_POLL_S: Final = 0.2
_LOADING_GRACE_S: Final = 2.0
"""A server that is still loading serves nobody: it need not be waited for."""
_LOG_BYTES: Final = 4 * 1024**2


class TritonServer:
    """One server over one model repository. A context manager: starts on entry, stops on exit.

    Args:
        repository: the model repository.
        models: the models to load, at least one. Where the repository holds no others, nobody can load or
            unload any while the server runs.
        triton: the server to run, from `orchestrator.runtime.triton.find`.
        home: where the state file and the logs go; a home runs one server at a time.
        settings: addresses, ports and time-outs.
        release: the id of the release that the repository belongs to, for `status`.
        cache: the folder for compiled GPU code; ``<home>/cache/gpu`` by default.
        environment: the environment to start from; this process's own by default.
        progress: where the start is reported.
    """

    def __init__(
        self,
        repository: Path,
        models: Sequence[str],
        *,
        triton: TritonInstall,
        home: Path,
        settings: ServerSettings | None = None,
        release: str | None = None,
        cache: Path | None = None,
        environment: Mapping[str, str] | None = None,
        progress: ProgressReporter | None = None,
    ) -> None:
        self.repository = repository
        self.models = tuple(models)
        self.triton = triton
        self.home = home
        self.settings = settings or ServerSettings()
        self.release = release
        self._cache = cache or home / "cache" / "gpu"
        self._environment = dict(os.environ if environment is None else environment)
        self._progress = progress or SilentProgress()
        self._child: subprocess.Popen[bytes] | None = None
        self._state: ServerState | None = None

    @property
    def url(self) -> str:
        """``host:port`` of the gRPC endpoint, as the client takes it."""
        return f"{reachable_host(self.settings.host)}:{self.settings.grpc_port}"

    @property
    def state(self) -> ServerState:
        """What is known about the running server.

        Raises:
            NotRunningError: it was not started.
        """
        if self._state is None:
            raise NotRunningError("the server was not started", fix="call start(), or use it in a with block")
        return self._state

    def __enter__(self) -> TritonServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self, *, detached: bool = False) -> ServerState:
        """Start the server and wait until all models are ready.

        Args:
            detached: True lets it outlive this process.

        Raises:
            AlreadyRunningError: a server runs from this home, or another process is starting one.
            PortInUseError: a port is taken; found before anything is started.
            ServerStartError: it died, a model failed, or it was not ready in time; nothing is left of it.
            ConfigurationError: ``server.host`` is no address of this machine, or a port needs root.
        """
        with state.start_lock(self.home):
            running = clean_up(self.home)
            if running is not None:
                raise AlreadyRunningError(
                    f"a server runs from {self.home} already (pid {running.pid})",
                    fix="stop it with `spark-speech down`",
                    host=f"{reachable_host(running.host)}:{running.grpc_port}",
                )
            check_ports(self.settings.host, self._ports())
            child, started = self._spawn(detached)
            try:
                state.write(self.home, started)
                self._await_ready(child, started)
            except BaseException:  # also Ctrl-C: whatever ends the wait, nothing may stay
                self._end(started, _LOADING_GRACE_S)
                raise
            return started

    def wait(self) -> int:
        """Wait until the server ends; its exit code (0 after a `stop` from elsewhere)."""
        if self._child is None:
            raise NotRunningError("the server was not started", fix="call start() first")
        return self._child.wait()

    def stop(self) -> None:
        """Stop the server and remove what it left; no error when it has ended already."""
        if self._state is not None:
            self._end(self._state, self.settings.stop_timeout_s)

    def _ports(self) -> dict[str, int]:
        return {
            "server.http_port": self.settings.http_port,
            "server.grpc_port": self.settings.grpc_port,
            "server.metrics_port": self.settings.metrics_port,
        }

    def _is_whole(self) -> bool:
        """Whether the repository holds no other models than those to load."""
        return {path.parent.name for path in self.repository.glob("*/config.pbtxt")} == set(self.models)

    def _spawn(self, detached: bool) -> tuple[subprocess.Popen[bytes], ServerState]:
        token = secrets.token_hex(4)
        shm_prefix = f"spark_speech_{token}_"
        path = _new_log(self.home, token)
        child = process.spawn(
            server_command(
                self.triton,
                self.repository,
                None if self._is_whole() else self.models,
                self.settings,
                shm_prefix,
                closed_key=secrets.token_hex(16),
            ),
            server_environment(
                self.triton, self._cache, scratch.create(self.home, shm_prefix), self._environment
            ),
            path,
            detached=detached,
        )
        try:
            created = psutil.Process(child.pid).create_time()
        except psutil.NoSuchProcess:
            created = time.time()  # it died at once; the wait says why
        self._child = child
        self._state = ServerState(
            pid=child.pid,
            created=created,
            host=self.settings.host,
            http_port=self.settings.http_port,
            grpc_port=self.settings.grpc_port,
            metrics_port=self.settings.metrics_port,
            release=self.release,
            models=self.models,
            triton=self.triton.version,
            log=str(path),
            shm_prefix=shm_prefix,
        )
        return child, self._state

    def _await_ready(self, child: subprocess.Popen[bytes], started: ServerState) -> None:
        task = self._progress.task("Starting tritonserver", total=len(self.models))
        deadline = time.monotonic() + self.settings.ready_timeout_s
        path = Path(started.log)
        while True:
            ended = child.poll()
            text = log.tail(path, _LOG_BYTES)
            facts = log.facts(text)
            _raise_on_failed_model(facts, path)
            if ended is not None:
                raise _death(ended, text, path)
            if self._answers_ready(started):
                task.finish(f"Ready: {', '.join(self.models)}")
                return
            _report(task, self.models, facts)
            if time.monotonic() > deadline:
                waiting = [name for name in self.models if facts.phases.get(name) != log.ModelPhase.READY]
                raise ServerStartError(
                    f"not ready within {self.settings.ready_timeout_s:g} s: still loading "
                    f"{', '.join(waiting) or 'nothing'}",
                    path=path,
                    fix="raise server.ready_timeout_s, or look into the log",
                )
            time.sleep(_POLL_S)

    def _answers_ready(self, started: ServerState) -> bool:
        try:
            health = probe(started.host, started.http_port)
        except (ServerUnavailableError, RequestTimeoutError):
            return False
        ready = {model.name for model in health.models if model.ready}
        return health.ready and ready.issuperset(self.models)

    def _end(self, started: ServerState, grace_s: float) -> None:
        process.terminate(started, grace_s)
        if self._child is not None:
            self._child.poll()
        _forget(self.home, started)
        self._state = None


def clean_up(home: Path) -> ServerState | None:
    """The server that runs from ``home``; None where there is none, with what a dead one left removed."""
    known = state.read(home)
    if known is None or known.process() is not None:
        return known
    process.terminate(known, 0.0)
    _forget(home, known)
    return None


def stop(home: Path, *, timeout_s: float) -> tuple[ServerState, bool]:
    """Stop the server that was started from ``home``, by whatever process; (what it was, was it killed).

    Raises:
        NotRunningError: there is none. What a crashed one left is removed all the same.
    """
    running = clean_up(home)
    if running is None:
        raise NotRunningError(f"no server runs from {home}", fix="start one with `spark-speech up`")
    killed = process.terminate(running, timeout_s)
    _forget(home, running)
    return running, killed


def _forget(home: Path, ended: ServerState) -> None:
    scratch.remove(home, ended)
    state.remove(home, ended)


def _raise_on_failed_model(facts: log.LogFacts, path: Path) -> None:
    for name, phase in facts.phases.items():
        if phase is log.ModelPhase.FAILED:
            raise ServerStartError(
                f"model {name} failed to load: {facts.reasons[name]}",
                model=name,
                path=path,
                fix="the log has the details; `spark-speech doctor` checks what models need",
            )


def _death(code: int, text: str, path: Path) -> ServerStartError:
    if code == -signal.SIGTERM:
        return ServerStartError("the server was stopped while it started", path=path)
    if code == -signal.SIGKILL:
        ended = "was killed, most likely because memory ran out"
    elif code < 0:
        ended = f"died of {signal.Signals(-code).name}"
    else:
        ended = f"ended with code {code}"
    reason = log.last_error(text)
    return ServerStartError(
        f"tritonserver {ended}" + ("" if reason is None else f": {reason}"),
        path=path,
        fix="look into the log, or run `spark-speech doctor`",
    )


def _report(task: ProgressTask, models: Sequence[str], facts: log.LogFacts) -> None:
    phases = {name: facts.phases.get(name, log.ModelPhase.LOADING) for name in models}
    ready = sum(phase is log.ModelPhase.READY for phase in phases.values())
    shown = ", ".join(f"{name} {phase}" for name, phase in phases.items())
    task.update(completed=ready, description=f"Starting tritonserver: {shown}")


def _new_log(home: Path, token: str) -> Path:
    """A name for the next log; deletes all but the newest `KEPT_LOGS`."""
    folder = home / "logs"
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for old in sorted(folder.glob("tritonserver-*.log"))[: -KEPT_LOGS + 1]:
            old.unlink(missing_ok=True)
    return folder / f"tritonserver-{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{token}.log"
