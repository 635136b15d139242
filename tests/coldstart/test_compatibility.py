"""The rules: which code runs on which GPU, under which driver, runtime and environment."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.coldstart.compatibility import Cause, JitPolicy, Outcome, Platform, best_fit, family, fit
from orchestrator.coldstart.fatbin import Entry, Kind
from orchestrator.coldstart.gpu_target import GpuTarget, Variant
from tests.coldstart.fatbins import make_entry

GPUS = [GpuTarget.parse(name) for name in ("75", "80", "86", "89", "90", "100", "103", "110", "120", "121")]

gpus = st.sampled_from(GPUS)
codes = st.builds(
    lambda kind, gpu, letter, bits: make_entry(f"{kind}_{gpu.number}{letter}", bits=bits),
    st.sampled_from(["sm", "compute", "lto"]),
    gpus,
    st.sampled_from(["", "a", "f"]),
    st.sampled_from([64, 64, 64, 32]),
)
switches = st.fixed_dictionaries(
    {},
    optional={
        name: st.sampled_from(["", "0", "1"])
        for name in (
            "CUDA_FORCE_PTX_JIT",
            "CUDA_FORCE_JIT",
            "CUDA_DISABLE_PTX_JIT",
            "CUDA_DISABLE_JIT",
            "CUDA_CACHE_DISABLE",
        )
    },
)


@pytest.mark.parametrize(
    ("code", "gpu", "outcome"),
    [
        # Machine code: the same major, the same or a higher minor.
        ("sm_121", "sm_121", Outcome.NATIVE),
        ("sm_120", "sm_121", Outcome.NATIVE),
        ("sm_121", "sm_120", Outcome.FAILS),
        ("sm_90", "sm_121", Outcome.FAILS),
        ("sm_80", "sm_89", Outcome.NATIVE),
        ("sm_86", "sm_80", Outcome.FAILS),
        ("sm_100", "sm_103", Outcome.NATIVE),
        ("sm_100", "sm_120", Outcome.FAILS),
        # PTX: any GPU of the same or a higher capability.
        ("compute_75", "sm_121", Outcome.JIT),
        ("compute_90", "sm_90", Outcome.JIT),
        ("compute_121", "sm_120", Outcome.FAILS),
        ("compute_90", "sm_89", Outcome.FAILS),
        ("lto_90", "sm_121", Outcome.JIT),
        # a: exactly that GPU.
        ("sm_90a", "sm_90", Outcome.NATIVE),
        ("sm_90a", "sm_121", Outcome.FAILS),
        ("sm_120a", "sm_121", Outcome.FAILS),
        ("sm_121a", "sm_121", Outcome.NATIVE),
        ("compute_90a", "sm_90", Outcome.JIT),
        ("compute_90a", "sm_121", Outcome.FAILS),
        ("compute_120a", "sm_121", Outcome.FAILS),
        # f: the family from that GPU on.
        ("sm_120f", "sm_121", Outcome.NATIVE),
        ("sm_121f", "sm_120", Outcome.FAILS),
        ("sm_100f", "sm_103", Outcome.NATIVE),
        ("sm_103f", "sm_100", Outcome.FAILS),
        ("sm_100f", "sm_110", Outcome.FAILS),
        ("sm_100f", "sm_120", Outcome.FAILS),
        ("compute_120f", "sm_121", Outcome.JIT),
        ("compute_100f", "sm_121", Outcome.FAILS),
    ],
)
def test_targets(code: str, gpu: str, outcome: Outcome) -> None:
    assert fit(make_entry(code), Platform(GpuTarget.parse(gpu))).outcome is outcome


def test_programs_of_32_bit_have_no_code_for_these_gpus() -> None:
    found = fit(make_entry("sm_121", bits=32), Platform(GpuTarget(12, 1)))
    assert (found.outcome, found.cause) == (Outcome.FAILS, Cause.BITS)


@pytest.mark.parametrize(
    ("code", "version", "driver", "runtime", "cause"),
    [
        ("sm_121", (1, 8), (580, 0), None, Cause.MATCHES),
        ("sm_121", (1, 8), None, (12, 8), Cause.FORMAT_OF_RUNTIME),
        ("sm_121", (1, 8), (580, 0), (12, 8), Cause.FORMAT_OF_RUNTIME),
        ("sm_121", (1, 8), None, (13, 0), Cause.MATCHES),
        ("sm_120", (1, 7), None, (12, 8), Cause.MATCHES),
        ("sm_120", (1, 8), (575, 51), None, Cause.FORMAT_OF_DRIVER),
        ("sm_120", (1, 9), (580, 0), None, Cause.FORMAT_OF_DRIVER),
        ("compute_86", (8, 7), (570, 0), None, Cause.MATCHES),
        ("compute_86", (8, 7), (565, 0), None, Cause.PTX_OF_DRIVER),
        ("compute_121", (9, 1), (580, 95), None, Cause.PTX_OF_DRIVER),
        ("compute_121", (9, 1), None, None, Cause.MATCHES),
    ],
)
def test_versions_of_the_driver_and_the_runtime(
    code: str,
    version: tuple[int, int],
    driver: tuple[int, int] | None,
    runtime: tuple[int, int] | None,
    cause: Cause,
) -> None:
    platform = Platform(GpuTarget(12, 1), driver=driver, runtime=runtime)
    found = fit(make_entry(code, version=version), platform)
    assert found.cause is cause
    assert (found.outcome is Outcome.FAILS) == (cause is not Cause.MATCHES)


def test_a_driver_older_than_the_gpu_is_told() -> None:
    assert Platform(GpuTarget(12, 1), driver=(570, 0)).gpu_is_too_new()
    assert not Platform(GpuTarget(12, 1), driver=(580, 0)).gpu_is_too_new()
    assert not Platform(GpuTarget(12, 1)).gpu_is_too_new()


@pytest.mark.parametrize(
    ("environment", "native", "ptx"),
    [
        ({}, Outcome.NATIVE, Outcome.JIT),
        ({"CUDA_FORCE_PTX_JIT": "0"}, Outcome.NATIVE, Outcome.JIT),
        ({"CUDA_FORCE_PTX_JIT": "1"}, Outcome.FAILS, Outcome.JIT),
        ({"CUDA_FORCE_JIT": "1"}, Outcome.FAILS, Outcome.JIT),
        ({"CUDA_FORCE_PTX_JIT": "0", "CUDA_FORCE_JIT": "1"}, Outcome.NATIVE, Outcome.JIT),
        ({"CUDA_DISABLE_PTX_JIT": "1"}, Outcome.NATIVE, Outcome.FAILS),
        ({"CUDA_DISABLE_JIT": "1"}, Outcome.NATIVE, Outcome.FAILS),
    ],
)
def test_switches_of_the_environment(environment: dict[str, str], native: Outcome, ptx: Outcome) -> None:
    platform = Platform(GpuTarget(12, 1), jit=JitPolicy.of(environment))
    assert fit(make_entry("sm_120"), platform).outcome is native
    assert fit(make_entry("compute_90"), platform).outcome is ptx


def test_forced_compilation_is_never_kept() -> None:
    assert JitPolicy.of({}).cached
    assert not JitPolicy.of({"CUDA_FORCE_PTX_JIT": "1"}).cached
    assert not JitPolicy.of({"CUDA_CACHE_DISABLE": "1"}).cached


@given(codes, gpus)
def test_native_code_is_machine_code_of_the_same_major(code: Entry, gpu: GpuTarget) -> None:
    found = fit(code, Platform(gpu))
    if found.outcome is Outcome.NATIVE:
        assert code.kind is Kind.CUBIN
        assert code.target.major == gpu.major
        assert code.target.capability <= gpu.capability
    if found.outcome is Outcome.JIT:
        assert code.kind is not Kind.CUBIN
        assert code.target.capability <= gpu.capability


@given(codes, gpus)
def test_every_piece_of_64_bit_code_runs_on_the_gpu_it_was_compiled_for(code: Entry, gpu: GpuTarget) -> None:
    own = GpuTarget(*code.target.capability)
    assert (fit(code, Platform(own)).outcome is Outcome.FAILS) == (code.bits == 32)
    if code.target.variant is Variant.EXACT and own != gpu:
        assert fit(code, Platform(gpu)).outcome is Outcome.FAILS


@given(st.lists(codes, max_size=6), gpus, switches)
def test_the_driver_uses_the_best_of_a_module(
    entries: list[Entry], gpu: GpuTarget, environment: dict[str, str]
) -> None:
    platform = Platform(gpu, jit=JitPolicy.of(environment))
    found = best_fit(entries, platform)
    outcomes = [fit(entry, platform).outcome for entry in entries]
    if found is None:
        assert entries == []
        return
    best = next(one for one in (Outcome.NATIVE, Outcome.JIT, Outcome.FAILS) if one in outcomes)
    assert found.outcome is best
    assert found.entry in entries
    assert not (platform.jit.forced and found.outcome is Outcome.NATIVE)
    assert not (platform.jit.disabled and found.outcome is Outcome.JIT)


@given(st.lists(codes, min_size=1, max_size=6), gpus)
def test_more_versions_of_a_module_never_make_it_worse(entries: list[Entry], gpu: GpuTarget) -> None:
    platform = Platform(gpu)
    ranks = {Outcome.FAILS: 0, Outcome.JIT: 1, Outcome.NATIVE: 2}
    whole, part = best_fit(entries, platform), best_fit(entries[:-1], platform)
    assert whole is not None
    assert part is None or ranks[whole.outcome] >= ranks[part.outcome]


@given(gpus)
def test_a_gpu_is_of_its_own_family(gpu: GpuTarget) -> None:
    members = family(gpu.capability)
    assert gpu.capability in members
    assert all(family(other) == members for other in members)
