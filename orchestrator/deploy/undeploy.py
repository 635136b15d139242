"""Taking everything away from hosts again: services, units, settings, secrets, releases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from orchestrator.deploy.events import Failure, HostResult, Journal
from orchestrator.deploy.inventory import Inventory
from orchestrator.deploy.plan import Rollout
from orchestrator.deploy.rollout import Watchers, failures_of, play_of, run_play
from orchestrator.settings import DeploySettings

_PLAYBOOK: Final = "undeploy.yml"


@dataclass(frozen=True, slots=True)
class Removal:
    """What was taken away, and where that failed."""

    hosts: tuple[HostResult, ...]
    failures: tuple[Failure, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is left on any host."""
        return not self.failures

    def to_dict(self) -> dict[str, Any]:
        """The removal as JSON-ready data."""
        return {
            "ok": self.ok,
            "hosts": {result.host: result.to_dict() for result in self.hosts},
            "failures": [failure.to_dict() for failure in self.failures],
        }


def removal(hosts: Sequence[str], *, run: str, owner: str, limit: str | None, keep_releases: bool) -> Rollout:
    """The run that takes everything away."""
    variables = {
        "spark_speech_run": run,
        "spark_speech_owner": owner,
        "spark_speech_undeploy_keep_releases": keep_releases,
    }
    return Rollout(run, owner, tuple(hosts), variables, limit)


def take_away(
    rollout: Rollout, inventory: Inventory, settings: DeploySettings, watchers: Watchers
) -> Removal:
    """Carry it out; what fails can be done again, there is no way back.

    Raises:
        DeployError, MissingDependencyError: Ansible cannot be run at all.
    """
    journal = Journal()
    play = play_of(rollout, _PLAYBOOK, inventory, settings)
    outcome = run_play(play, journal, watchers.on_step, watchers.should_stop)
    failures = () if outcome.ok else failures_of(journal, outcome)
    if outcome.stopped and not failures:
        failures = (Failure("-", "removal", "it was stopped", "run undeploy again"),)
    return Removal(tuple(journal.hosts.values()), failures)
