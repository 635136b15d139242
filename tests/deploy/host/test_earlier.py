from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.deploy.host.earlier import earlier, pick
from orchestrator.deploy.host.layout import Layout
from orchestrator.deploy.host.state import Content, Entry, HostState
from orchestrator.errors import ReleaseCorruptError, ReleaseNotFoundError
from tests.deploy.host.test_releases import write_release

IDS = ["aa1" + "0" * 61, "aa2" + "0" * 61, "bb1" + "0" * 61]


def entry(release: str, outcome: str = "committed", environment: str = "env") -> Entry:
    return Entry("run", release, environment, "cfg", "2026-01-01T00:00:00Z", outcome)


def host(serving: str | None, *history: Entry) -> HostState:
    content = None if serving is None else Content(serving, "env", "cfg")
    return HostState(
        None if serving is None else "blue", {"blue": content, "green": None}, content, tuple(history)
    )


@given(
    st.lists(st.builds(entry, st.sampled_from(IDS), st.sampled_from(["committed", "reverted"]))),
    st.sampled_from([None, *IDS]),
    st.sampled_from(["", "a", "aa2", *IDS, "c"]),
)
def test_the_newest_known_good_one_that_fits(history: list[Entry], serving: str | None, wanted: str) -> None:
    state = host(serving, *history)
    fitting = [
        one
        for one in history
        if one.outcome == "committed"
        and one.release.startswith(wanted)
        and (wanted or one.release != serving)
    ]
    if fitting:
        assert pick(state, wanted) is fitting[-1]
    else:
        with pytest.raises(ReleaseNotFoundError, match=wanted[:16] or "before the one that it serves"):
            pick(state, wanted)


def test_it_is_read_whole_and_told_with_its_runtime(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    old, new = write_release(layout, "1"), write_release(layout, "2")
    state = host(new, entry(old, environment="digest"), entry(new))
    found = earlier(layout, state)
    assert (found["release"], found["files"], found["changed"]) == (old, 2, False)
    assert found["entry"] == {
        "run": "run",
        "release": old,
        "environment": "digest",
        "config": "cfg",
        "at": "2026-01-01T00:00:00Z",
        "outcome": "committed",
        "runtime": "systemd",
    }
    (layout.images / "digest").mkdir(parents=True)
    assert earlier(layout, state)["entry"]["runtime"] == "container"
    assert earlier(layout, state, new[:8])["release"] == new


def test_a_damaged_or_missing_one_is_not_gone_back_to(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    old = write_release(layout)
    state = replace(host(None), history=(entry(old),))
    (layout.releases / old / "model_repository" / "m" / "1" / "model.py").write_bytes(b"raise")
    with pytest.raises(ReleaseCorruptError, match=r"model\.py"):
        earlier(layout, state)
    with pytest.raises(ReleaseNotFoundError, match="not on this host"):
        earlier(layout, replace(state, history=(entry(IDS[0]),)))
