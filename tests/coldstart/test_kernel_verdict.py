"""Verdicts on files, in figures and words; among them what three failed attempts would have been told."""

from __future__ import annotations

import json

import pytest

from orchestrator.coldstart.claims import claim_note
from orchestrator.coldstart.compatibility import JitPolicy, Outcome, Platform
from orchestrator.coldstart.elf import Role
from orchestrator.coldstart.fatbin import Compression, Container, Entry
from orchestrator.coldstart.gpu_target import GpuTarget
from orchestrator.coldstart.kernel_verdict import FileVerdict, Tally, judge
from orchestrator.coldstart.kernels import FileAudit, Module, audit_file
from tests.coldstart.fatbins import BINARIES, make_entry

SPARK = Platform(GpuTarget(12, 1))


def library(*modules: list[Entry], role: Role = Role.REGISTERED, runtime: int | None = None) -> FileAudit:
    made = tuple(Module(role, ".nv_fatbin", Container(0, tuple(entries))) for entries in modules)
    return FileAudit("lib.so", 1000, made, registrations=len(made), runtime=runtime)


def on_spark(audit: FileAudit, **environment: str) -> FileVerdict:
    return judge(audit, Platform(GpuTarget(12, 1), jit=JitPolicy.of(environment)))


def test_machine_code_of_cuda_13_in_a_12_8_runtime_fails_by_its_fat_binary_version() -> None:
    verdict = judge(audit_file(BINARIES / "sm_121.fatbin"), Platform(GpuTarget(12, 1), runtime=(12, 8)))
    assert verdict.outcome is Outcome.FAILS
    assert "fat-binary version 1.8 is that of CUDA 13.0" in verdict.text
    assert "CUDA 12.8 runtime refuses" in verdict.text
    assert "CUDA 13.0 runtime" in verdict.fixes[0]
    assert "sm_120" in verdict.fixes[0]


def test_a_library_says_itself_which_runtime_it_needs() -> None:
    assert on_spark(library([make_entry("sm_121")], runtime=13)).outcome is Outcome.NATIVE
    verdict = on_spark(library([make_entry("sm_121")], runtime=12))
    assert verdict.outcome is Outcome.FAILS
    assert "CUDA 12.x runtime" in verdict.text


def test_machine_code_of_another_major_does_not_match() -> None:
    verdict = judge(audit_file(BINARIES / "sm_90.fatbin"), SPARK)
    assert verdict.outcome is Outcome.FAILS
    assert "sm_90 machine code runs only on GPUs of the same major (9.x)" in verdict.text
    assert verdict.fixes == ("compile it for sm_120 (CMAKE_CUDA_ARCHITECTURES=120)",)


def test_a_claimed_capability_has_no_effect() -> None:
    note = claim_note(GpuTarget(9, 0), SPARK.gpu)
    assert "no effect on which code is loaded" in note
    assert "sm_90" in note
    assert "sm_121" in note


def test_old_ptx_is_compiled_at_first_use() -> None:
    ptx = make_entry("compute_86", version=(8, 7), compression=Compression.LZ4, stored=80, size=6_500_000)
    verdict = on_spark(library([make_entry("sm_80", version=(1, 7)), ptx], [ptx]))
    assert verdict.outcome is Outcome.JIT
    assert verdict.text == (
        "no sm_12x code, compute_86 PTX -> JIT at first use, about 16 s (2 of 2 modules, 13.0 MB)"
    )
    assert verdict.jit_bytes == 13_000_000
    assert verdict.modules == Tally(jit=2)
    assert any("CUDA_CACHE_PATH" in fix for fix in verdict.fixes)


@pytest.mark.parametrize(
    ("environment", "said", "fix"),
    [
        ({"CUDA_FORCE_PTX_JIT": "1"}, "JIT at every start, as CUDA_FORCE_PTX_JIT=1", "CUDA_FORCE_PTX_JIT=0"),
        ({"CUDA_CACHE_DISABLE": "1"}, "JIT at every start, as CUDA_CACHE_DISABLE=1", "CUDA_CACHE_DISABLE=0"),
        ({"CUDA_MODULE_LOADING": "EAGER"}, "JIT at the first start", "CUDA_CACHE_PATH"),
    ],
)
def test_the_environment_decides_when_it_is_compiled(
    environment: dict[str, str], said: str, fix: str
) -> None:
    verdict = on_spark(library([make_entry("compute_90")]), **environment)
    assert verdict.outcome is Outcome.JIT
    assert said in verdict.text
    assert any(fix in one for one in verdict.fixes)


