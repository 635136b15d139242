"""``spark-speech doctor kernels`` as people and programs call it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli.app import main
from tests.coldstart.fatbins import BINARIES


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "kernels", *arguments])
    assert isinstance(ended.value.code, int)
    return ended.value.code


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    code = run(*arguments, "--json")
    data: dict[str, Any] = json.loads(capsys.readouterr().out)
    return code, data


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("SPARK_SPEECH__PATHS__HOME", str(tmp_path / "home"))
    for name in ("CUDA_FORCE_PTX_JIT", "CUDA_DISABLE_PTX_JIT", "CUDA_CACHE_DISABLE", "LD_PRELOAD"):
        monkeypatch.delenv(name, raising=False)


def test_native_code_is_fine(capsys: pytest.CaptureFixture[str]) -> None:
    code, data = answer(capsys, str(BINARIES / "sm_120.fatbin"))
    assert code == 0
    assert data["runs"]
    assert data["compiles_nothing"]
    assert data["files"][0]["targets"][0]["target"] == "sm_120"


def test_ptx_is_a_failure_only_where_asked(capsys: pytest.CaptureFixture[str]) -> None:
    path = str(BINARIES / "compute_86.fatbin")
    assert answer(capsys, path)[0] == 0
    assert answer(capsys, path, "--strict")[0] == 1


def test_what_fails_ends_with_one(capsys: pytest.CaptureFixture[str]) -> None:
    code, data = answer(capsys, str(BINARIES / "sm_90.fatbin"))
    assert (code, data["runs"]) == (1, False)
    assert answer(capsys, str(BINARIES / "sm_90.fatbin"), "--target", "sm_90")[0] == 0


def test_the_three_failed_attempts_are_explained(capsys: pytest.CaptureFixture[str]) -> None:
    _, newer = answer(capsys, str(BINARIES / "sm_121.fatbin"), "--runtime", "12.8")
    assert "fat-binary version 1.8" in newer["files"][0]["text"]
    _, foreign = answer(capsys, str(BINARIES / "sm_90.fatbin"))
    assert "same major (9.x)" in foreign["files"][0]["text"]
    code, spoofed = answer(capsys, str(BINARIES / "sm_90.fatbin"), "--claimed", "sm_90")
    assert code == 1
    assert "no effect on which code is loaded" in spoofed["notes"][0]
    assert spoofed["files"] == foreign["files"]


def test_variables_are_given_or_taken(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(BINARIES / "sm_120.fatbin")
    assert answer(capsys, path, "--env", "CUDA_FORCE_PTX_JIT=1")[0] == 1
    monkeypatch.setenv("CUDA_FORCE_PTX_JIT", "1")
    assert answer(capsys, path)[0] == 1
    assert answer(capsys, path, "--env", "CUDA_FORCE_PTX_JIT=0")[0] == 0


def test_people_read_what_to_do(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for name in ("sm_90", "sm_120", "compute_86"):
        shutil.copy(BINARIES / f"{name}.fatbin", tmp_path)
    (tmp_path / "torn.so").write_bytes((BINARIES / "linked.so").read_bytes()[:9000])
    assert run(str(tmp_path)) == 1
    shown = capsys.readouterr().out
    assert "no sm_12x code, compute_86 PTX -> JIT at first use, under 1 s" in shown
    assert "Fix: compile it for sm_120" in shown
    assert "sm_121: 1 files native, 1 with code to compile first" in shown
    assert "damaged ELF file" in shown
    assert "sm_120.fatbin" not in shown
    run(str(tmp_path), "--all")
    assert "sm_120.fatbin" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--running"], 1, "is running"),
        (["--running", "--pid", "1"], 2, "exclude each other"),
        (["--pid", "4194305"], 1, "no process"),
        ([".", "--target", "hopper"], 2, "no GPU target"),
        ([".", "--driver", "new"], 2, "no version"),
        ([".", "--env", "A"], 2, "NAME=VALUE"),
    ],
)
def test_mistakes_are_told(
    arguments: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ended, data = answer(capsys, *arguments)
    assert ended == code
    assert said in data["message"]
    assert data["fix"]


def test_plain_doctor_still_examines_the_machine(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["doctor", "--json"])
    assert "checks" in json.loads(capsys.readouterr().out)
