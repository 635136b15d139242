from __future__ import annotations

import io

from rich.console import Console

from orchestrator.deploy.changes import Change
from orchestrator.deploy.events import Failure, HostResult, Step
from orchestrator.deploy.fleet_status import Fleet, HostStatus
from orchestrator.deploy.plan import Difference, HostPlan
from orchestrator.deploy.report import RolloutView, show_fleet, show_plan, show_report
from orchestrator.deploy.rollout import Fate, Outcome, Report
from orchestrator.runtime.status import Verdict

FAILURE = Failure("b", "gate: Prove it", "WER 0.9 is over [0.2]", "listen", log=("12:00 triton: [red]x[/]",))


def console() -> Console:
    return Console(file=io.StringIO(), width=120, force_terminal=False)


def text_of(target: Console) -> str:
    assert isinstance(target.file, io.StringIO)
    return target.file.getvalue()


def report(outcome: Outcome, **more: object) -> Report:
    return Report("r1", "f" * 64, outcome, (HostResult("a"), HostResult("b")), **more)  # type: ignore[arg-type]


def shown(found: Report) -> str:
    target = console()
    show_report(found, target)
    return text_of(target)


def test_success_and_nothing_to_do() -> None:
    assert "serves on a, b" in shown(report(Outcome.DONE))
    assert "nothing was changed" in shown(report(Outcome.UNCHANGED))


def test_a_failure_shows_host_task_reason_fix_log_and_fates() -> None:
    fates = {"a": Fate.REVERTED, "b": Fate.LEFT}
    left = Failure("b", "Revert the run", "no route to host", unreachable=True)
    found = shown(report(Outcome.FAILED, failures=(FAILURE,), fates=fates, revert_failures=(left,)))
    for part in ("b failed at: gate: Prove it", "WER 0.9 is over [0.2]", "Fix: listen", "triton: [red]x[/]"):
        assert part in found
    assert "back at what it served before" in found
    assert "no route to host" in found
    assert "spark_speech_confirm_s" in found


def test_a_failure_before_any_change_says_so() -> None:
    fates = {"a": Fate.UNTOUCHED, "b": Fate.UNTOUCHED}
    found = shown(report(Outcome.FAILED, failures=(FAILURE,), fates=fates))
    assert "before anything was changed" in found
    assert "spark_speech_confirm_s" not in found


def test_a_plan_shows_from_and_to() -> None:
    target = console()
    differences = (Difference("release", "a" * 64, "b" * 64), Difference("config", None, "c"))
    changes = tuple(Change("t", f"/etc/{index}") for index in range(25))
    show_plan(
        [HostPlan("x", "green", "in_place", differences, changes), HostPlan("y", None, None, (), ())], target
    )
    found = text_of(target)
    assert "x: starts slot green in place of the old one" in found
    assert "aaaaaaaaaaaa... -> bbbbbbbbbbbb..." in " ".join(found.split())
    assert "config none -> c" in " ".join(found.split())
    assert "and 5 more" in found
    assert "y: no change" in found


def test_a_plan_without_changes_is_one_line() -> None:
    target = console()
    show_plan([HostPlan("y", None, None, (), ())], target)
    assert text_of(target).startswith("No change")


def test_a_fleet_shows_every_host_and_what_is_amiss() -> None:
    facts = {
        "active": "blue",
        "slots": {
            "blue": {
                "release": "f" * 64,
                "models": [{"ready": True}, {"ready": False}],
                "memory_bytes": 2**30,
            }
        },
        "transaction": {"run": "r7", "phase": "gated"},
    }
    silent = HostStatus("gone", Verdict.UNKNOWN, ("no answer within 15 s",), "look at it")
    target = console()
    show_fleet(Fleet((HostStatus("a", Verdict.HEALTHY, facts=facts), silent)), target)
    found = text_of(target)
    for part in ("ffffffffffff", "1/2 ready", "1,024 MiB", "gone: no answer within 15 s", "r7 (gated)"):
        assert part in found


def test_without_a_terminal_changes_and_failures_are_lines() -> None:
    target = console()
    with RolloutView(["a", "b"], target) as view:
        view.step(Step("play", "Prepare"))
        view.step(Step("start", "Write", "a"))
        view.step(Step("ok", "Look", "a"))
        view.step(Step("changed", "Write [x]", "a"))
        view.step(Step("failed", "Gate", "b", "too slow\nmore"))
        view.step(Step("retry", "Wait", "c", "attempt 1 of 3"))
        view.reverting()
        view.stopping()
    found = text_of(target)
    assert "a: Write [x] changed" in found
    assert "b: Gate: too slow" in found
    assert "Look" not in found
    assert "Bringing every host back" in found
    assert "Ctrl-C again" in found