def test_a_kept_cache_needs_no_advice_to_keep_it() -> None:
    verdict = on_spark(library([make_entry("compute_90")]), CUDA_CACHE_PATH="/cache")
    assert not any("CACHE" in fix for fix in verdict.fixes)


def test_forced_compilation_fails_where_there_is_no_ptx() -> None:
    verdict = on_spark(library([make_entry("sm_120")]), CUDA_FORCE_PTX_JIT="1")
    assert verdict.outcome is Outcome.FAILS
    assert "would run, but CUDA_FORCE_PTX_JIT=1 ignores it and there is no PTX" in verdict.text


def test_forbidden_compilation_fails_where_there_is_only_ptx() -> None:
    verdict = on_spark(library([make_entry("compute_90")]), CUDA_DISABLE_PTX_JIT="1")
    assert verdict.outcome is Outcome.FAILS
    assert "CUDA_DISABLE_PTX_JIT=1 forbids" in verdict.text


def test_ptx_newer_than_the_driver_is_told_with_the_driver_to_use() -> None:
    ptx = make_entry("compute_121", version=(9, 1))
    verdict = judge(library([ptx]), Platform(GpuTarget(12, 1), driver=(580, 95)))
    assert verdict.outcome is Outcome.FAILS
    assert "version 9.1, newer than driver 580 (CUDA 13.0) compiles" in verdict.text
    assert verdict.fixes == ("use driver 590 or newer",)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("sm_120a", "for exactly that GPU (the letter a)"),
        ("sm_100f", "GPUs of that family"),
        ("compute_121f", None),
    ],
)
def test_letters_are_explained(code: str, said: str | None) -> None:
    verdict = on_spark(library([make_entry(code)]))
    assert (verdict.outcome is Outcome.FAILS) == (said is not None)
    assert said is None or said in verdict.text


def test_machine_code_of_the_major_that_does_not_fit_is_not_denied() -> None:
    verdict = on_spark(library([make_entry("sm_120a"), make_entry("compute_90")]))
    assert verdict.text.startswith("no machine code that runs on sm_121, compute_90 PTX")


def test_modules_for_other_gpus_are_counted_and_do_no_harm() -> None:
    verdict = on_spark(library([make_entry("sm_120")], [make_entry("sm_90a")]))
    assert verdict.outcome is Outcome.NATIVE
    assert verdict.modules == Tally(native=1, fails=1)
    assert "1 of 2 modules hold nothing for sm_121" in verdict.text


def test_a_library_that_keeps_its_code_as_data_is_judged_by_that() -> None:
    modules = [make_entry("sm_120")], [make_entry("compute_75")], [make_entry("sm_90a")]
    verdict = on_spark(library(*modules, role=Role.EMBEDDED))
    assert verdict.outcome is Outcome.NATIVE
    assert verdict.embedded == Tally(1, 1, 1)
    assert verdict.jit_bytes == 0
    assert "1 run natively on sm_121, 1 are compiled first, 1 are for other GPUs" in verdict.text
    alone = on_spark(library([make_entry("sm_90a")], role=Role.EMBEDDED))
    assert alone.outcome is Outcome.FAILS


def test_linked_code_falls_back_to_the_inputs_of_its_link() -> None:
    audit = audit_file(BINARIES / "linked.so")
    assert judge(audit, Platform(GpuTarget(9, 0))).outcome is Outcome.NATIVE
    verdict = judge(audit, SPARK)
    assert verdict.outcome is Outcome.JIT
    assert verdict.modules == Tally(jit=1)


def test_inputs_of_a_link_that_was_not_made_are_told() -> None:
    verdict = judge(audit_file(BINARIES / "unlinked.so"), SPARK)
    assert verdict.outcome is Outcome.JIT
    assert "a device link that was not made" in verdict.text


def test_the_listing_names_all_that_is_there() -> None:
    verdict = judge(audit_file(BINARIES / "two_modules.so"), SPARK)
    listed = [(line.kind, line.target, line.compression, line.count) for line in verdict.targets]
    assert listed == [("ptx", "compute_120", "zstd", 2), ("cubin", "sm_120", "none", 2)]
    assert all(line.stored_bytes > 0 for line in verdict.targets)
    json.dumps(verdict.to_dict())


def test_nothing_to_judge_is_no_verdict() -> None:
    assert on_spark(FileAudit("empty", 10)).outcome is None
