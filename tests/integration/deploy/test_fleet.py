"""Three hosts behind a load balancer: one that dies, one that hangs, one that is drained for its rollout."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestrator import resources
from orchestrator.client import SpeechClient
from orchestrator.settings import Settings
from tests.client.conftest import spoken
from tests.integration.deploy.conftest import slow
from tests.integration.deploy.haproxy import (
    SERVICES,
    TEXT,
    Front,
    StandIn,
    balancer_variables,
    running_front,
    stand_ins,
    until,
)
from tests.integration.deploy.simulated_load import STRICT, Load, homes

pytestmark = [pytest.mark.integration, slow]

NAMES = ("spark1", "spark2", "spark3")


@dataclass
class Host:
    """A host's front, and what stands for the slot that serves."""

    name: str
    front: Front
    slot: StandIn

    def serve(self) -> None:
        """Be up, whatever happened before."""
        self.front.signal(signal.SIGCONT)
        self.slot.healthy = True
        if self.slot._server is None:
            self.slot.start()
        if self.front.process.poll() is not None:
            self.front.start()
        self.front.control.set_state("blue", "ready")
        until(lambda: self.front.up("blue"))

    def die(self) -> None:
        """As without power, but for the address, which refuses."""
        self.front.signal(signal.SIGKILL)
        self.front.process.wait()
        self.slot.kill()


@dataclass
class Fleet:
    """The hosts and what balances over them."""

    balancer: Front
    hosts: dict[str, Host]

    @property
    def slots(self) -> list[StandIn]:
        return [host.slot for host in self.hosts.values()]

    def set_state(self, name: str, state: str) -> None:
        for service in SERVICES:
            assert self.balancer.ask(f"set server {service}/{name} state {state}").strip() == ""


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("fleet")
    with ExitStack() as stack:
        hosts = {}
        for name in NAMES:
            (slot,) = stack.enter_context(stand_ins("blue"))
            slot.name = name
            entry = {**slot.entry, "name": "blue"}
            front = stack.enter_context(running_front(folder / name, front_servers=[entry]))
            hosts[name] = Host(name, front, slot)
        servers = [{"name": name, "address": "127.0.0.1", **host.front.ports} for name, host in hosts.items()]
        balancer = stack.enter_context(
            running_front(folder / "balancer", "balancer", **balancer_variables(servers))
        )
        yield Fleet(balancer, hosts)


@pytest.fixture
def fleet(started: Fleet) -> Fleet:
    """All hosts up, and nothing remembered of the test before."""
    for host in started.hosts.values():
        host.serve()
        started.set_state(host.name, "ready")
        host.slot.chunks.clear()
        host.slot.seen.clear()
    until(lambda: started.balancer.up(*NAMES), 30)
    return started


def test_streams_stay_on_their_host_and_all_hosts_have_some(fleet: Fleet) -> None:
    with Load(fleet.balancer.url, streams=9) as load:
        time.sleep(6.0)
    assert load.failures == []
    assert load.resumed == 0
    found = homes(fleet.slots)
    assert {len(names) for names in found.values()} == {1}
    shares = Counter(name for names in found.values() for name in names)
    assert min(shares[name] for name in NAMES) >= len(found) / 6, shares


def test_a_host_that_dies_costs_no_word(fleet: Fleet) -> None:
    """New work goes elsewhere at once, streams are resumed elsewhere; when it is back, it is used again."""
    dead = fleet.hosts["spark1"]
    with Load(fleet.balancer.url, settings=Settings(), streams=9, words=20) as load:
        until(lambda: all(len(slot.sequences) >= 2 for slot in fleet.slots))
        dead.die()
        died = time.monotonic()
        with SpeechClient(fleet.balancer.url, settings=STRICT) as client:
            for _ in range(12):
                assert client.transcribe(spoken(TEXT), diarize=False).text == TEXT
        assert time.monotonic() - died < 5.0
        until(lambda: fleet.balancer.up("spark2", "spark3"))
        time.sleep(3.0)
        dead.serve()
        until(lambda: fleet.balancer.up(*NAMES))
        until(lambda: dead.slot.live(1) or dead.slot.sequences)
    assert load.failures == []
    assert load.resumed >= 2


def test_a_host_that_hangs_is_given_up(fleet: Fleet) -> None:
    """Nothing is refused, nothing answers: what waits for it is cut off, and goes on elsewhere."""
    stuck = fleet.hosts["spark2"]
    with Load(fleet.balancer.url, settings=Settings(), streams=9, words=24) as load:
        until(lambda: all(len(slot.sequences) >= 2 for slot in fleet.slots))
        stuck.front.signal(signal.SIGSTOP)
        began = time.monotonic()
        until(lambda: fleet.balancer.up("spark1", "spark3"), 20)
        assert time.monotonic() - began < 12.0
        time.sleep(4.0)
    assert load.failures == []
    assert load.resumed >= 2


INVENTORY = """
sparks:
  hosts:
    spark1: {{ansible_connection: local}}
load_balancers:
  hosts:
    balancer: {{ansible_connection: local}}
all:
  vars:
    ansible_python_interpreter: {python}
    load_balancer_socket: {socket}
    load_balancer_state: {state}
    spark_speech_drain_s: 20
"""
PLAY = """
- hosts: sparks
  gather_facts: false
  roles: [spark_speech]
  tasks:
    - name: Out or back
      ansible.builtin.include_role:
        name: load_balancer
        tasks_from: "{{ wanted }}"
"""


def play(folder: Path, fleet: Fleet, wanted: str) -> str:
    """Run the role's way out or back as a rollout does."""
    (folder / "inventory.yml").write_text(
        INVENTORY.format(
            python=sys.executable,
            socket=fleet.balancer.folder / "balancer.sock",
            state=fleet.balancer.folder / "deploy" / "front.state",
        )
    )
    (folder / "play.yml").write_text(PLAY)
    done = subprocess.run(
        [
            str(Path(sys.executable).parent / "ansible-playbook"),
            "--inventory=inventory.yml",
            f"--extra-vars=wanted={wanted}",
            "play.yml",
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={
            **os.environ,
            "ANSIBLE_ROLES_PATH": str(resources.playbooks() / "roles"),
            "ANSIBLE_LOCAL_TEMP": str(folder / "ansible"),
            "LC_ALL": "C.UTF-8",
        },
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_host_is_drained_for_its_rollout_and_comes_back(fleet: Fleet, tmp_path: Path) -> None:
    """By the role's own tasks, under load that tries nothing twice; a second time changes nothing."""
    host = fleet.hosts["spark1"]
    with Load(fleet.balancer.url, streams=3) as load:
        time.sleep(1.0)
        assert "changed=1" in play(tmp_path, fleet, "drain")
        until(lambda: not host.slot.sequences, 30)
        before = host.slot.requests
        host.die()
        host.serve()
        time.sleep(1.0)
        assert host.slot.requests == before, "a drained host got work"
        assert "changed=1" in play(tmp_path, fleet, "ready")
        until(lambda: host.slot.requests > before)
    assert "changed=0" in play(tmp_path, fleet, "ready")
    assert load.failures == []
    assert load.resumed == 0


def test_a_balancer_that_restarts_knows_who_is_drained(fleet: Fleet, tmp_path: Path) -> None:
    play(tmp_path, fleet, "drain")
    fleet.balancer.stop()
    fleet.balancer.start()
    until(lambda: fleet.balancer.up("spark2", "spark3"))
