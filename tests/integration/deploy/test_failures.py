"""Hosts that cannot take a deployment, and deployments that get in each other's way."""

from __future__ import annotations

import secrets
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration.deploy.conftest import MakeFleet, slow
from tests.integration.deploy.fleet import HOME, Fleet
from tests.integration.deploy.releases import Releases

pytestmark = [pytest.mark.integration, pytest.mark.timeout(3600), slow]


def test_a_full_disk(make_fleet: MakeFleet, releases: Releases) -> None:
    fleet = make_fleet(1, disks={HOME: 160})
    host, old, new = fleet.hosts[0], releases.good(1).id, releases.good(2).id
    fleet.deploy(old)
    # Full before: nothing is begun.
    filler = host.fill(HOME, leave_mb=5)
    answer = fleet.deploy(new, rc=1)
    assert "disk" in answer.data["failures"][0]["reason"]
    assert answer.data["fates"] == {"spark1": "untouched"}
    fleet.assert_serves(old)
    # Full while the release arrives.
    filler.unlink()
    process = fleet.spawn("deploy", new, "--json")
    incoming = host.path(f"{HOME}/incoming/releases/{new}")
    fleet.until(incoming.exists, "the copy", timeout=200)
    filler = host.fill(HOME, leave_mb=1)
    answer = fleet.finish(process)
    if answer.rc != 0:  # the copy may be quicker than the filling
        assert "No space left" in answer.data["failures"][0]["reason"], answer.text
        fleet.assert_serves(old)
    filler.unlink()
    fleet.deploy(new)
    fleet.assert_serves(new)


def test_a_port_is_taken_by_another_program(make_fleet: MakeFleet, releases: Releases) -> None:
    fleet = make_fleet(1)
    host, old, new = fleet.hosts[0], releases.good(1).id, releases.good(2).id
    other = host.occupy(8001)
    answer = fleet.deploy(old, rc=1)
    failure = answer.data["failures"][0]
    assert "8001 (front triton)" in failure["reason"]
    assert "spark_speech_front_ports" in failure["fix"]
    assert not host.path(HOME).exists() or not list(host.path(HOME).glob("releases/*"))
    other.terminate()
    other.wait()
    fleet.deploy(old)
    slot = host.occupy(18101, "127.0.0.1")  # the other slot's
    answer = fleet.deploy(new, rc=1)
    assert "18101" in answer.data["failures"][0]["reason"]
    fleet.assert_serves(old)
    slot.terminate()
    slot.wait()
    fleet.deploy(new)
    fleet.assert_serves(new)


def test_two_controllers_at_once(make_fleet: MakeFleet, releases: Releases, tmp_path: Path) -> None:
    fleet = make_fleet(2)
    first, second = releases.good(1).id, releases.good(2).id
    fleet.deploy(releases.good(3).id)
    # Controllers of two people: another home, so that neither knows the other's runs.
    other = Fleet(
        fleet.bed,
        tmp_path / "other",
        Releases(fleet.copied_home(tmp_path), tmp_path / "models"),
        fleet.environment,
        fleet.triton,
        fleet.variables,
    )
    processes = [fleet.spawn("deploy", first, "--json"), other.spawn("deploy", second, "--json")]
    answers = [one.finish(process) for one, process in zip((fleet, other), processes, strict=True)]
    assert sorted(answer.rc for answer in answers) in ([0, 1], [1, 1])
    loser = next(answer for answer in answers if answer.rc == 1)
    assert "deploys to this host until" in loser.data["failures"][0]["reason"], loser.text
    serving = {fleet.serving(host) for host in fleet.hosts}
    assert len(serving) == 1
    fleet.assert_serves(str(serving.pop()))


def test_old_releases_are_pruned_and_the_way_back_stays(make_fleet: MakeFleet, releases: Releases) -> None:
    fleet = make_fleet(1, spark_speech_keep=2)
    host = fleet.hosts[0]
    for number in range(1, 6):
        fleet.deploy(releases.good(number).id)
    kept = {path.name for path in host.path(f"{HOME}/releases").iterdir() if len(path.name) == 64}
    assert {releases.good(5).id, releases.good(4).id} <= kept
    assert releases.good(1).id not in kept
    assert len(kept) <= 3
    gone = fleet.rollback(releases.good(1).id, rc=1)
    assert releases.good(1).id[:12] in gone.stderr + gone.stdout
    fleet.rollback()
    fleet.assert_serves(releases.good(4).id)


def test_a_rollback_needs_neither_the_release_nor_a_network(
    make_fleet: MakeFleet, releases: Releases
) -> None:
    fleet = make_fleet(1)
    host, old, new = fleet.hosts[0], releases.good(1).id, releases.good(2).id
    fleet.deploy(old)
    fleet.deploy(new)
    with fleet.hidden_home():
        answer = fleet.rollback()
    assert answer.data["release"] == old
    fleet.assert_serves(old)
    # A damaged release is not gone back to.
    victim = next(path for path in host.path(f"{HOME}/releases/{new}").rglob("*.py"))
    victim.chmod(0o644)
    victim.write_text(victim.read_text(encoding="utf-8") + "\n# changed\n", encoding="utf-8")
    answer = fleet.rollback(new, rc=1)
    assert victim.name in answer.text or "digest" in answer.text
    fleet.assert_serves(old)


@contextmanager
def watched_processes(word: str) -> Iterator[list[str]]:
    """Command lines on the machine, its hosts' too, that held a word at any time."""
    seen: list[str] = []
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.05):
            lines = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=False).stdout
            seen.extend(line for line in lines.splitlines() if word in line)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()


def holding(word: str, *folders: Path) -> set[str]:
    """Files that hold a word."""
    found = subprocess.run(
        [
            "grep",
            "--recursive",
            "--files-with-matches",
            "--text",
            "--fixed-strings",
            word,
            *map(str, folders),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    return set(found.stdout.splitlines())


def test_a_secret_is_in_one_file_only(make_fleet: MakeFleet, releases: Releases) -> None:
    canary = f"canary{secrets.token_hex(16)}"
    fleet = make_fleet(
        1,
        spark_speech_secrets={
            "SPARK_SPEECH_GATE_API_KEY": "{{ lookup('ansible.builtin.env', 'BED_CANARY') }}"
        },
    )
    fleet.environ["BED_CANARY"] = canary
    host = fleet.hosts[0]
    with watched_processes(canary) as seen:
        fleet.deploy(releases.good(1).id)
        fleet.deploy(releases.good(2).id)
        fleet.deploy(releases.deaf().id, rc=1)
        fleet.rollback()
    assert seen == []
    secret = host.path("/etc/spark-speech/secrets.env")
    assert canary in secret.read_text(encoding="utf-8")
    assert secret.stat().st_mode & 0o777 == 0o600
    host.run("sync")
    on_host = holding(canary, host.written, host.path("/run"), host.path("/tmp"), host.path("/dev/shm"))
    assert on_host == {str(host.written / "etc/spark-speech/secrets.env")}
    assert canary not in host.run("journalctl", "--no-pager").stdout
    controller = holding(
        canary, fleet.folder, fleet.releases.home, Path("/dev/shm"), Path.home() / ".ansible"
    )
    assert controller == set()
