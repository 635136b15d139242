"""Running playbooks for real, over this machine: what is said, what is written, and how a run ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from orchestrator.deploy import connection, inventory, workspace
from orchestrator.deploy.events import Journal
from orchestrator.deploy.runner import Event, Outcome, Play, run
from orchestrator.errors import HostUnreachableError, InventoryError
from tests.deploy.record_events import HERE, record
from tests.deploy.test_events import journal_of

pytestmark = pytest.mark.integration

PLAYBOOKS = HERE / "playbooks"
SECRET = "canary-5f1c"
SLEEPS = """
- name: Wait
  hosts: localhost
  gather_facts: false
  tasks:
    - name: Write a note
      ansible.builtin.copy: {content: "begun", dest: "NOTE", mode: "0600"}

    - name: Take long
      ansible.builtin.command: sleep 600.25
      changed_when: false
"""
LOCAL = """
localhost:
  hosts:
    localhost: {ansible_connection: local, ansible_python_interpreter: /usr/bin/python3}
"""


@pytest.fixture(autouse=True)
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where runs have their folders; its name is short, for there are sockets in it."""
    with tempfile.TemporaryDirectory(prefix="p-", dir="/tmp") as folder:
        monkeypatch.setattr(workspace, "_MEMORY", Path(folder))
        yield Path(folder)


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[Play]:
    """A playbook that is in the middle of a task for ten minutes, once ``note`` is there."""
    (tmp_path / "hosts.yml").write_text(LOCAL, encoding="utf-8")
    path = tmp_path / "sleeps.yml"
    path.write_text(SLEEPS.replace("NOTE", str(tmp_path / "note")), encoding="utf-8")
    yield Play(path, tmp_path / "hosts.yml")
    assert until(lambda: not sleeping()), "a task's process was left behind"


def sleeping() -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if (process.info["cmdline"] or [""])[-1] == "600.25":
            found.append(process)
    return found


def until(happened: Callable[[], bool], timeout_s: float = 120.0) -> bool:
    end = time.monotonic() + timeout_s
    while not happened():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


@pytest.mark.parametrize("name", ["results", "preflight", "broken", "revert"])
def test_ansible_still_says_what_was_recorded(tmp_path: Path, name: str) -> None:
    live, recorded = Journal(), journal_of(name)[0]
    for event in record(name, tmp_path):
        live.apply(event)
    assert live.failures == recorded.failures
    assert live.touched == recorded.touched
    for host, result in recorded.hosts.items():
        found = live.hosts[host]
        assert (found.ok, found.changed, found.skipped, found.calls) == (
            result.ok,
            result.changed,
            result.skipped,
            result.calls,
        )


def test_check_mode_changes_nothing_and_shows_the_difference(tmp_path: Path) -> None:
    journal = Journal()
    variables = {"folder": str(tmp_path)}
    play = Play(PLAYBOOKS / "results.yml", PLAYBOOKS / "hosts.yml", variables, limit="a", check=True)
    run(play, lambda event: journal.apply(event) and None)
    assert not (tmp_path / "a.txt").exists()
    (change,) = [one for one in journal.hosts["a"].changes if one.path == str(tmp_path / "a.txt")]
    assert change.after == "one\ntwo\n"


