"""What is cut off in the middle: cables, controllers, power. Each test cuts at one phase of a rollout.

Whatever was cut, the service goes on, and afterwards the hosts serve one release and the next deploy works.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.bed import Host
from tests.integration.deploy.conftest import MakeBed, slow
from tests.integration.deploy.fleet import HOME, Fleet
from tests.integration.deploy.load import Load
from tests.integration.deploy.releases import Releases

pytestmark = [pytest.mark.integration, pytest.mark.timeout(5400), slow]

CONFIRM_S = 1200
"""A host goes back by itself after this; longer than a rollout takes on the busiest machine: see `hasten`."""
HOST_PROGRAM = "/usr/local/lib/spark-speech/host.pyz"
PHASES = ("locked", "copying", "begun", "started", "gated", "switched", "committed")


@pytest.fixture(scope="module")
def fleet(
    make_shared_bed: MakeBed,
    fleet_of: Callable[..., Fleet],
    tmp_path_factory: pytest.TempPathFactory,
    releases: Releases,
) -> Fleet:
    """Two hosts that serve the first release and go back by themselves after minutes."""
    folder = tmp_path_factory.mktemp("cuts")
    fleet = fleet_of(make_shared_bed(2), folder, spark_speech_confirm_s=CONFIRM_S, spark_speech_drain_s=5)
    fleet.deploy(releases.good(1).id)
    return fleet


@pytest.fixture
def numbers(fleet: Fleet, releases: Releases) -> tuple[str, str]:
    """The release that serves, and one that these hosts have never seen."""
    now = fleet.serving(fleet.hosts[0])
    assert now is not None
    seen = {one for host in fleet.hosts for one in fleet.seen(host)}
    fresh = next(new for number in range(2, 60) if (new := releases.good(number).id) not in seen)
    return now, fresh


def wait_for(fleet: Fleet, host: Host, phase: str, release: str, process: subprocess.Popen[str]) -> None:
    """Wait until the rollout is in this phase on the host."""
    before = fleet.state(host).get("transaction") or {}

    def there() -> bool:
        assert process.poll() is None, f"it ended before {phase}: {fleet.finish(process).text}"
        if phase == "locked":
            return host.path(f"{HOME}/deploy/lock.json").exists()
        if phase == "copying":
            return host.path(f"{HOME}/incoming/releases/{release}").exists()
        now = fleet.state(host).get("transaction") or {}
        return now.get("run") != before.get("run") and now.get("phase") == phase

    fleet.until(there, f"phase {phase} on {host.name}", timeout=900)


def hasten(fleet: Fleet, host: Host) -> None:
    """The host's timer runs, as `begin` armed it; let it go off now: nobody needs to wait for it."""
    listed = host.run("systemctl", "list-timers", "--output=json", "spark-speech-confirm*").stdout
    left = [row["next"] / 1e6 - time.time() for row in json.loads(listed)]
    assert len(left) == 1
    assert 0 < left[0] <= CONFIRM_S
    run = str((fleet.state(host).get("transaction") or {})["run"])
    program = ("/usr/bin/python3", HOST_PROGRAM, "--home", HOME)
    host.run(*program, "extend", "--run", run, "--confirm-s", "1")


def no_ansible(folder: Path) -> bool:
    """No process of a playbook of this controller runs any more."""
    for process in psutil.process_iter(["cmdline", "cwd"]):
        command = " ".join(process.info["cmdline"] or ())
        if "ansible-playbook" in command and process.info["cwd"] == str(folder):
            return False
    return True


@pytest.mark.parametrize("phase", PHASES)
def test_a_cable_is_cut(fleet: Fleet, numbers: tuple[str, str], phase: str) -> None:
    old, new = numbers
    first, second = fleet.hosts
    with Load([first.address], pages=0) as load:
        process = fleet.spawn("deploy", new, "--json")
        wait_for(fleet, second, phase, new, process)
        fleet.bed.cut(second)
        try:
            answer = fleet.finish(process)
            assert answer.rc == 1, answer.text
            assert second.name in {failure["host"] for failure in answer.data["failures"]}
            if phase not in {"locked", "copying", "committed"}:
                assert answer.data["fates"][second.name] == "left"
            if phase != "committed":
                fleet.assert_serves(old, (first,))
                if fleet.phase(second) not in {"committed", "reverted"}:
                    hasten(fleet, second)
                fleet.until(
                    lambda: fleet.serving(second) == old and fleet.running(second) == [old],
                    "the cut host's way back",
                    timeout=300,
                )
        finally:
            fleet.bed.mend(second)
    assert load.failures == []
    fleet.deploy(new)
    fleet.assert_serves(new)


@pytest.mark.parametrize("phase", PHASES)
def test_the_controller_is_killed_and_run_again(fleet: Fleet, numbers: tuple[str, str], phase: str) -> None:
    _, new = numbers
    second = fleet.hosts[1]
    with Load([host.address for host in fleet.hosts], pages=0) as load:
        process = fleet.spawn("deploy", new, "--json")
        wait_for(fleet, second, phase, new, process)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        fleet.until(lambda: no_ansible(fleet.folder), "the end of Ansible", timeout=30)
        fleet.deploy(new)
    assert load.failures == []
    fleet.assert_serves(new)


@pytest.mark.parametrize("phase", ["copying", "begun", "started", "switched"])
def test_the_power_of_a_host_is_cut(fleet: Fleet, numbers: tuple[str, str], phase: str) -> None:
    old, new = numbers
    second = fleet.hosts[1]
    process = fleet.spawn("deploy", new, "--json")
    wait_for(fleet, second, phase, new, process)
    second.kill()
    second.start()
    second.wait()
    answer = fleet.finish(process)
    assert answer.rc == 1, answer.text
    fleet.until(lambda: fleet.running(second) == [old], "the old release after the start", timeout=180)
    fleet.until(lambda: fleet.ready(second), "the models and the front after the start", timeout=180)
    fleet.assert_serves(old, out_of_reach=second)
    fleet.deploy(new)
    fleet.assert_serves(new)


def test_without_its_controller_a_host_goes_back_by_itself(fleet: Fleet, numbers: tuple[str, str]) -> None:
    old, new = numbers
    process = fleet.spawn("deploy", new, "--json")
    wait_for(fleet, fleet.hosts[0], "switched", new, process)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    fleet.until(lambda: no_ansible(fleet.folder), "the end of Ansible", timeout=60)
    for host in fleet.hosts:
        if fleet.phase(host) not in {"committed", "reverted"}:
            hasten(fleet, host)
        fleet.until(
            lambda host=host: fleet.serving(host) == old and fleet.running(host) == [old],  # type: ignore[misc]
            f"the way back of {host.name}",
            timeout=300,
        )
        assert len(fleet.heard(host).split()) > 20
    assert fleet.run("status").data["mixed"] is False


def test_ctrl_c_brings_every_host_back(fleet: Fleet, numbers: tuple[str, str]) -> None:
    old, new = numbers
    process = fleet.spawn("deploy", new, "--json")
    wait_for(fleet, fleet.hosts[1], "begun", new, process)
    process.send_signal(signal.SIGINT)
    answer = fleet.finish(process)
    assert answer.rc == 130, answer.text
    fleet.assert_serves(old)
    assert fleet.run("status").data["mixed"] is False
