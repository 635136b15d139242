from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel
from pydantic_settings import BaseSettings

from orchestrator.errors import ConfigurationError
from orchestrator.settings import Settings
from orchestrator.settings_sources import (
    CommandLineSource,
    EnvironmentSource,
    TomlFileSource,
    known_keys,
    leaves,
    nearest_key,
)


class Inner(BaseModel):
    number: int = 1
    maybe: float | None = None
    names: tuple[str, ...] = ()
    table: dict[str, int] = {}


class Outer(BaseSettings):
    section: Inner = Inner()


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("server.http_prot", "server.http_port"),
        ("server.prot", "server.http_port"),
        ("sever.host", "server.host"),
        ("client.timeout", "client.timeout_s"),
        ("build.modles.parakeet", "build.models"),
        ("zzz", None),
    ],
)
def test_an_unknown_key_names_its_nearest_neighbour(key: str, nearest: str | None) -> None:
    assert nearest_key(key, Settings) == nearest
    with pytest.raises(ConfigurationError) as caught:
        CommandLineSource(Settings, [f"{key}=1"])
    assert caught.value.message == f"unknown setting {key} (command line --set {key})"
    assert caught.value.fix is not None
    assert ("did you mean" in caught.value.fix) == (nearest is not None)
    assert nearest is None or f"did you mean {nearest}?" in caught.value.fix


@pytest.mark.parametrize("text", ["[sever]\nhost = 'x'\n", "[server]\nhosts = 'x'\n", "host = 'x'\n"])
def test_an_unknown_key_in_a_file_names_the_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "c.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigurationError, match=f"unknown setting .*file {path}"):
        TomlFileSource(Settings, path)


@pytest.mark.parametrize("name", ["SPARK_SPEECH__SERVER__HOSTS", "SPARK_SPEECH__", "SPARK_SPEECH__HOST"])
def test_an_unknown_variable_is_named(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"environment {name}\\)"):
        EnvironmentSource(Settings, {name: "x"})


def test_other_variables_are_left_alone() -> None:
    source = EnvironmentSource(Settings, {"SPARK_SPEECH_HOME": "x", "SERVER": "{}", "PATH": "/bin"})
    assert source() == {}
    assert source.origins == {}


def test_a_syntax_error_names_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text("[server]\nhost = 'x'\nhttp_port = = 3\n", encoding="utf-8")
    with pytest.raises(ConfigurationError, match=r"c\.toml is not valid TOML: .*line 3") as caught:
        TomlFileSource(Settings, path)
    assert caught.value.path == str(path)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no settings file"):
        TomlFileSource(Settings, tmp_path / "none.toml")
    with pytest.raises(ConfigurationError, match="cannot read"):
        TomlFileSource(Settings, tmp_path)
    latin = tmp_path / "latin.toml"
    latin.write_bytes(b"[paths]\nhome = '/caf\xe9'\n")
    with pytest.raises(ConfigurationError, match="not UTF-8"):
        TomlFileSource(Settings, latin)


def test_a_section_is_not_a_value() -> None:
    with pytest.raises(ConfigurationError, match=r"server .* is a table of keys"):
        CommandLineSource(Settings, ["server=3"])


def test_containers_are_read_as_literals() -> None:
    environ = {
        "SPARK_SPEECH__SECTION__NAMES": '["a", "b"]',
        "SPARK_SPEECH__SECTION__TABLE": '{"a": 1}',
        "SPARK_SPEECH__SECTION__TABLE__B": "2",
        "SPARK_SPEECH__SECTION__MAYBE": "",
    }
    assert EnvironmentSource(Outer, environ)() == {
        "section": {"names": ["a", "b"], "table": {"a": 1, "b": 2}, "maybe": None}
    }
    whole = CommandLineSource(Outer, ["section={number = 3, table = {c = 4}}", "section.number=5"])
    assert whole() == {"section": {"number": "5", "table": {"c": 4}}}
    assert str(whole.origins["section.table.c"]) == "command line --set section"
    assert str(whole.origins["section.number"]) == "command line --set section.number"


@pytest.mark.parametrize("value", ["{a = ", "[[[[", "9" * 5000, "[" * 100_000])
def test_a_literal_that_cannot_be_read_names_its_key(value: str) -> None:
    with pytest.raises(ConfigurationError, match=r"section\.table \(command line --set section\.table\)"):
        CommandLineSource(Outer, [f"section.table={value}"])


@given(st.text(max_size=40))
def test_no_override_fails_with_anything_but_a_configuration_error(text: str) -> None:
    for override in (text, f"server.{text}", f"build.models={text}", f"build.models.{text}"):
        with suppress(ConfigurationError):
            CommandLineSource(Settings, [override])


def test_keys_and_leaves() -> None:
    assert list(known_keys(Outer)) == [
        "section.number",
        "section.maybe",
        "section.names",
        "section.table",
    ]
    assert dict(leaves({"a": {"b": 1, "c": {}}, "d": [2]})) == {"a.b": 1, "a.c": {}, "d": [2]}
