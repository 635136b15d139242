"""A real tritonserver is started, watched, and leaves nothing behind, however it ends."""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from numpy.typing import NDArray
from tritonclient.grpc import InferenceServerClient, InferInput
from tritonclient.utils import np_to_triton_dtype

from orchestrator.coldstart.cuda_cache import policy_violations
from orchestrator.errors import AlreadyRunningError, PortInUseError, ServerStartError
from orchestrator.runtime import process, scratch, server, state
from orchestrator.runtime.ports import free_ports
from orchestrator.runtime.server import TritonServer
from orchestrator.runtime.state import ServerState
from orchestrator.runtime.status import Verdict, status
from orchestrator.runtime.triton import TritonInstall
from orchestrator.settings import ServerSettings

_spec = importlib.util.spec_from_file_location("tiny_models", Path(__file__).parent / "tiny_models.py")
assert _spec is not None
assert _spec.loader is not None
tiny = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tiny)

pytestmark = pytest.mark.integration
WAIT_S = 120.0


def wait_until(condition: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + WAIT_S
    while not (value := condition()):
        assert time.monotonic() < deadline, f"timed out: {what}"
        time.sleep(0.1)
    return value


def assert_nothing_left(home: Path, known: ServerState) -> None:
    assert process.members(known) == []
    assert process.shared_memory(known) == []
    assert state.read(home) is None
    assert [path.name for path in (home / "run").iterdir()] == ["server.lock"]
    assert scratch.backend_folders(known) == []
    for port in known.ports.values():
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((known.host, port))


def infer(running: TritonServer, values: NDArray[Any]) -> NDArray[Any]:
    kind = np_to_triton_dtype(values.dtype)
    name = "STRING" if kind == "BYTES" else kind
    asked = InferInput(f"IN_{name}", list(values.shape), kind)
    asked.set_data_from_numpy(values)
    with InferenceServerClient(running.url) as client:
        answer = client.infer("echo", [asked]).as_numpy(f"OUT_{name}")
    assert answer is not None
    return answer


@pytest.fixture(scope="class")
def echo_server(
    tmp_path_factory: pytest.TempPathFactory,
    tritonserver: TritonInstall,
    make_home: Callable[[Path], Path],
) -> Iterator[TritonServer]:
    folder = tmp_path_factory.mktemp("echo")
    http_port, grpc_port, metrics_port = free_ports(3)
    with TritonServer(
        tiny.write_repository(folder / "repository", echo=tiny.echo()),
        ["echo"],
        triton=tritonserver,
        home=make_home(folder / "home"),
        settings=ServerSettings(
            http_port=http_port, grpc_port=grpc_port, metrics_port=metrics_port, ready_timeout_s=240
        ),
    ) as running:
        yield running


class TestTensors:
    """Python models see what was sent and send what they mean, whatever NumPy the backend was built for."""

    @pytest.mark.parametrize(
        "values",
        [
            np.linspace(-1, 1, 480_000, dtype=np.float32),
            np.array([1, -2, 3], np.int32),
            np.array([2**40, -1], np.int64),
            np.array([True, False, False]),
            np.array([b"a", "zwölf".encode(), b"", b"a\0b\0"], np.object_),
            np.array([b"x" * 70_001], np.object_),
            np.array([7], np.int32),
            np.array([], np.float32),
            np.array([], np.object_),
        ],
        ids=[
            "30 s of audio",
            "int32",
            "int64",
            "bool",
            "strings",
            "long string",
            "one",
            "none",
            "no strings",
        ],
    )
    def test_values_go_there_and_back(self, echo_server: TritonServer, values: NDArray[Any]) -> None:
        answer = infer(echo_server, values)
        assert answer.shape == values.shape
        assert answer.tolist() == values[::-1].tolist()

    def test_many_requests_leak_nothing_and_print_nothing(self, echo_server: TritonServer) -> None:
        (model,) = [m for m in process.members(echo_server.state) if m.pid != echo_server.state.pid]
        audio, text = np.ones(1_000_000, np.float32), np.array([b"x" * 1_000_000], np.object_)
        log_bytes = Path(echo_server.state.log).stat().st_size
        sizes = []
        for _ in range(3):
            for _ in range(25):
                infer(echo_server, audio)
                infer(echo_server, text)
            sizes.append(model.memory_info().rss)
        assert sizes[-1] - sizes[0] < 50 * 1_000_000  # 50 requests of 4 MB and 50 of 1 MB came between
        assert Path(echo_server.state.log).stat().st_size == log_bytes


@pytest.fixture
def make_server(
    tmp_path: Path, home: Path, tritonserver: TritonInstall, server_settings: ServerSettings
) -> Callable[..., TritonServer]:
    def make(settings: ServerSettings = server_settings, **models: str) -> TritonServer:
        repository = tiny.write_repository(tmp_path / "repository", **models)
        return TritonServer(repository, list(models), triton=tritonserver, home=home, settings=settings)

    return make


class TestServer:
    def test_it_serves_and_leaves_nothing(self, make_server: Callable[..., TritonServer], home: Path) -> None:
        with make_server(echo=tiny.echo()) as running:
            known = running.state
            assert state.read(home) == known
            assert len(process.members(known)) == 2  # the server and one model
            assert process.shared_memory(known)
            answer = infer(running, np.array([1, 2, 3], np.float32))
            assert answer.tolist() == [3, 2, 1]
        assert_nothing_left(home, known)

    def test_it_keeps_gpu_code_and_asks_no_hub(self, make_server: Callable[..., TritonServer]) -> None:
        with make_server(echo=tiny.echo()) as running:
            for member in process.members(running.state):
                environment = member.environ()
                assert Path(environment["TMPDIR"]).is_relative_to(running.home)
                assert Path(environment["TMPDIR"]).is_dir()
                assert policy_violations(environment) == []
                assert environment["HF_HUB_OFFLINE"] == "1"
                assert environment["PYANNOTE_METRICS_ENABLED"] == "0"

    def test_clients_cannot_map_shared_memory(self, make_server: Callable[..., TritonServer]) -> None:
        with make_server(echo=tiny.echo()) as running:
            connection = http.client.HTTPConnection("127.0.0.1", running.state.http_port, timeout=60)
            connection.request("GET", "/v2/systemsharedmemory/status")
            assert connection.getresponse().status == http.client.FORBIDDEN
            connection.close()

    @pytest.mark.parametrize(
        ("source", "reason"),
        [
            (tiny.BROKEN, "ValueError: the weights are of another kind"),
            (tiny.DYING, "MemoryError: no room for the weights"),
            ("def x(:", "SyntaxError: invalid syntax"),
        ],
        ids=["raises", "dies", "syntax"],
    )
    def test_a_broken_model_is_named_with_its_own_reason(
        self, make_server: Callable[..., TritonServer], home: Path, source: str, reason: str
    ) -> None:
        broken = make_server(echo=tiny.echo(), broken=source)
        with pytest.raises(ServerStartError) as caught:
            broken.start()
        assert caught.value.model == "broken"
        assert reason in caught.value.message
        assert Path(caught.value.path or "").read_text()
        assert state.read(home) is None
        assert not any(str(broken.repository) in " ".join(p.info["cmdline"] or []) for p in _processes())

    def test_a_model_that_never_loads_runs_into_the_time_out(
        self, make_server: Callable[..., TritonServer], server_settings: ServerSettings, home: Path
    ) -> None:
        short = server_settings.model_copy(update={"ready_timeout_s": 3.0})
        slow = make_server(short, slow=tiny.SLOW)
        with pytest.raises(ServerStartError, match="not ready within 3 s: still loading slow"):
            slow.start()
        assert not any(str(slow.repository) in " ".join(p.info["cmdline"] or []) for p in _processes())
        assert state.read(home) is None

    def test_a_taken_port_is_found_before_anything_starts(
        self, make_server: Callable[..., TritonServer], server_settings: ServerSettings, home: Path
    ) -> None:
        taken = server_settings.metrics_port
        with (
            socket.create_server(("127.0.0.1", taken)),
            pytest.raises(PortInUseError, match=str(taken)),
        ):
            make_server(echo=tiny.echo()).start()
        assert not (home / "logs").exists()

    def test_a_second_start_from_one_home_is_refused(self, make_server: Callable[..., TritonServer]) -> None:
        with make_server(echo=tiny.echo()) as running:
            with pytest.raises(AlreadyRunningError, match=str(running.state.pid)):
                make_server(echo=tiny.echo()).start()
            assert running.state.process() is not None

    def test_a_crashed_server_is_told_and_cleaned_up_by_the_next_start(
        self, make_server: Callable[..., TritonServer], home: Path
    ) -> None:
        first = make_server(echo=tiny.echo())
        known = first.start()
        leader = known.process()
        assert leader is not None
        for member in process.members(known):  # all at once, so that nobody cleans up
            member.kill()
        first.wait()
        found = status(home)
        assert found.verdict is Verdict.DEGRADED
        assert "died" in (found.reason or "")
        with make_server(echo=tiny.echo()) as second:
            assert second.state.pid != known.pid
            assert process.shared_memory(known) == []
            assert status(home, timeout_s=WAIT_S).verdict is Verdict.HEALTHY

    def test_a_model_that_dies_later_degrades_the_status(
        self, make_server: Callable[..., TritonServer], home: Path
    ) -> None:
        with make_server(echo=tiny.echo()) as running:
            assert status(home).memory_bytes
            leader = psutil.Process(running.state.pid)
            leader.suspend()
            try:
                wait_until(lambda: leader.status() == psutil.STATUS_STOPPED, "the stop of all threads")
                assert status(home, timeout_s=0.5).verdict is Verdict.UNKNOWN
            finally:
                leader.resume()
            assert status(home, timeout_s=WAIT_S).verdict is Verdict.HEALTHY

    def test_old_logs_are_deleted(self, make_server: Callable[..., TritonServer], home: Path) -> None:
        (home / "logs").mkdir()
        for number in range(20):
            (home / "logs" / f"tritonserver-2020010{number % 10}T00000{number:02}Z-x.log").touch()
        with make_server(echo=tiny.echo()) as running:
            logs = list((home / "logs").iterdir())
            assert len(logs) == server.KEPT_LOGS
            assert Path(running.state.log) in logs


def _processes() -> Iterator[psutil.Process]:
    return psutil.process_iter(["cmdline"])


class TestCommandLine:
    @pytest.fixture
    def environment(
        self, home: Path, tritonserver: TritonInstall, server_settings: ServerSettings
    ) -> dict[str, str]:
        return {
            **os.environ,
            "SPARK_SPEECH__PATHS__HOME": str(home),
            "SPARK_SPEECH__SERVER__HTTP_PORT": str(server_settings.http_port),
            "SPARK_SPEECH__SERVER__GRPC_PORT": str(server_settings.grpc_port),
            "SPARK_SPEECH__SERVER__METRICS_PORT": str(server_settings.metrics_port),
            "SPARK_SPEECH__SERVER__STOP_TIMEOUT_S": "10",
        }

    @pytest.fixture
    def start(self, environment: dict[str, str], tmp_path: Path) -> Iterator[Callable[..., Any]]:
        started: list[subprocess.Popen[str]] = []

        def start(*arguments: str) -> subprocess.Popen[str]:
            child = subprocess.Popen(
                [sys.executable, "-m", "orchestrator.cli", *arguments],
                env=environment,
                cwd=tmp_path,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
            started.append(child)
            return child

        yield start
        for child in started:
            if child.poll() is None:
                child.kill()
            child.communicate()

    @pytest.fixture
    def run(self, start: Callable[..., Any]) -> Callable[..., tuple[int, Any]]:
        def run(*arguments: str) -> tuple[int, Any]:
            child = start(*arguments, "--json")
            output, errors = child.communicate(timeout=WAIT_S)
            assert "Traceback" not in errors
            return child.returncode, json.loads(output)

        return run

    @pytest.fixture(autouse=True)
    def _down(self, home: Path) -> Iterator[None]:
        yield
        known = server.clean_up(home)
        if known is not None:
            process.terminate(known, 2.0)

    def test_up_status_down(self, run: Callable[..., tuple[int, Any]], home: Path) -> None:
        assert run("status")[0] == 2
        release = tiny.publish_release(home, echo=tiny.echo())
        code, started = run("up")
        assert (code, started["release"], started["models"]) == (0, release.id, ["echo"])
        known = state.read(home)
        assert known is not None
        assert known.process() is not None  # the server outlives the command
        code, shown = run("status")
        assert (code, shown["verdict"], shown["pid"], shown["release"]) == (
            0,
            "healthy",
            known.pid,
            release.id,
        )
        assert shown["models"] == [{"name": "echo", "version": "1", "ready": True, "reason": None}]
        assert shown["memory_bytes"] > 0
        code, again = run("up")
        assert (code, again["error"]) == (1, "AlreadyRunningError")
        code, stopped = run("down")
        assert (code, stopped) == (0, {"stopped": True, "pid": known.pid, "killed": False})
        assert_nothing_left(home, known)
        assert run("down") == (0, {"stopped": False, "pid": None, "killed": False})

    def test_two_at_once_start_one_server(self, start: Callable[..., Any], home: Path) -> None:
        tiny.publish_release(home, echo=tiny.echo())
        both = [start("up", "--json"), start("up", "--json")]
        answers = [json.loads(child.communicate(timeout=WAIT_S)[0]) for child in both]
        assert sorted(child.returncode for child in both) == [0, 1]
        (refused,) = [answer for answer in answers if "error" in answer]
        assert refused["error"] == "AlreadyRunningError"
        (started,) = [answer for answer in answers if "pid" in answer]
        assert psutil.pid_exists(started["pid"])

    def test_a_killed_server_is_told_and_down_cleans_up(
        self, run: Callable[..., tuple[int, Any]], home: Path
    ) -> None:
        tiny.publish_release(home, echo=tiny.echo())
        run("up")
        known = state.read(home)
        assert known is not None
        for member in process.members(known):
            member.kill()
        wait_until(lambda: known.process() is None, "the server's end")
        code, shown = run("status")
        assert (code, shown["verdict"]) == (1, "degraded")
        assert run("down") == (0, {"stopped": False, "pid": None, "killed": False})
        assert_nothing_left(home, known)
        assert run("up")[0] == 0

    def test_a_broken_release_says_why(self, run: Callable[..., tuple[int, Any]], home: Path) -> None:
        tiny.publish_release(home, broken=tiny.BROKEN)
        code, failure = run("up")
        assert (code, failure["error"], failure["model"]) == (1, "ServerStartError", "broken")
        assert "the weights are of another kind" in failure["message"]
        assert run("status")[0] == 2

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
    def test_whatever_ends_a_foreground_up_ends_the_server(
        self, start: Callable[..., Any], home: Path, number: signal.Signals
    ) -> None:
        tiny.publish_release(home, echo=tiny.echo())
        child = start("up", "--foreground", "--json")
        known = wait_until(lambda: state.read(home), "the state file")
        wait_until(lambda: status(home).verdict is Verdict.HEALTHY, "readiness")
        child.send_signal(number)
        child.communicate(timeout=WAIT_S)
        wait_until(lambda: not process.members(known), "the end of the server")
        if number is signal.SIGKILL:  # nobody was there to clean up
            assert server.clean_up(home) is None
        else:
            assert child.returncode == 128 + number
        assert_nothing_left(home, known)

    def test_ctrl_c_while_models_load_leaves_nothing(self, start: Callable[..., Any], home: Path) -> None:
        tiny.publish_release(home, slow=tiny.SLOW)
        child = start("up", "--json")
        known = wait_until(lambda: state.read(home), "the state file")
        wait_until(lambda: len(process.members(known)) == 2, "the model's process")
        assert status(home).verdict is Verdict.STARTING
        child.send_signal(signal.SIGINT)
        child.communicate(timeout=WAIT_S)
        assert child.returncode == 130
        assert_nothing_left(home, known)

    def test_down_stops_a_server_that_is_still_loading(
        self, start: Callable[..., Any], run: Callable[..., tuple[int, Any]], home: Path
    ) -> None:
        tiny.publish_release(home, slow=tiny.SLOW)
        child = start("up", "--json")
        known = wait_until(lambda: state.read(home), "the state file")
        assert run("down")[1]["stopped"] is True
        output, _ = child.communicate(timeout=WAIT_S)
        assert child.returncode == 1
        assert json.loads(output)["error"] == "ServerStartError"
        assert_nothing_left(home, known)

    def test_doctor_finds_the_server_and_its_policy(
        self, run: Callable[..., tuple[int, Any]], home: Path
    ) -> None:
        tiny.publish_release(home, echo=tiny.echo())
        run("up")
        _, found = run("doctor")
        checks = {check["name"]: check for check in found["checks"]}
        assert checks["tritonserver"]["level"] == "ok"
        assert checks["release"]["level"] == "ok"
        assert checks["ports"]["message"].count("is the server") == 3
        assert checks["cuda cache"]["message"] == "the running server keeps compiled GPU code"
