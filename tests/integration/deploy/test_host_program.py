"""The host program on a host with real systemd and HAProxy: timers that fire, reboots, kill -9.

What runs in the slots is a stand-in that answers as tritonserver and the gateway do; the suites beside this
one run the real ones.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from typing import Any

import pytest

from orchestrator.deploy import zipapp
from tests.bed import Host
from tests.integration.deploy.conftest import MakeBed, slow

HOME = "/var/lib/spark-speech"
PROGRAM = "/usr/local/lib/spark-speech/host.pyz"
RELEASES = {letter: letter * 64 for letter in "abc"}

STAND_IN = """
import http.server, json, os, sys, threading
slot, service = sys.argv[1:]
text = open(f"/var/lib/spark-speech/slots/{slot}/slot.env").read()
release = text.split("SPARK_SPEECH_RELEASE=")[1].split()[0]
step = 100 * (slot == "green")

class Handler(http.server.BaseHTTPRequestHandler):
    def answer(self):
        broken = os.path.exists("/etc/broken-" + slot)
        status, text = 200, release
        if self.path.endswith("/ready"):
            status = 503 if broken else 200
        elif self.path == "/v2/repository/index":
            text = json.dumps([{"name": "m", "version": "1", "state": "LOADING" if broken else "READY"}])
        elif self.path == "/metrics":
            text = 'speech_streams_open{instance="m_0"} 0\\n'
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())
    do_GET = do_POST = answer
    def log_message(self, *arguments):
        pass

ports = {"triton": [18000, 18001, 18002], "gateway": [19000, 15051]}[service]
for port in ports:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", port + step), Handler)
    threading.Thread(target=server.serve_forever).start()
"""
UNIT = """
[Service]
Type=exec
EnvironmentFile=/var/lib/spark-speech/slots/%i/slot.env
ExecStart=/bin/bash -c 'exec -a tritonserver /usr/bin/python3 /opt/stand-in.py %i {service}'
Restart=on-failure
RestartSec=1
[Install]
WantedBy=multi-user.target
"""
RECOVER = f"""
[Unit]
After=spark-speech-front.service
[Service]
Type=oneshot
ExecStart=/usr/bin/python3 {PROGRAM} recover
[Install]
WantedBy=multi-user.target
"""
FRONT = f"""
[Unit]
After=network.target
[Service]
Type=notify
RuntimeDirectory=spark-speech
ExecStart=/usr/sbin/haproxy -Ws -f {HOME}/front.cfg
[Install]
WantedBy=multi-user.target
"""
FRONT_CONFIG = f"""
global
    stats socket /run/spark-speech/front.sock level admin
    server-state-file {HOME}/deploy/front.state
defaults
    mode http
    timeout connect 1s
    timeout client 30s
    timeout server 30s
    # Without this, a check must be answered within its interval, which a busy machine may not do.
    timeout check 20s
    load-server-state-from-file global
    option httpchk GET /v2/health/ready
    default-server check inter 200ms fall 20 rise 1 disabled
