"""The command line of the host program: arguments in, one JSON object out."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from orchestrator.deploy.host import arrival, earlier, expectations, preflight, releases, settled, status
from orchestrator.deploy.host.front import HaproxyFront
from orchestrator.deploy.host.layout import FRONT_SOCKET, HOME, Layout, checked_name
from orchestrator.deploy.host.lock import Lock, LockFile, acquired, refuse_other
from orchestrator.deploy.host.machine import Machine
from orchestrator.deploy.host.mode import GIB
from orchestrator.deploy.host.restore import READY_S
from orchestrator.deploy.host.rollout import Rollout, Wish
from orchestrator.deploy.host.slots import HttpProbe
from orchestrator.deploy.host.state import MODES, SLOTS, Content
from orchestrator.deploy.host.units import Systemd
from orchestrator.errors import ConfigurationError, HostError, HostLockedError, SpeechError

MIB = 1024**2


class _Parser(argparse.ArgumentParser):
    """One whose errors are this project's."""

    def error(self, message: str) -> NoReturn:
        raise ConfigurationError(message, fix=" ".join(self.format_usage().split()))


def main(arguments: Sequence[str]) -> int:
    """Run one verb; the exit code."""
    try:
        chosen = parser().parse_args(list(arguments))
        if chosen.exactly is not None:
            _require_version(chosen.exactly)
        result = run(chosen)
    except SpeechError as error:
        sys.stdout.write(json.dumps({"changed": False, **error.to_dict()}) + "\n")
        return 1
    sys.stdout.write(json.dumps({**result, **({"check": True} if chosen.check else {})}) + "\n")
    return 0


def machine_of(layout: Layout) -> Machine:
    """This machine."""
    return Machine(layout, Systemd(layout), HaproxyFront(layout), HttpProbe(layout))


