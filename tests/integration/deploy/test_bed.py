"""The throw-away hosts themselves: what the deployment's tests rest on."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.bed import Bed, network
from tests.bed.host import BedError
from tests.integration.deploy.conftest import MakeBed

BIN = Path(sys.executable).parent
UNIT = "[Service]\nExecStart=/bin/sleep 1000\n[Install]\nWantedBy=multi-user.target\n"


def ansible(inventory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run an ad-hoc Ansible task on all hosts."""
    command = [str(BIN / "ansible"), "all", "-i", str(inventory), *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, stdin=subprocess.DEVNULL
    )


@pytest.fixture
def bed(make_bed: MakeBed) -> Bed:
    return make_bed(2)


@pytest.mark.parametrize("user", ["root", "spark"])
def test_ansible_reaches_every_host_as_root(bed: Bed, tmp_path: Path, user: str) -> None:
    inventory = bed.inventory(tmp_path, user=user)
    done = ansible(inventory, "-b", "-m", "ansible.builtin.command", "-a", "whoami")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("root") == 2
    assert ansible(inventory, "-m", "ansible.builtin.ping").stdout.count('"ping": "pong"') == 2


def test_a_unit_runs_and_is_started_again_after_a_power_cut(bed: Bed) -> None:
    host = bed["spark1"]
    host.path("/etc/systemd/system/sleeper.service").write_text(UNIT, encoding="ascii")
    host.ssh("systemctl daemon-reload && systemctl enable --now sleeper")
    assert host.ssh("systemctl", "is-active", "sleeper").stdout.strip() == "active"
    assert not (bed["spark2"].written / "etc/systemd/system/sleeper.service").exists()
    host.kill()
    host.start()
    host.wait()
    assert host.ssh("systemctl", "is-active", "sleeper").stdout.strip() == "active"


def test_a_timer_fires_while_the_cable_is_cut(bed: Bed) -> None:
    host = bed["spark2"]
    mark = "/var/lib/fired"
    with socket.create_connection((host.address, 22), timeout=30):
        bed.cut(host)
        host.run("systemd-run", "--on-active=1", "--timer-property=AccuracySec=100ms", "touch", mark)
        with pytest.raises(BedError, match=r"timed out|No route to host"):
            host.ssh("true")
        end = time.monotonic() + 60
        while not host.path(mark).exists():
            assert time.monotonic() < end, host.journal()
            time.sleep(0.1)
        bed.mend(host)
        host.ssh("true")


def test_a_port_can_be_taken_and_a_disk_filled(make_bed: MakeBed) -> None:
    host = make_bed(1, disks={"/var/lib/spark-speech": 20}).hosts[0]
    holder = host.occupy(8001)
    with socket.create_connection((host.address, 8001), timeout=30):
        pass
    with pytest.raises(BedError, match="in use"):
        host.occupy(8001)
    holder.terminate()
    holder.wait()
    end = time.monotonic() + 60
    while host.processes("create_server"):
        assert time.monotonic() < end, "the program outlived what started it"
        time.sleep(0.05)
    host.occupy(8001).terminate()
    filler = host.fill("/var/lib/spark-speech", leave_mb=2)
    write = ("dd", "if=/dev/zero", "of=/var/lib/spark-speech/x", "bs=1M", "count=4")
    with pytest.raises(BedError, match="No space left"):
        host.run(*write)
    filler.unlink()
    host.run(*write)


def test_two_beds_at_once_share_no_address(make_bed: MakeBed) -> None:
    first, second = make_bed(1), make_bed(1)
    assert first.hosts[0].address != second.hosts[0].address
    first.hosts[0].path("/var/lib/here").touch()
    assert "here" not in second.hosts[0].ssh("ls /var/lib").stdout


def test_nothing_is_left_of_a_bed(make_bed: MakeBed) -> None:
    bed = make_bed(1)
    host = bed.hosts[0]
    cgroup, pid, folder = bed.network.cgroup, host.pid, bed.network.folder
    bed.close()
    bed.close()  # a second time is no error
    assert not cgroup.exists()
    assert not folder.exists()
    assert not Path(f"/proc/{pid}").exists()
    assert bed.network.bridge not in network.ip("link").stdout


PROGRAM = """
import sys, time
from pathlib import Path
from tests.bed import Bed
bed = Bed(1, cache=Path(sys.argv[1])).start()
print(bed.network.number, bed.hosts[0].pid, flush=True)
time.sleep(1000)
"""


def test_a_killed_run_takes_its_hosts_with_it_and_the_next_bed_removes_the_rest(
    make_bed: MakeBed, test_cache: Path
) -> None:
    make_bed(0)  # skips where there can be none
    command = [sys.executable, "-c", PROGRAM, str(test_cache)]
    environment = {**os.environ, "PYTHONPATH": "."}
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
        env=environment,
    ) as run:
        assert run.stdout is not None
        number, pid = run.stdout.readline().split()
        run.send_signal(signal.SIGKILL)
    end = time.monotonic() + 60
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < end, "PID 1 of the host outlived its bed"
        time.sleep(0.05)
    assert (network.FOLDERS / number).exists(), "else this test proves nothing"
    make_bed(0)
    assert f"ssbed{number}h" not in network.ip("link").stdout
    assert not (network.FOLDERS / number / "spark1").exists()
