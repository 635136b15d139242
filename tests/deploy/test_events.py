from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.deploy.changes import Change, changes_of
from orchestrator.deploy.events import Call, Journal, Step

RECORDED = Path(__file__).parent / "recorded"


def journal_of(name: str) -> tuple[Journal, list[Step]]:
    journal, steps = Journal(), []
    for line in (RECORDED / f"{name}.jsonl").read_text(encoding="utf-8").splitlines():
        step = journal.apply(json.loads(line))
        if step is not None:
            steps.append(step)
    return journal, steps


def test_every_result_is_counted_once() -> None:
    journal, _ = journal_of("results")
    counts = {name: (host.ok, host.changed, host.skipped) for name, host in journal.hosts.items()}
    # The third change is the hidden one: only the statistics tell of it. "gone" never gets a connection.
    assert counts == {"a": (6, 3, 1), "b": (5, 3, 1), "gone": (0, 0, 0)}
    assert [change.path for change in journal.hosts["a"].changes] == [None, "/folder/a.txt", None]


def test_a_failure_names_host_task_reason_and_fix() -> None:
    failures = {failure.host: failure for failure in journal_of("results")[0].failures}
    refused = failures["a"]
    assert (refused.task, refused.reason, refused.fix) == (
        "Lock the host",
        "ann@laptop (pid 7) has the host until 12:00",
        "wait for it",
    )
    assert failures["b"].task == "Fail in a loop"
    assert failures["b"].reason == "test b != b: exit code 1"
    assert failures["gone"].unreachable
    assert "Connection refused" in failures["gone"].reason
    assert "ansible_port" in str(failures["gone"].fix)


def test_rescued_and_ignored_failures_are_none_in_the_end() -> None:
    journal = Journal()
    lines = (RECORDED / "results.jsonl").read_text(encoding="utf-8").splitlines()
    events = [json.loads(line) for line in lines]
    for event in events:
        if event["event_data"].get("task") == "Try again":
            break
        journal.apply(event)
    assert {failure.task for failure in journal.failures} == {"Fail for a moment", "Say something"}
    stats = {"event": "playbook_on_stats", "event_data": {"failures": {}, "dark": {"gone": 1}}}
    journal.apply(stats)
    assert [failure.host for failure in journal.failures] == ["gone"]


def test_calls_of_the_host_program_are_kept_with_their_answers() -> None:
    begin = journal_of("results")[0].hosts["a"].calls[0]
    assert begin.verb == "begin"
    assert begin.option("run") == "r1"
    assert begin.option("release") == "abc"
    assert begin.option("mode") is None
    assert begin.reply["slot"] == "green"


def test_an_option_without_a_value_has_none() -> None:
    assert Call(("begin", "--run"), {}).option("run") is None
    assert Call((), {}).verb == ""


def test_a_difference_names_the_file_on_the_host() -> None:
    changes = journal_of("results")[0].hosts["a"].changes
    assert Change("Write a file", "/folder/a.txt", None, "one\ntwo\n") in changes


def test_hidden_output_stays_hidden() -> None:
    journal, steps = journal_of("results")
    assert "a-secret-word" not in repr([journal.hosts, steps])


def test_a_run_that_only_looked_touched_nobody() -> None:
    journal, _ = journal_of("preflight")
    assert journal.touched == ()
    (failure,) = journal.failures
    assert (failure.host, failure.reason, failure.fix) == ("b", "disk: 1 GiB is free on b.", "free some.")


def test_a_run_that_began_to_change_touched_every_host() -> None:
    assert journal_of("results")[0].touched == ("a", "b", "gone")


def test_what_ansible_says_where_it_cannot_start_is_kept_without_colours() -> None:
    journal, _ = journal_of("broken")
    assert journal.failures == ()
    assert journal.said()[0].startswith("[ERROR]: couldn't resolve module/action")
    assert journal.said(1) == ("        ^ column 7",)


def test_steps_tell_the_story() -> None:
    _, steps = journal_of("results")
    kinds = [step.kind for step in steps]
    assert kinds.count("play") == 2
    assert {"task", "start", "ok", "changed", "skipped", "failed", "unreachable", "retry"} <= set(kinds)
    again = next(step for step in steps if step.kind == "retry")
    assert (again.task, again.note) == ("Try again", "attempt 1 of 3")


def test_an_unreachable_host_that_is_passed_over_is_still_seen() -> None:
    journal, _ = journal_of("revert")
    assert journal.failures == ()
    assert [failure.unreachable for failure in journal.hosts["gone"].seen] == [True]


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        ({"changed": False, "diff": {"before": "x", "after": "y"}, "dest": "/a"}, []),
        ({"changed": True, "dest": "/a"}, [Change("t", "/a")]),
        ({"changed": True, "diff": []}, []),
        (
            {
                "changed": True,
                "diff": {"before": {"path": "/d", "mode": "1"}, "after": {"path": "/d", "mode": "2"}},
            },
            [Change("t", "/d", "mode 1", "mode 2")],
        ),
        (
            {
                "changed": True,
                "dest": "/a",
                "diff": {"before": "x", "after": "y", "after_header": "/tmp/source"},
            },
            [Change("t", "/a", "x", "y")],
        ),
        (
            {"changed": True, "diff": {"before": "x", "after": "y", "before_header": "/a (content)"}},
            [Change("t", "/a", "x", "y")],
        ),
        (
            {"results": [{"changed": True, "path": "/a"}, {"changed": False, "path": "/b"}]},
            [Change("t", "/a")],
        ),
    ],
)
def test_changes(result: dict[str, object], expected: list[Change]) -> None:
    assert changes_of("t", result) == expected


JSON = st.sampled_from([None, True, 7, "", "x", "{", '{"message": 1}', [], ["x"], [{}], {}, {"changed": 1}])
KEYS = st.sampled_from(["host", "task", "role", "res", "play", "failures", "dark", "ignore_errors", "name"])
RESULTS = st.dictionaries(
    st.sampled_from(["msg", "stdout", "stderr", "cmd", "results", "diff", "changed", "rc", "dest", "path"]),
    JSON,
)
KINDS = st.sampled_from(
    [
        "runner_on_ok",
        "runner_on_failed",
        "runner_on_unreachable",
        "runner_on_skipped",
        "runner_on_start",
        "runner_retry",
        "playbook_on_stats",
        "playbook_on_play_start",
        "verbose",
        "EOF",
    ]
)


@given(st.lists(st.tuples(KINDS, st.dictionaries(KEYS, JSON | RESULTS, max_size=6)), max_size=6))
def test_no_event_is_too_strange(events: list[tuple[str, dict[str, object]]]) -> None:
    journal = Journal()
    for kind, data in events:
        journal.apply({"event": kind, "event_data": data, "stdout": "x"})
    assert len(journal.failures) <= len(journal.hosts)