def run(chosen: argparse.Namespace) -> dict[str, Any]:
    """The verb's answer.

    Raises:
        SpeechError: it failed.
    """
    layout = Layout(chosen.home, chosen.front_socket)
    machine = machine_of(layout)
    rollout = Rollout(machine, check=chosen.check)
    verb = chosen.verb
    if verb == "lock":
        return _lock(machine, chosen)
    if verb == "status":
        return status.status(machine)
    if verb == "environment":
        return status.environment(machine, chosen.slot)
    if verb == "preflight":
        return preflight.run(_object(chosen.request))
    if verb == "unmet":
        return expectations.unmet(_object(chosen.request).get("expected", []))
    if verb == "settled":
        return settled.settled(machine, _object(sys.stdin.read()))
    if verb == "publish":
        with machine.store.guarded(check=chosen.check):
            return arrival.publish(layout, chosen.release, check=chosen.check)
    if verb == "verify":
        return releases.verify(layout, chosen.release)
    if verb == "earlier":
        return earlier.earlier(layout, machine.store.read(), chosen.wanted)
    if verb == "activate":
        with machine.store.guarded(check=chosen.check):
            if chosen.check:
                releases.require(layout, chosen.release)
                return {"changed": releases.current(layout) != chosen.release, "release": chosen.release}
            return {"changed": releases.point(layout, chosen.release), "release": chosen.release}
    if verb == "prune":
        with machine.store.guarded(check=chosen.check):
            return releases.prune(layout, machine.store.read(), chosen.keep, check=chosen.check)
    if verb == "begin":
        content = Content(
            checked_name(chosen.release, "release"),
            checked_name(chosen.environment, "environment"),
            checked_name(chosen.config, "config"),
        )
        floor = chosen.memory_floor_mib * MIB
        return rollout.begin(Wish(chosen.run, content, chosen.mode, chosen.force, chosen.confirm_s, floor))
    if verb == "start":
        return rollout.start(chosen.slot, chosen.timeout)
    if verb == "stop":
        return rollout.stop(chosen.slot)
    if verb == "switch":
        return rollout.switch(chosen.slot)
    if verb == "drain":
        return rollout.drain(chosen.slot, chosen.limit)
    if verb == "gated":
        return rollout.gated(chosen.run)
    if verb == "commit":
        return rollout.commit(chosen.run)
    if verb == "revert":
        return rollout.revert(chosen.run, unless_committed=chosen.unless_committed)
    if verb == "extend":
        return rollout.extend(chosen.run, chosen.confirm_s)
    if verb == "watch":
        return rollout.watch(chosen.run, chosen.ttl)
    return rollout.recover() if verb == "recover" else rollout.down()


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = _Parser(prog="host.pyz", description="Changes what this host serves. Prints one JSON object.")
    top.add_argument("--home", type=Path, default=HOME, help="the service's folder (default: %(default)s)")
    top.add_argument("--front-socket", type=Path, default=FRONT_SOCKET, help="HAProxy's runtime socket")
    top.add_argument("--check", action="store_true", help="say what would change and change nothing")
    top.add_argument("--exactly", metavar="SHA256", help="refuse where this program is another version")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name: str, text: str, *, run: bool = False, slot: bool = False) -> argparse.ArgumentParser:
        added = verbs.add_parser(name, help=text, description=text)
        if run:
            added.add_argument("--run", required=True, type=_run_id, help="the controller's run")
        if slot:
            added.add_argument("slot", choices=SLOTS)
        return added

    lock = verb("lock", "take, keep or give back the host", run=True)
    lock.add_argument("action", choices=("acquire", "refresh", "release"))
    lock.add_argument("--owner", default="unknown", help="who, for people")
    lock.add_argument("--pid", type=int, default=0, help="the controller's process")
    lock.add_argument("--ttl", type=_positive, default=900.0, help="seconds until anybody may take it")
    lock.add_argument("--take-over", action="append", default=[], metavar="RUN", help="a run that has died")
    lock.add_argument("--force", action="store_true", help="take it from another run, or release that one's")
    verb("status", "what is served, and where it is not as it should be")
    begin = verb("begin", "open a rollout", run=True)
    for name in ("release", "environment", "config"):
        begin.add_argument(f"--{name}", required=True)
    begin.add_argument("--mode", choices=("auto", *MODES), default="auto")
    begin.add_argument("--force", action="store_true", help="also when this content serves already")
    begin.add_argument("--confirm-s", type=_positive, default=900.0, help="reverts after it unless committed")
    begin.add_argument("--memory-floor-mib", type=int, default=8 * GIB // MIB)
    start = verb("start", "start a slot and wait until it is ready", slot=True)
    start.add_argument("--timeout", type=_positive, default=READY_S, help="seconds")
    verb("stop", "stop a slot that does not serve", slot=True)
    verb("gated", "note that the gate was passed", run=True)
    verb("switch", "send new work to a slot", slot=True)
    drain = verb("drain", "wait until a slot has no work left", slot=True)
    drain.add_argument("--limit", type=float, default=60.0, help="seconds")
    verb("commit", "make what serves the known good", run=True)
    revert = verb("revert", "back to what served before a run", run=True)
    revert.add_argument("--unless-committed", action="store_true")
    extend = verb("extend", "arm the run's timer anew", run=True)
    extend.add_argument("--confirm-s", type=_positive, default=900.0)
    watch = verb("watch", "revert a run unless it is committed in time")
    watch.add_argument("run", type=_run_id)
    watch.add_argument("--ttl", type=_positive, default=900.0)
    verb("recover", "revert a rollout that was cut off; for the start of the machine")
    verb("down", "end the service on this host")
    verb("preflight", "is this host fit").add_argument("--request", default="{}", help="JSON")
    unmet = verb("unmet", "which files and folders are not as they should be")
    unmet.add_argument("--request", required=True, help="JSON")
    verb("settled", "would a deployment find nothing to do; reads JSON")
    verb("publish", "verify a release that was copied here and give it its name").add_argument("release")
    verb("verify", "check a release's digests").add_argument("release")
    choose = verb("earlier", "the release that a rollback goes to, its digests checked")
    choose.add_argument("wanted", nargs="?", default="", help="the beginning of its id")
    verb("activate", "point `current` at a release").add_argument("release")
    verb("prune", "remove what nothing needs").add_argument("--keep", type=int, default=5)
    verb("environment", "the CUDA policy in the running server", slot=True)
    return top


def _require_version(wanted: str) -> None:
    """Refuse to answer for another version of this program.

    Raises:
        HostError: this file has another digest.
    """
    try:
        found = hashlib.sha256(Path(sys.argv[0]).read_bytes()).hexdigest()
    except OSError:
        found = ""
    if found != wanted:
        raise HostError("the host program here is of another version", fix="deploy: it brings the new one")


def _lock(machine: Machine, chosen: argparse.Namespace) -> dict[str, Any]:
    now = machine.now()
    file = LockFile(machine.layout)
    with machine.store.guarded(check=chosen.check):
        held = file.read()
        if chosen.action == "release":
            if held is None or (held.run != chosen.run and not chosen.force):
                return {"changed": False, "lock": None if held is None else held.to_dict()}
            if not chosen.check:
                file.remove()
            return {"changed": True, "lock": None}
        if chosen.action == "refresh" and (held is None or held.run != chosen.run):
            refuse_other(held, chosen.run, now)
            raise HostLockedError(f"run {chosen.run} has no lock here", fix="acquire it")
        keeps = held if chosen.action == "refresh" else None
        wanted = Lock(
            chosen.owner if keeps is None else keeps.owner,
            chosen.run,
            (chosen.pid or os.getppid()) if keeps is None else keeps.pid,
            now,
            now + chosen.ttl,
        )
        dead = held is not None and held.run in chosen.take_over
        lock = acquired(held, wanted, force=chosen.force or dead)
        if not chosen.check:
            file.write(lock)
        return {"changed": held is None or held.run != lock.run, "lock": lock.to_dict()}


def _object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ConfigurationError(f"the request is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise ConfigurationError("the request is no JSON object")
    return found


def _run_id(text: str) -> str:
    try:
        return checked_name(text, "run")
    except ConfigurationError as error:
        raise argparse.ArgumentTypeError(error.message) from error


def _positive(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError("must be greater than 0")
    return value