def test_nothing_of_the_environment_is_written_or_on_a_command_line(
    tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPARK_SPEECH_TEST_SECRET", SECRET)
    monkeypatch.setenv("LONG", "x" * 100_000)  # more than a pipe holds
    path = tmp_path / "secret.yml"
    path.write_text(
        f"""
- name: Use a secret
  hosts: localhost
  gather_facts: false
  vars:
    secret: "{{{{ lookup('ansible.builtin.env', 'SPARK_SPEECH_TEST_SECRET') }}}}"
  tasks:
    - name: Compare
      ansible.builtin.assert:
        that: secret == 'canary-' ~ '5f1c'
    - name: Write it where it belongs
      ansible.builtin.copy:
        content: "{{{{ secret | upper }}}}"
        dest: "{tmp_path}/secrets.env"
        mode: "0600"
      no_log: true
      diff: false
""",
        encoding="utf-8",
    )
    (tmp_path / "hosts.yml").write_text(LOCAL, encoding="utf-8")
    # What Ansible copies lies in its folder for a moment; in capitals, it is not what the environment has.
    copied = SECRET.upper()
    found: list[str] = []
    said: list[Event] = []

    def look(event: Event) -> None:
        said.append(event)
        for folder, _, names in os.walk(place):
            for file in (Path(folder, name) for name in names):
                with suppress(FileNotFoundError):  # Ansible's files come and go meanwhile
                    if file.is_file() and SECRET.encode() in file.read_bytes():
                        found.append(str(file))
        for process in psutil.process_iter(["cmdline"]):
            if SECRET in (line := " ".join(process.info["cmdline"] or [])) or copied in line:
                found.append(f"process {process.pid}")

    assert run(Play(path, tmp_path / "hosts.yml"), look).ok
    assert (tmp_path / "secrets.env").read_text(encoding="utf-8") == copied
    assert found == []
    assert SECRET not in repr(said)
    assert copied not in repr(said)
    assert list(place.iterdir()) == []


def test_a_run_that_is_asked_to_stop_ends_soon(tmp_path: Path, sleeper: Play) -> None:
    note = tmp_path / "note"
    began = time.monotonic()
    outcome = run(sleeper, lambda event: None, lambda: note.exists() and bool(sleeping()))
    assert outcome.stopped
    assert not outcome.ok
    assert time.monotonic() - began < 250


def test_a_second_request_leaves_at_once_and_nothing_stays(
    tmp_path: Path, place: Path, sleeper: Play
) -> None:
    pid = os.getpid()
    timer = threading.Thread(target=lambda: until(lambda: bool(sleeping())) and os.kill(pid, signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        run(sleeper, lambda event: None)
    timer.join()
    assert list(place.iterdir()) == []


def test_ansible_does_not_outlive_a_killed_controller(tmp_path: Path, place: Path, sleeper: Play) -> None:
    code = f"""
from pathlib import Path
from orchestrator.deploy import workspace
from orchestrator.deploy.runner import Play, run
workspace._MEMORY = Path({str(place)!r})
run(Play(Path({str(sleeper.playbook)!r}), Path({str(sleeper.inventory)!r})), lambda event: None)
"""
    process = subprocess.Popen([sys.executable, "-c", code])
    assert until(lambda: bool(sleeping()))
    process.kill()
    process.wait()
    assert until(lambda: not ansibles(place)), "Ansible goes on without its controller"
    assert list(place.iterdir())
    assert run(Play(PLAYBOOKS / "broken.yml", sleeper.inventory), lambda event: None) == Outcome(4)
    assert list(place.iterdir()) == []


def ansibles(place: Path) -> list[psutil.Process]:
    return [
        process
        for process in psutil.process_iter(["cmdline", "status"])
        if str(place) in " ".join(process.info["cmdline"] or [])
        and process.info["status"] != psutil.STATUS_ZOMBIE
    ]


def test_an_inventory_is_read_with_its_variables_and_limits() -> None:
    assert inventory.read(PLAYBOOKS / "hosts.yml").names == ("a", "b", "gone")
    found = inventory.read(PLAYBOOKS / "hosts.yml", limit="b:gone")
    assert found.names == ("b", "gone")
    assert found.host("gone").variables["ansible_port"] == 9
    with pytest.raises(InventoryError, match="no host that 'nobody' names"):
        inventory.read(PLAYBOOKS / "hosts.yml", limit="nobody")


@pytest.mark.parametrize("text", ["sparks: [", "just words", "sparks:\n  hostz: {}\n"])
def test_an_inventory_that_cannot_be_read_is_an_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "hosts.yml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InventoryError) as caught:
        inventory.read(path)
    assert caught.value.fix
    assert "Traceback" not in str(caught.value)


def test_templates_and_the_vault_are_resolved(tmp_path: Path) -> None:
    from orchestrator.deploy.runner import ansible_program

    password = tmp_path / "password"
    password.write_text("open sesame", encoding="utf-8")
    vault = [ansible_program("ansible-vault"), "encrypt_string", "--vault-password-file", str(password)]
    closed = subprocess.run([*vault, "hunter2"], capture_output=True, text=True, check=True).stdout
    path = tmp_path / "hosts.yml"
    path.write_text(
        f"""
sparks:
  vars: {{network: 10.9.8}}
  hosts:
    a:
      ansible_host: "{{{{ network }}}}.7"
      ansible_become_password: {closed.strip()}
    b: {{ansible_host: 10.0.0.1}}
""",
        encoding="utf-8",
    )
    found = inventory.read(path, vault_password_file=password)
    assert found.host("a").variables["ansible_host"] == "10.9.8.7"
    assert found.host("a").variables["ansible_become_password"] == "hunter2"
    assert found.host("b").variables["ansible_host"] == "10.0.0.1"

    closed_host = inventory.read(path).host("a")  # the others can be used all the same
    with pytest.raises(HostUnreachableError) as caught:
        connection.command_on(closed_host, ["true"], connect_timeout_s=1)
    assert "vault" in str(caught.value.fix)
