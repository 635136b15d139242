from __future__ import annotations

import logging
import tomllib
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from orchestrator.errors import ConfigurationError
from orchestrator.settings import BuildSettings, Settings, load, resolve
from orchestrator.settings_sources import DEFAULT, Origin, known_keys, leaves

EXAMPLE = Path(__file__).resolve().parents[1] / "docs/spark-speech.example.toml"
NO_ENVIRONMENT: dict[str, str] = {}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # no stray spark-speech.toml


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_the_example_file_is_exactly_the_defaults() -> None:
    assert load(EXAMPLE, environ=NO_ENVIRONMENT) == Settings()


def test_the_example_file_names_every_key() -> None:
    written = [key for key, _ in leaves(tomllib.loads(EXAMPLE.read_text(encoding="utf-8")))]
    for key in known_keys(Settings):
        assert any(name == key or name.startswith(f"{key}.") for name in written), key


def test_the_example_file_shows_the_default_of_every_key() -> None:
    resolved = resolve(EXAMPLE, environ=NO_ENVIRONMENT)
    assert {str(row.origin) for row in resolved.rows()} == {f"file {EXAMPLE}"}


@pytest.mark.parametrize(("file", "environment", "command_line"), list(product([False, True], repeat=3)))
def test_the_strongest_layer_wins_and_is_named(
    tmp_path: Path, file: bool, environment: bool, command_line: bool
) -> None:
    config = write(tmp_path / "c.toml", "[server]\nhttp_port = 9001\n") if file else None
    environ = {"SPARK_SPEECH__SERVER__HTTP_PORT": "9002"} if environment else {}
    overrides = ["server.http_port=9003"] if command_line else []
    expected = (8000, DEFAULT)
    if file:
        expected = (9001, Origin("file", str(config)))
    if environment:
        expected = (9002, Origin("environment", "SPARK_SPEECH__SERVER__HTTP_PORT"))
    if command_line:
        expected = (9003, Origin("command line", "--set server.http_port"))

    resolved = resolve(config, overrides, environ)

    row = next(row for row in resolved.rows() if row.key == "server.http_port")
    assert (resolved.settings.server.http_port, row.value, row.origin) == (expected[0], *expected)
    assert resolved.settings.server.grpc_port == 8001


def test_a_file_in_the_current_folder_is_read(tmp_path: Path) -> None:
    write(tmp_path / "spark-speech.toml", "[client]\nretries = 0\n")
    resolved = resolve(environ=NO_ENVIRONMENT)
    assert resolved.settings.client.retries == 0
    assert resolved.config_file == tmp_path / "spark-speech.toml"


def test_the_process_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARK_SPEECH__BUILD__OFFLINE", "true")
    assert load().build.offline is True


def test_constructing_settings_reads_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARK_SPEECH__BUILD__OFFLINE", "true")
    monkeypatch.setenv("BUILD", '{"offline": true}')
    write(tmp_path / "spark-speech.toml", "[build]\noffline = true\n")
    assert Settings().build.offline is False


def test_settings_are_frozen() -> None:
    settings = load(environ=NO_ENVIRONMENT)
    with pytest.raises(ValidationError, match="frozen"):
        settings.server = settings.server  # type: ignore[misc]
    with pytest.raises(ValidationError, match="frozen"):
        settings.server.http_port = 1  # type: ignore[misc]


def test_model_sources_add_up_over_the_layers(tmp_path: Path) -> None:
    config = write(tmp_path / "c.toml", '[build.models]\nparakeet = "a/b"\n')
    resolved = resolve(
        config,
        ['build.models={whisper = "x"}', "build.models.parakeet=c/d@e"],
        {"SPARK_SPEECH__BUILD__MODELS": '{"diarizer": "f/g"}'},
    )
    assert resolved.settings.build.models == {
        "moonshine": "embedded",
        "diarizer": "f/g",
        "parakeet": "c/d@e",
        "whisper": "x",
    }
    origins = {row.key: str(row.origin) for row in resolved.rows() if row.key.startswith("build.models")}
    assert origins == {
        "build.models.moonshine": "default",
        "build.models.diarizer": "environment SPARK_SPEECH__BUILD__MODELS",
        "build.models.parakeet": "command line --set build.models.parakeet",
        "build.models.whisper": "command line --set build.models",
    }


def test_an_empty_source_leaves_a_model_out() -> None:
    settings = load(overrides=["build.models.moonshine="], environ=NO_ENVIRONMENT)
    assert settings.build.models == {"diarizer": "embedded"}


def test_an_empty_string_unsets_an_optional_key(tmp_path: Path) -> None:
    config = write(tmp_path / "c.toml", '[build]\nhub_endpoint = "https://hub.example"\n')
    assert load(config, environ=NO_ENVIRONMENT).build.hub_endpoint == "https://hub.example"
    assert load(config, ["build.hub_endpoint="], NO_ENVIRONMENT).build.hub_endpoint is None


def test_home_is_expanded_and_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    assert Settings().paths.home.is_absolute()
    assert load(overrides=["paths.home=~/x"], environ={}).paths.home == Path("/home/someone/x")
    assert load(overrides=["paths.home=data"], environ={}).paths.home == tmp_path / "data"


