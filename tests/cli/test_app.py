from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import typer

import orchestrator
from orchestrator.cli import app as app_module
from orchestrator.cli.app import VERBS, build_app, main
from orchestrator.cli.common import JsonFlag, settings_of, wants_json
from orchestrator.errors import ConfigurationError, ModelNotFoundError

Install = Callable[[Callable[[], None]], None]


@pytest.fixture(autouse=True)
def _own_process_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    logger = logging.getLogger("orchestrator")
    handlers, level = logger.handlers[:], logger.level
    yield
    logger.handlers[:] = handlers
    logger.setLevel(level)


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Make the command's only verb, ``work``, do what the test says."""

    def make(action: Callable[[], None]) -> None:
        def work(ctx: typer.Context, as_json: JsonFlag = False) -> None:
            settings_of(ctx)
            action()

        def register(app: typer.Typer) -> None:
            app.command("work")(work)
            app.command("other")(work)

        module = ModuleType("orchestrator.cli.work")
        module.register = register  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "orchestrator.cli.work", module)
        monkeypatch.setattr(app_module, "VERBS", ("work",))

    return make


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert isinstance(caught.value.code, int)
    return caught.value.code


def raising(error: BaseException) -> Callable[[], None]:
    def action() -> None:
        raise error

    return action


def test_success_is_zero(install: Install) -> None:
    install(lambda: None)
    assert run("work") == 0


def test_an_error_is_two_lines_on_standard_error(
    install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    install(raising(ModelNotFoundError("no such model here", fix="build it.", host="spark:8001", model="x")))
    assert run("work") == 1
    printed = capsys.readouterr()
    assert printed.err.splitlines() == [
        "Error: no such model here (host: spark:8001, model: x)",
        "Fix: build it.",
    ]
    assert printed.out == ""


def test_with_json_an_error_is_also_an_object_on_standard_output(
    install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    error = ConfigurationError("bad [red]value[/]", fix="correct it.")
    install(raising(error))
    assert run("work", "--json") == 2
    printed = capsys.readouterr()
    assert json.loads(printed.out) == error.to_dict()
    assert printed.err.startswith("Error: bad [red]value[/]\n")


def test_settings_errors_are_reported_the_same_way(
    install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    install(lambda: None)
    assert run("--set", "server.prot=1", "work", "--json") == 2
    assert json.loads(capsys.readouterr().out)["error"] == "ConfigurationError"


def test_help_of_a_verb_needs_no_sound_settings(install: Install, tmp_path: Path) -> None:
    install(lambda: None)
    (tmp_path / "spark-speech.toml").write_text("nonsense", encoding="utf-8")
    assert run("work", "--help") == 0
    assert run("work") == 2


def test_wrong_usage(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    install(lambda: None)
    assert run("wrok") == 2
    assert "No such command 'wrok'" in capsys.readouterr().err
    assert run("work", "--nope", "--json") == 2
    assert json.loads(capsys.readouterr().out)["error"] == "UsageError"


def test_a_verb_chooses_its_own_exit_code(install: Install) -> None:
    install(raising(typer.Exit(2)))
    assert run("work") == 2
    assert run("work", "--json") == 2


@pytest.mark.parametrize("arguments", [("work",), ("work", "--json")])
def test_an_interruption_is_130_and_one_short_line(
    install: Install, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    install(raising(KeyboardInterrupt()))
    assert run(*arguments) == 130
    printed = capsys.readouterr()
    assert printed.err == "Interrupted.\n"
    assert printed.out == ""


@pytest.mark.parametrize("verbose", [False, True])
def test_a_fault_of_the_program_shows_its_traceback_only_when_asked(
    install: Install, capsys: pytest.CaptureFixture[str], verbose: bool
) -> None:
    install(raising(ZeroDivisionError("oops")))
    with pytest.raises(ZeroDivisionError) as caught:
        main(["-v", "work"] if verbose else ["work"])
    sys.excepthook(caught.type, caught.value, caught.tb)
    printed = capsys.readouterr().err
    assert "ZeroDivisionError: oops" in printed
    assert ("Traceback" in printed) == verbose


def test_a_reader_that_went_away_is_no_traceback(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "orchestrator.cli", "config", "show", "--json"],
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
        )
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out == f"spark-speech {orchestrator.__version__}\n"


def test_help_lists_every_verb_and_loads_nothing_heavy(tmp_path: Path) -> None:
    code = """
import sys
from orchestrator.cli import main
try:
    main(["--help"])
except SystemExit:
    print("LOADED", *{name.partition(".")[0] for name in sys.modules})
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    for verb in VERBS:
        assert f" {verb} " in done.stdout
    loaded = set(done.stdout.rpartition("LOADED")[2].split())
    assert loaded.isdisjoint({"torch", "nemo", "grpc", "tritonclient", "pyannote"})


def test_shell_completion_offers_verbs_and_keys(tmp_path: Path) -> None:
    def complete(line: str) -> str:
        environment = os.environ | {
            "_SPARK_SPEECH_COMPLETE": "complete_bash",
            "COMP_WORDS": line,
            "COMP_CWORD": str(len(line.split(" ")) - 1),
        }
        done = subprocess.run(
            [sys.executable, "-c", "from orchestrator.cli import main; main()"],
            env=environment,
            capture_output=True,
            text=True,
            cwd=tmp_path,
        )
        return done.stdout

    assert complete("spark-speech conf").split() == ["config"]
    assert complete("spark-speech --set server.http").split() == ["server.http_port="]


def test_verbosity_sets_the_log_level() -> None:
    for flags, level in (([], logging.WARNING), (["-v"], logging.INFO), (["-vv"], logging.DEBUG)):
        assert run(*flags, "config", "path") == 0
        assert logging.getLogger("orchestrator").level == level


def test_json_is_looked_for_before_a_double_dash_only() -> None:
    assert wants_json(["work", "--json"])
    assert not wants_json(["work", "--", "--json"])


def test_verbs_have_distinct_names() -> None:
    app = build_app()
    registered = [command.name for command in app.registered_commands]
    registered += [group.name for group in app.registered_groups]
    assert len(registered) == len(set(registered))


def test_prewarming_cannot_be_strict_about_what_it_does_not_measure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SPARK_SPEECH_PREWARM_MEASURE", "0")
    assert run("prewarm", "--strict", "--url", "127.0.0.1:1") == 2
    assert "it needs measurements" in capsys.readouterr().err
