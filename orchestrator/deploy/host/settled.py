"""Whether a deployment would find nothing to do on this host: one question, which changes nothing.

What is asked here is what the roles look at one by one. Where the answer is no, they still do: this only says
that none of them would do anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from orchestrator.deploy.host import expectations, releases, status
from orchestrator.deploy.host.lock import LockFile, refuse_other
from orchestrator.deploy.host.machine import Machine
from orchestrator.deploy.host.rollout import Rollout, Wish
from orchestrator.deploy.host.state import Content
from orchestrator.errors import ConfigurationError, SpeechError

KEYS: Final = frozenset({"run", "content", "force", "expected", "units", "keep"})


def settled(machine: Machine, request: Mapping[str, Any]) -> dict[str, Any]:
    """Look whether everything is as wanted: ``{"changed": False, "settled": …, "reason": …}``.

    Args:
        machine: this host.
        request: ``run``; ``content`` with release, environment and config; ``force``, a new stack whatever
            serves; ``expected``, see `expectations`; ``units`` that run and start with the machine; ``keep``,
            how many releases stay.

    Raises:
        ConfigurationError: the request cannot be understood.
    """
    if missing := KEYS - set(request):
        raise ConfigurationError(f"the request lacks {', '.join(sorted(missing))}")
    try:
        reason = next(_reasons(machine, request), None)
    except ConfigurationError:
        raise
    except SpeechError as error:  # what cannot be looked at is not settled
        reason = error.message
    return {"changed": False, "settled": reason is None, "reason": reason}


def _reasons(machine: Machine, request: Mapping[str, Any]) -> Iterator[str]:
    """Why not, what is soon known first."""
    refuse_other(LockFile(machine.layout).read(), request["run"], machine.now())
    for path in expectations.unmet(request["expected"])["unmet"]:
        yield f"{path} is not as it should be"
    for name in request["units"]:
        unit = machine.services.unit(name)
        if unit.active != "active" or not unit.enabled:
            yield f"{name} is {unit.active}, and {'starts' if unit.enabled else 'does not start'} at boot"
    try:
        content = Content(**request["content"])
    except TypeError as error:
        raise ConfigurationError(f"the content cannot be read: {error}") from error
    if machine.store.read().open is not None:
        yield "a rollout is under way"
    begun = Rollout(machine, check=True).begin(Wish(request["run"], content, force=request["force"]))
    if begun["changed"]:
        yield str(begun["reason"])
    yield from status.status(machine)["drift"]
    if releases.prune(machine.layout, machine.store.read(), request["keep"], check=True)["changed"]:
        yield "there is something to remove"
    releases.verify(machine.layout, content.release)  # last: it reads all weights
