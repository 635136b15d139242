from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from orchestrator.cli.app import build_app
from orchestrator.settings import Settings, load
from orchestrator.settings_sources import known_keys

SECRET = "hunter2hunter2"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def invoke(*arguments: str) -> str:
    result = CliRunner().invoke(build_app(), arguments, catch_exceptions=False, env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    return result.stdout


def test_show_prints_every_key_and_where_it_came_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "spark-speech.toml").write_text("[client]\nretries = 1\n", encoding="utf-8")
    monkeypatch.setenv("SPARK_SPEECH__SERVER__HTTP_PORT", "9000")
    shown = invoke("--set", "server.grpc_port=9001", "config", "show")
    lines = {line.split()[0]: line.rstrip().split(maxsplit=2)[1:] for line in shown.splitlines()}
    assert lines["client.retries"] == ["1", f"file {tmp_path}/spark-speech.toml"]
    assert lines["server.http_port"] == ["9000", "environment SPARK_SPEECH__SERVER__HTTP_PORT"]
    assert lines["server.grpc_port"] == ["9001", "command line --set server.grpc_port"]
    assert lines["server.metrics_port"] == ["8002", "default"]
    for key in known_keys(Settings):
        assert any(name == key or name.startswith(f"{key}.") for name in lines), key


def test_show_as_json(tmp_path: Path) -> None:
    config = tmp_path / "other.toml"
    config.write_text("[audio]\nmax_bytes = 10\n", encoding="utf-8")
    shown = json.loads(invoke("--config", str(config), "config", "show", "--json"))
    assert shown["config_file"] == str(config)
    assert shown["settings"]["audio.max_bytes"] == {
        "value": 10,
        "origin": "file",
        "origin_name": str(config),
    }
    assert shown["settings"]["build.hub_token"] == {"value": None, "origin": "default", "origin_name": None}


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_secrets_are_masked(monkeypatch: pytest.MonkeyPatch, flags: list[str]) -> None:
    monkeypatch.setenv("SPARK_SPEECH__BUILD__HUB_TOKEN", SECRET)
    shown = invoke("config", "show", *flags)
    assert SECRET not in shown
    assert "****" in shown


def test_values_are_not_read_as_markup() -> None:
    assert "[red]x[/red]" in invoke("--set", "client.url=[red]x[/red]", "config", "show")


def test_path(tmp_path: Path) -> None:
    assert invoke("config", "path") == ""
    assert json.loads(invoke("config", "path", "--json")) == {"config_file": None}
    (tmp_path / "spark-speech.toml").touch()
    assert invoke("config", "path") == f"{tmp_path}/spark-speech.toml\n"


def test_the_printed_example_is_a_settings_file(tmp_path: Path) -> None:
    config = tmp_path / "spark-speech.toml"
    config.write_text(invoke("config", "example"), encoding="utf-8")
    assert load(environ={}) == Settings()