@pytest.mark.parametrize(
    ("override", "key", "reason"),
    [
        ("server.http_port=many", "server.http_port", "valid integer"),
        ("server.http_port=0", "server.http_port", "greater than or equal to 1"),
        ("server.grpc_port=8000", "server", "must differ"),
        ("server.ready_timeout_s=nan", "server.ready_timeout_s", "finite"),
        ("build.device=tpu", "build.device", "'auto', 'cpu' or 'cuda'"),
        ("build.hub_endpoint=hub.example", "build.hub_endpoint", "http"),
        ("client.overlap_s=30", "client", "shorter than window_s"),
        ("paths.home=~no-such-user-here/x", "paths.home", "no home folder"),
    ],
)
def test_a_wrong_value_names_key_source_and_reason(override: str, key: str, reason: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(overrides=[override], environ=NO_ENVIRONMENT)
    message = caught.value.message
    assert f"{key} (command line --set {override.partition('=')[0]}): " in message
    assert reason in message
    assert caught.value.fix


def test_wrong_values_of_all_layers_are_reported_together(tmp_path: Path) -> None:
    config = write(tmp_path / "c.toml", '[audio]\nmax_bytes = "much"\n')
    with pytest.raises(ConfigurationError) as caught:
        load(config, environ={"SPARK_SPEECH__CLIENT__RETRIES": "-1"})
    assert f"audio.max_bytes (file {config})" in caught.value.message
    assert "client.retries (environment SPARK_SPEECH__CLIENT__RETRIES)" in caught.value.message


SECRETS = st.text(st.characters(codec="ascii", categories=("L", "N")), min_size=12, max_size=40)


@given(secret=SECRETS)
def test_a_token_is_readable_but_shown_nowhere(secret: str) -> None:
    resolved = resolve(None, [f"build.hub_token={secret}"], NO_ENVIRONMENT)
    token = resolved.settings.build.hub_token
    assert token is not None
    assert token.get_secret_value() == secret
    shown = [repr(resolved), str(resolved.settings), resolved.settings.model_dump_json()]
    shown += [repr(row) for row in resolved.rows()]
    assert all(secret not in text for text in shown)


@pytest.mark.parametrize(
    "override",
    [
        "build.hub_tokn={}",  # a misspelt key
        "{}",  # no key at all
        "build.hub_token.x={}",
        "build={{hub_token = '{}', offline = 3}}",
        "build={{hub_token = '{}', offline = ",
        "build={{hub_token = ['{}']}}",
        "build.hub_endpoint=https://user:{}@hub.example",
    ],
)
def test_errors_do_not_repeat_what_may_be_a_secret(override: str, caplog: pytest.LogCaptureFixture) -> None:
    secret = "hunter2hunter2"
    with pytest.raises(ConfigurationError) as caught:
        load(overrides=[override.format(secret)], environ=NO_ENVIRONMENT)
    logging.getLogger(__name__).error("failed", exc_info=caught.value.with_traceback(None))
    assert secret not in str(caught.value)
    assert secret not in repr(caught.value.__cause__)
    assert secret not in caplog.text


def test_sections_given_by_callers_are_taken_whole() -> None:
    assert Settings(build=BuildSettings(models={"a": "b"})).build.models == {"a": "b"}


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("streaming.chunk_ms=0", "at least 80"),
        ("streaming.chunk_ms=100", "multiple of 80"),
        ("streaming.left_ms=-80", "greater than or equal"),
        ("streaming.preset=fast", "low_latency"),
        ("streaming.instances=0", "greater than or equal"),
    ],
)
def test_live_streams_that_cannot_be_set_up_are_refused(override: str, reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        load(overrides=[override], environ=NO_ENVIRONMENT)


def test_each_instance_has_a_stream() -> None:
    with pytest.raises(ConfigurationError, match="at least instances"):
        load(overrides=["streaming.max_streams=2", "streaming.instances=3"], environ=NO_ENVIRONMENT)
    assert load(overrides=["streaming.right_ms=0"], environ=NO_ENVIRONMENT).streaming.right_ms == 0


def test_secrets_in_a_table_are_text_and_masked(tmp_path: Path) -> None:
    config = write(tmp_path / "c.toml", '[riva.metadata]\nauthorization = "Bearer abc"\n')
    environ = {"SPARK_SPEECH__RIVA__METADATA__FUNCTION-ID": "f-1"}
    resolved = resolve(config, environ=environ)
    metadata = resolved.settings.riva.metadata
    assert {key: value.get_secret_value() for key, value in metadata.items()} == {
        "authorization": "Bearer abc",
        "function-id": "f-1",
    }
    shown = " ".join(str(row) for row in resolved.rows())
    assert "abc" not in shown
    assert "f-1" not in shown


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ('routing.rules=[{"engines": []}]', "at least 1"),
        ('routing.rules=[{"language": "k n", "engines": ["x"]}]', "language tag"),
        ('routing.rules=[{"engines": ["x"], "min_duration_s": 9, "max_duration_s": 9}]', "more than min"),
        ('routing.rules=[{"engine": "x"}]', "engine"),
        ("routing.longest_open_s=1", "at least open_s"),
        ("routing.detect_threshold=2", "less than or equal to 1"),
        ("routing.costs.sarvam=-1", "greater than or equal to 0"),
        ("sarvam.max_request_s=31", "less than or equal to 30"),
        ("sarvam.url=ftp://x", "address"),
        ("sarvam.url=https://me:secret@x", "address"),
        ("riva.boost=1000", "less than or equal to 100"),
    ],
)
def test_routing_and_engines_outside_that_cannot_be(override: str, reason: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(overrides=[override], environ=NO_ENVIRONMENT)
    assert reason in str(caught.value)
    assert "secret" not in str(caught.value)
