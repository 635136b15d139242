from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from orchestrator import engines
from orchestrator.cli.app import build_app


def invoke(*arguments: str) -> str:
    result = CliRunner().invoke(
        build_app(), ["engines", *arguments], catch_exceptions=False, env={"COLUMNS": "200"}
    )
    assert result.exit_code == 0
    return result.stdout


def test_every_engine_is_listed_with_what_it_can_do() -> None:
    listed = {entry["name"]: entry for entry in json.loads(invoke("--json"))}
    assert set(listed) == set(engines.names())
    for name, entry in listed.items():
        spec = engines.spec(name)
        assert entry["languages"] == list(spec.languages)
        assert entry["word_times"] == ("estimated" if spec.times_estimated else "measured")
        assert entry["max_window_s"] == spec.max_window_s
        assert entry["ready"] == engines.availability(name).ready


def test_what_is_missing_is_named_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing(name: str) -> engines.Availability:
        return engines.Availability(name, ("moonshine-voice",), engines.spec(name).install_command)

    monkeypatch.setattr(engines, "availability", missing)
    shown = invoke()
    assert "needs moonshine-voice" in shown
    assert shown.count("pip install 'spark-speech[serve]'") == 1
    entry = json.loads(invoke("--json"))[0]
    assert (entry["ready"], entry["missing"]) == (False, ["moonshine-voice"])
