"""Whether what serves on a host keeps its compiled GPU code, by the running process and not by a file."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from orchestrator.coldstart.cuda_cache import policy_violations
from orchestrator.deploy import connection, fleet_status
from orchestrator.deploy.fleet_status import HostStatus
from orchestrator.deploy.inventory import Host
from orchestrator.deploy.replies import reply_of
from orchestrator.errors import HostUnreachableError
from orchestrator.runtime.doctor import Check, Level
from orchestrator.runtime.status import Verdict


async def examine(
    hosts: Sequence[Host], *, timeout_s: float, connect_timeout_s: int
) -> dict[str, list[Check]]:
    """The findings of each host; all are asked at once, and one that does not answer fails its check."""
    fleet = await fleet_status.ask_all(hosts, timeout_s=timeout_s, connect_timeout_s=connect_timeout_s)

    async def one(host: Host, status: HostStatus) -> list[Check]:
        found = [service_check(status)]
        slot = status.facts.get("active")
        if isinstance(slot, str):
            try:
                answer = await connection.ask(
                    host,
                    connection.host_program(host, "environment", slot),
                    timeout_s=timeout_s,
                    connect_timeout_s=connect_timeout_s,
                )
            except HostUnreachableError as error:
                return [*found, Check("cuda policy", Level.FAIL, error.message, error.fix)]
            found.append(policy_check(reply_of(answer.stdout) or {}))
        return found

    checks = await asyncio.gather(
        *(one(host, status) for host, status in zip(hosts, fleet.hosts, strict=True))
    )
    return {host.name: found for host, found in zip(hosts, checks, strict=True)}


def service_check(status: HostStatus) -> Check:
    """Whether the host serves as it should."""
    if status.verdict is Verdict.HEALTHY:
        return Check(
            "service", Level.OK, f"serves {str(status.active.get('release'))[:12]}, nothing is amiss"
        )
    return Check("service", Level.FAIL, "; ".join(status.reasons) or "unknown", status.fix)


def policy_check(reply: Mapping[str, object]) -> Check:
    """Whether the running server's environment keeps the policy.

    Args:
        reply: what the host program's ``environment`` said.
    """
    environment = reply.get("environment")
    if not isinstance(environment, Mapping):
        fix = reply.get("fix")
        message = str(reply.get("message", "the host program did not say what the server's environment is"))
        return Check("cuda policy", Level.FAIL, message, fix if isinstance(fix, str) else None)
    found = {str(name): str(value) for name, value in environment.items() if value is not None}
    violations = policy_violations(found)
    if not violations:
        return Check(
            "cuda policy",
            Level.OK,
            f"process {reply.get('pid')} keeps compiled code in {found['CUDA_CACHE_PATH']}",
        )
    fix = "run `spark-speech deploy`: it renders the slot's environment again"
    return Check("cuda policy", Level.FAIL, "; ".join(violations), fix)
