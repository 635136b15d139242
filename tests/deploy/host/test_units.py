"""What systemd is told, by a stand-in that writes it down."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.deploy.host import units
from orchestrator.deploy.host.layout import Layout
from orchestrator.deploy.host.units import Systemd
from orchestrator.errors import HostError, SlotError

SHOW = """ActiveState=activating
SubState=auto-restart
Result=exit-code
MainPID=0
NRestarts=3
ControlGroup=/system.slice/spark.service
UnitFileState=enabled
LoadState=loaded
Job=0
ActiveEnterTimestamp=Sun 2026-11-22 21:00:00 UTC
"""


class Tools:
    """Stand-ins for the machine's programs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "log"
        for name in ("systemctl", "systemd-run", "journalctl"):
            self.write(name, "")

    def write(self, name: str, body: str) -> None:
        path = self.folder / name
        path.write_text(f'#!/bin/sh\necho "{name} $*" >> {self.log}\n{body}\n')
        path.chmod(0o755)

    @property
    def said(self) -> list[str]:
        return self.log.read_text().splitlines()


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tools:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return Tools(tmp_path)


@pytest.fixture
def systemd(tmp_path: Path) -> Systemd:
    return Systemd(Layout(tmp_path))


def test_a_unit_as_systemd_shows_it(tools: Tools, systemd: Systemd) -> None:
    tools.write("systemctl", f"cat <<'E'\n{SHOW}E")
    unit = systemd.states("green")["triton"]
    assert unit.name == "spark-speech-triton@green.service"
    assert (unit.active, unit.sub, unit.restarts, unit.enabled) == ("activating", "auto-restart", 3, True)
    assert unit.running is True
    assert unit.cgroup == "/system.slice/spark.service"


@pytest.mark.parametrize(
    ("active", "job", "running"),
    [("active", "0", True), ("inactive", "0", False), ("inactive", "817", True), ("failed", "0", False)],
)
def test_a_unit_that_waits_for_its_start_counts_as_running(
    tools: Tools, systemd: Systemd, active: str, job: str, running: bool
) -> None:
    text = SHOW.replace("ActiveState=activating", f"ActiveState={active}").replace("Job=0", f"Job={job}")
    tools.write("systemctl", f"cat <<'E'\n{text}E")
    assert systemd.unit("any.service").running is running


def test_the_gateway_stops_before_its_triton(tools: Tools, systemd: Systemd) -> None:
    systemd.stop("blue")
    assert tools.said == [
        "systemctl stop spark-speech-gateway@blue.service",
        "systemctl stop spark-speech-triton@blue.service",
    ]


def test_a_failure_names_the_slot(tools: Tools, systemd: Systemd) -> None:
    tools.write("systemctl", "echo 'Unit not found.' >&2; exit 5")
    with pytest.raises(SlotError, match=r"slot blue: .* failed with 5: Unit not found"):
        systemd.stop("blue")


def test_the_new_timer_is_there_before_the_old_one_goes(tools: Tools, systemd: Systemd) -> None:
    tools.write(
        "systemctl",
        'case "$*" in *list-units*) echo "spark-speech-confirm-1.timer loaded active";; esac',
    )
    systemd.arm("r7", 900.0)
    run = next(line for line in tools.said if line.startswith("systemd-run"))
    assert "--on-active=900s" in run
    assert run.endswith("revert --run r7 --unless-committed")
    assert "--property=Restart=on-failure" in run
    stop = "systemctl stop spark-speech-confirm-1.timer spark-speech-confirm-1.service"
    assert tools.said.index(run) < tools.said.index(stop)


def test_disarming_leaves_a_revert_alone_that_runs(tools: Tools, systemd: Systemd) -> None:
    tools.write(
        "systemctl",
        'case "$*" in *list-units*) echo "spark-speech-confirm-1.service loaded active";; esac',
    )
    systemd.disarm()
    assert tools.said[-1] == "systemctl stop spark-speech-confirm-1.timer"


def test_without_systemd_the_error_says_what_is_missing(
    systemd: Systemd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HostError, match="systemctl is not installed"):
        systemd.states("blue")
    assert systemd.log_tail("blue") == []


def test_it_calls_itself_as_it_was_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from orchestrator.deploy import zipapp

    layout = Layout(tmp_path / "home")
    where = ["--home", str(layout.home), "--front-socket", str(layout.front_socket)]
    program = tmp_path / "host.pyz"
    zipapp.build(program)
    monkeypatch.setattr("sys.argv", [str(program), "begin"])
    assert units.own_command(layout)[1:] == [str(program), *where]
    monkeypatch.setattr("sys.argv", ["/no/such/__main__.py"])
    assert units.own_command(layout)[1:] == ["-m", "orchestrator.deploy.host", *where]
