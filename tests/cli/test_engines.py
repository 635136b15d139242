from __future__ import annotations

import json
from pathlib import Path

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
    every = {
        *engines.names(),
        *engines.streaming_names(),
        *engines.aligner_names(),
        *engines.outside_names(),
    }
    assert set(listed) == every
    for name, entry in listed.items():
        spec = engines.spec(name)
        assert entry["languages"] == list(spec.languages)
        assert entry["word_times"] == ("estimated" if spec.times_estimated else "measured")
        assert entry["max_window_s"] == spec.max_window_s
        assert entry["ready"] == (engines.availability(name).ready and spec.setting is None)
        assert entry["streams"] == (name in (*engines.streaming_names(), "riva"))
    assert (listed["aligner"]["kind"], listed["aligner"]["recordings"]) == ("alignment", False)
    assert (listed["parakeet_streaming"]["kind"], listed["parakeet_streaming"]["recordings"]) == (
        "live",
        False,
    )


def test_what_is_missing_is_named_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing(name: str) -> engines.Availability:
        return engines.Availability(name, ("moonshine-voice",), engines.spec(name).install_command)

    monkeypatch.setattr(engines, "availability", missing)
    shown = invoke()
    assert "needs moonshine-voice" in shown
    assert shown.count("pip install 'spark-speech[serve]'") == 1
    assert shown.count("pip install 'spark-speech[sarvam]'") == 1
    entry = json.loads(invoke("--json"))[0]
    assert (entry["ready"], entry["missing"]) == (False, ["moonshine-voice"])


def test_an_engine_outside_is_ready_once_its_setting_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shown = invoke()
    assert "set sarvam.api_key" in shown
    assert "set riva.url" in shown
    monkeypatch.setenv("SPARK_SPEECH__SARVAM__API_KEY", "sk_test")
    listed = {entry["name"]: entry for entry in json.loads(invoke("--json"))}
    assert listed["sarvam"]["ready"]
    assert "kn" in listed["sarvam"]["languages"]
    assert not listed["riva"]["ready"]
    assert "sk_test" not in invoke("--json")
