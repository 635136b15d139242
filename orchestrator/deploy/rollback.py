"""Which release a rollback goes to: one for all hosts, that each of them has and has served before. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.deploy.fleet_status import HostStatus
from orchestrator.errors import DeployError, HostUnreachableError, ReleaseNotFoundError


def target(hosts: Sequence[HostStatus], wanted: str | None = None) -> str:
    """The whole id of the release to go back to.

    Args:
        hosts: how the hosts are now.
        wanted: the beginning of an id; None for the newest that was committed on every host and is not what
            serves there now. A rollback is committed too, so another one undoes it.

    Raises:
        HostUnreachableError: a host does not answer: the fleet would be left mixed.
        ReleaseNotFoundError: no release fits on every host.
        DeployError: more than one does.
    """
    for host in hosts:
        if not host.facts:
            raise HostUnreachableError(
                host.reasons[0] if host.reasons else "the host does not answer",
                host=host.host,
                fix=host.fix or "bring it back, or leave it out with --limit",
            )
    if wanted is not None:
        return _wanted(hosts, wanted)
    first, *others = hosts
    for release in _earlier(first):
        if all(release in _earlier(other) for other in others):
            return release
    raise ReleaseNotFoundError(
        "there is no earlier release to go back to"
        if len(hosts) == 1
        else "the hosts have no earlier release in common",
        fix="deploy one: spark-speech deploy RELEASE",
    )


def _wanted(hosts: Sequence[HostStatus], prefix: str) -> str:
    fits = sorted({release for host in hosts for release in _kept(host) if release.startswith(prefix)})
    if len(fits) > 1:
        raise DeployError(
            f"{prefix!r} fits {len(fits)} releases: {', '.join(release[:16] for release in fits)}",
            fix="give more of the id",
        )
    lacking = [host.host for host in hosts if not fits or fits[0] not in _kept(host)]
    if lacking:
        raise ReleaseNotFoundError(
            f"{', '.join(lacking)} has no release {prefix!r} any more",
            fix="`spark-speech status --json` lists what each host keeps; deploy it instead",
        )
    return fits[0]


def _earlier(host: HostStatus) -> list[str]:
    """Releases that were committed on the host, are kept there and do not serve now, the latest first."""
    serving = host.active.get("release")
    kept = _kept(host)
    committed = [
        str(entry.get("release"))
        for entry in reversed(_history(host.facts))
        if entry.get("outcome") == "committed"
    ]
    return [release for release in dict.fromkeys(committed) if release != serving and release in kept]


def _kept(host: HostStatus) -> list[str]:
    releases = host.facts.get("releases")
    return [str(release) for release in releases] if isinstance(releases, list) else []


def _history(facts: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    history = facts.get("history")
    return [entry for entry in history if isinstance(entry, Mapping)] if isinstance(history, list) else []
