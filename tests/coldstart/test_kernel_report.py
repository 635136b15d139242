"""The audit of many files: the same however it is read, in an order that helps, and JSON-ready."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from orchestrator.coldstart import kernel_sources
from orchestrator.coldstart.compatibility import JitPolicy, Outcome, Platform
from orchestrator.coldstart.driver import installed_driver
from orchestrator.coldstart.gpu_target import GpuTarget
from orchestrator.coldstart.kernel_report import audit, environment_notes, platform_notes
from tests.coldstart.fatbins import BINARIES

SPARK = Platform(GpuTarget(12, 1))


def test_what_fails_comes_first_then_what_is_compiled() -> None:
    report = audit("folder", kernel_sources.of_path(BINARIES), SPARK)
    outcomes = [verdict.outcome for verdict in report.files]
    order = [Outcome.FAILS, Outcome.JIT, Outcome.NATIVE]
    assert outcomes == sorted(outcomes, key=lambda one: order.index(one) if one else 9)
    assert not report.runs
    assert not report.compiles_nothing
    data = json.loads(json.dumps(report.to_dict()))
    assert data["target"] == "sm_121"
    assert sum(data["counts"].values()) == len(data["files"]) == report.read
    assert {file["outcome"] for file in data["files"]} == {"native", "jit", "fails"}


def test_only_native_code_compiles_nothing(tmp_path: Path) -> None:
    shutil.copy(BINARIES / "sm_120.fatbin", tmp_path)
    report = audit("folder", kernel_sources.of_path(tmp_path), SPARK)
    assert report.runs
    assert report.compiles_nothing
    assert report.jit_s == 0


def test_a_driver_that_does_not_know_the_gpu_runs_nothing(tmp_path: Path) -> None:
    shutil.copy(BINARIES / "sm_120.fatbin", tmp_path)
    old = Platform(GpuTarget(12, 1), driver=(570, 0))
    assert not audit("folder", kernel_sources.of_path(tmp_path), old).runs
    (note,) = platform_notes(old)
    assert "driver 570 does not know sm_121" in note
    assert "575" in note
    assert platform_notes(SPARK) == []


def test_a_file_that_vanishes_meanwhile_is_a_problem(tmp_path: Path) -> None:
    path = tmp_path / "gone.so"
    shutil.copy(BINARIES / "linked.so", path)
    found = kernel_sources.of_path(tmp_path)
    path.unlink()
    (verdict,) = audit("folder", found, SPARK).files
    assert verdict.outcome is None
    assert verdict.problems == ("cannot be read: No such file or directory",)


def test_the_environment_is_told_what_it_does() -> None:
    notes = environment_notes({"CUDA_FORCE_PTX_JIT": "1", "CUDA_DISABLE_PTX_JIT": "1"})
    assert any("CUDA_FORCE_PTX_JIT is on" in note for note in notes)
    assert any("CUDA_DISABLE_PTX_JIT is on" in note for note in notes)
    assert JitPolicy.of({"CUDA_FORCE_PTX_JIT": "1"}).forced


def test_the_driver_is_read_from_the_kernel_module(tmp_path: Path) -> None:
    file = tmp_path / "version"
    file.write_text(
        "NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  580.95.05  Release Build  (x@y)\n"
        "GCC version:  gcc version 13.3.0\n"
    )
    assert installed_driver(file) == (580, 95)
    assert installed_driver(tmp_path / "nothing") is None
    file.write_text("something else")
    assert installed_driver(file) is None