"""
POLICY = "CUDA_FORCE_PTX_JIT=0\nCUDA_CACHE_DISABLE=0\n"


class Spark:
    """A host with the host program, the stand-ins and a front."""

    def __init__(self, host: Host) -> None:
        self.host = host
        for folder in (f"{HOME}/deploy", f"{HOME}/slots/blue", f"{HOME}/slots/green", "/opt"):
            host.path(folder).mkdir(parents=True, exist_ok=True)
        zipapp.build(host.path(PROGRAM))
        units = {f"spark-speech-{name}@": UNIT.format(service=name) for name in ("triton", "gateway")}
        units |= {"spark-speech-front": FRONT, "spark-speech-recover": RECOVER}
        for name, text in units.items():
            host.path(f"/etc/systemd/system/{name}.service").write_text(text)
        host.path("/opt/stand-in.py").write_text(STAND_IN)
        ports = {"triton": (8001, 18001), "gateway": (9000, 19000), "riva": (50051, 15051)}
        sections = "".join(
            f"frontend {name}_in\n bind :{port}\n default_backend {name}\nbackend {name}\n"
            f" server blue 127.0.0.1:{slot}\n server green 127.0.0.1:{slot + 100}\n"
            for name, (port, slot) in ports.items()
        )
        host.path(f"{HOME}/front.cfg").write_text(FRONT_CONFIG + sections)
        for release in RELEASES.values():
            folder = host.path(f"{HOME}/releases/{release}")
            folder.mkdir(parents=True)
            (folder / "manifest.json").write_text("{}")
        host.run("systemctl", "daemon-reload")
        host.run("systemctl", "enable", "--now", "spark-speech-front")
        host.run("systemctl", "enable", "spark-speech-recover")

    def call(self, *arguments: str) -> dict[str, Any]:
        done = subprocess.run(
            self.command(*arguments), capture_output=True, text=True, timeout=120, check=False
        )
        assert done.stdout, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        assert done.returncode == (1 if "error" in answer else 0)
        return answer

    def ok(self, *arguments: str) -> dict[str, Any]:
        answer = self.call(*arguments)
        assert "error" not in answer, answer
        return answer

    def command(self, *arguments: str) -> list[str]:
        enter = ["nsenter", "--all", "--target", str(self.host.pid), "--"]
        return [*enter, "/usr/bin/python3", PROGRAM, *arguments]

    def begin(self, run: str, letter: str, *more: str) -> dict[str, Any]:
        wish = ["--release", RELEASES[letter], "--environment", "env", "--config", letter]
        begun = self.ok("begin", "--run", run, *wish, "--memory-floor-mib", "1", *more)
        if begun["changed"]:
            text = f"SPARK_SPEECH_RELEASE={RELEASES[letter]}\n{POLICY}"
            self.host.path(f"{HOME}/slots/{begun['slot']}/slot.env").write_text(text)
        return begun

    def switched(self, run: str, letter: str, *more: str) -> str:
        slot = str(self.begin(run, letter, *more)["slot"])
        self.ok("start", slot)
        self.ok("gated", "--run", run)
        self.ok("switch", slot)
        return slot

    def serving(self) -> str:
        """What a client is answered: the letter of the release."""
        return self.host.run("curl", "-s", "http://127.0.0.1:8001/").stdout[:1]

    def wait(self, happened: Callable[[], bool], seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not happened():
            assert time.monotonic() < deadline, self.call("status")
            time.sleep(0.2)


@pytest.fixture(scope="module")
def spark(make_shared_bed: MakeBed) -> Spark:
    return Spark(make_shared_bed(1).hosts[0])


@pytest.fixture
def fresh(spark: Spark) -> Spark:
    """The host with release ``a`` committed, whatever the test before left."""
    for slot in ("blue", "green"):
        spark.host.path(f"/etc/broken-{slot}").unlink(missing_ok=True)
    spark.ok("down")
    spark.switched("r1", "a")
    spark.ok("commit", "--run", "r1")
    return spark


def timers(spark: Spark) -> list[float]:
    """When the timers go off, seconds since the epoch."""
    rows = spark.host.run("systemctl", "list-timers", "--output=json", "spark-speech-confirm*").stdout
    return [row["next"] / 1e6 for row in json.loads(rows)]


def test_a_committed_rollout_serves_alone_and_shows_no_drift(fresh: Spark) -> None:
    assert fresh.serving() == "a"
    slot = fresh.switched("r2", "b")
    assert fresh.serving() == "b"
    assert timers(fresh)
    assert fresh.ok("drain", "blue", "--limit", "20")["left"] == {"requests": 0, "streams": 0}
    assert fresh.ok("commit", "--run", "r2")["changed"] is True
    assert fresh.ok("commit", "--run", "r2")["changed"] is False
    assert not timers(fresh)
    status = fresh.ok("status")
    assert (status["active"], status["healthy"]) == (slot, True)
    assert [line for line in status["drift"] if "CUDA" not in line and "not set" not in line] == []
    assert status["slots"][slot]["memory_bytes"] > 1_000_000
    assert len(status["slots"][slot]["pids"]) == 2
    assert status["slots"]["blue"]["pids"] == []
    found = fresh.ok("environment", slot)
    assert found["environment"]["CUDA_FORCE_PTX_JIT"] == "0"
    assert any("CUDA_CACHE_PATH" in line for line in found["violations"])
    assert fresh.begin("r3", "b")["changed"] is False


def test_the_timer_reverts_what_nobody_commits(fresh: Spark) -> None:
    fresh.switched("r2", "b")
    assert fresh.serving() == "b"
    fresh.ok("extend", "--run", "r2", "--confirm-s", "1")
    fresh.wait(lambda: fresh.ok("status")["transaction"]["phase"] == "reverted")
    assert fresh.serving() == "a"
    status = fresh.ok("status")
    assert status["slots"]["green"]["pids"] == []
    assert fresh.call("commit", "--run", "r2")["error"] == "TransitionError"


def test_a_controller_that_lives_puts_the_timer_off(fresh: Spark) -> None:
    fresh.switched("r2", "b", "--confirm-s", "100")
    assert timers(fresh) == pytest.approx([time.time() + 100], abs=99)
    fresh.ok("extend", "--run", "r2", "--confirm-s", "600")
    assert timers(fresh) == pytest.approx([time.time() + 600], abs=100)
    fresh.ok("revert", "--run", "r2")
    assert not timers(fresh)


def test_in_place_and_back(fresh: Spark) -> None:
    slot = fresh.switched("r2", "b", "--mode", "in_place")
    status = fresh.ok("status")
    assert status["slots"]["blue"]["pids"] == []
    assert fresh.serving() == "b"
    fresh.ok("revert", "--run", "r2")
    assert fresh.serving() == "a"
    assert fresh.ok("status")["slots"][slot]["pids"] == []


def test_a_slot_that_does_not_become_ready_is_reverted_by_name(fresh: Spark) -> None:
    fresh.host.path("/etc/broken-green").touch()
    fresh.begin("r2", "b")
    failure = fresh.call("start", "green", "--timeout", "3")
    assert failure["error"] == "SlotError"
    assert "not ready after 3 s" in failure["message"]
    assert fresh.call("switch", "green")["error"] == "TransitionError"
    assert fresh.ok("revert", "--run", "r2")["changed"] is True
    assert fresh.serving() == "a"


def test_services_that_fall_over_fail_the_start_with_their_log(fresh: Spark) -> None:
    fresh.begin("r2", "b")
    fresh.host.path(f"{HOME}/slots/green/slot.env").write_text("SPARK_SPEECH=no\n")
    failure = fresh.call("start", "green")
    assert failure["error"] == "SlotError"
    assert "IndexError" in failure["message"]
    fresh.ok("revert", "--run", "r2")
    assert fresh.serving() == "a"


@pytest.mark.parametrize("switched", [False, True])
def test_a_reboot_in_the_middle_comes_back_with_what_was_good(fresh: Spark, switched: bool) -> None:
    if switched:
        fresh.switched("r2", "b")
    else:
        fresh.begin("r2", "b")
        fresh.ok("start", "green")
    fresh.host.kill()
    fresh.host.start()
    fresh.host.wait()
    fresh.wait(lambda: fresh.ok("status")["transaction"]["phase"] == "reverted")
    assert fresh.serving() == "a"
    status = fresh.ok("status")
    assert (status["active"], status["slots"]["green"]["pids"]) == ("blue", [])


def test_a_committed_host_serves_after_a_reboot(fresh: Spark) -> None:
    slot = fresh.switched("r2", "b")
    fresh.ok("commit", "--run", "r2")
    fresh.host.kill()
    fresh.host.start()
    fresh.host.wait()
    fresh.wait(lambda: bool(fresh.ok("status")["healthy"]))
    fresh.wait(lambda: fresh.serving() == "b")
    assert fresh.ok("status")["active"] == slot


@slow
@pytest.mark.parametrize("verb", ["begin", "start", "gated", "switch", "commit", "revert"])
@pytest.mark.parametrize("after_s", [0.05, 0.15, 0.4])
def test_a_verb_that_is_killed_is_run_again_or_reverted(fresh: Spark, verb: str, after_s: float) -> None:
    begin = ["begin", "--run", "r2", "--release", RELEASES["b"], "--environment", "env", "--config", "b"]
    steps = {
        "begin": begin,
        "start": ["start", "green"],
        "gated": ["gated", "--run", "r2"],
        "switch": ["switch", "green"],
        "commit": ["commit", "--run", "r2"],
        "revert": ["revert", "--run", "r2"],
    }
    fresh.host.path(f"{HOME}/slots/green/slot.env").write_text(f"SPARK_SPEECH_RELEASE={RELEASES['b']}\n")
    for name, arguments in steps.items():
        if name == verb:
            killed = subprocess.Popen(fresh.command(*arguments), stdout=subprocess.DEVNULL)
            time.sleep(after_s)
            killed.kill()
            killed.wait()
            for pid in fresh.host.processes("host.pyz"):
                fresh.host.run("kill", "-9", str(pid), check=False)
            assert fresh.serving() in ("a", "b")
        if name != "revert" or verb == "revert":
            fresh.ok(*arguments)
    assert fresh.serving() == ("a" if verb == "revert" else "b")
    fresh.ok("revert", "--run", "r2")
    assert fresh.serving() == "a"
    status = fresh.ok("status")
    assert (status["active"], status["known_good"]["release"]) == ("blue", RELEASES["a"])
    assert status["slots"]["green"]["pids"] == []


def test_two_controllers_meet_at_the_lock(fresh: Spark) -> None:
    fresh.ok("lock", "acquire", "--run", "one", "--owner", "ada@desk", "--pid", "7", "--ttl", "60")
    refused = fresh.call("lock", "acquire", "--run", "two", "--owner", "bob@desk")
    assert refused["error"] == "HostLockedError"
    assert "ada@desk (pid 7, run one)" in refused["message"]
    assert fresh.call("lock", "refresh", "--run", "two")["error"] == "HostLockedError"
    assert fresh.ok("lock", "release", "--run", "two")["changed"] is False
    assert fresh.ok("lock", "release", "--run", "one")["changed"] is True
    assert fresh.ok("lock", "acquire", "--run", "two", "--ttl", "1")["changed"] is True
    time.sleep(1.1)
    assert fresh.ok("lock", "acquire", "--run", "three")["changed"] is True
    fresh.ok("lock", "release", "--run", "three")
