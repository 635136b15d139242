"""Names and versions of GPU targets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.coldstart import cuda_versions as cuda
from orchestrator.coldstart.gpu_target import GpuTarget, Variant, parse_version
from orchestrator.errors import ConfigurationError


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("sm_121", GpuTarget(12, 1)),
        ("SM_90a", GpuTarget(9, 0, Variant.EXACT)),
        ("compute_120f", GpuTarget(12, 0, Variant.FAMILY)),
        ("12.1", GpuTarget(12, 1)),
        ("86", GpuTarget(8, 6)),
    ],
)
def test_targets_have_several_spellings(text: str, target: GpuTarget) -> None:
    assert GpuTarget.parse(text) == target


@pytest.mark.parametrize("text", ["", "sm_", "sm_1", "sm_1210", "blackwell", "sm_90b", "sm_٩٠"])
def test_what_is_no_target_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="no GPU target"):
        GpuTarget.parse(text)


@given(st.integers(1, 99), st.integers(0, 9), st.sampled_from(list(Variant)))
def test_a_target_reads_back_what_it_prints(major: int, minor: int, variant: Variant) -> None:
    target = GpuTarget(major, minor, variant)
    assert GpuTarget.parse(str(target)) == target


def test_versions() -> None:
    assert parse_version("12.8", "CUDA") == (12, 8)
    assert parse_version("580.95.05", "a driver") == (580, 95)
    assert parse_version("580", "a driver") == (580, 0)
    with pytest.raises(ConfigurationError, match="no version of a driver"):
        parse_version("latest", "a driver")


def test_releases_and_drivers_belong_together() -> None:
    assert cuda.cuda_of_driver((580, 95)) == (13, 0)
    assert cuda.cuda_of_driver((570, 124)) == (12, 8)
    assert cuda.driver_of_cuda((13, 0)) == 580
    assert cuda.driver_of_cuda((99, 0)) is None
    assert cuda.cuda_of_ptx((8, 7)) == (12, 8)
    assert cuda.cuda_of_ptx((9, 0)) == (13, 0)
    assert cuda.cuda_of_ptx((99, 0)) is None
    assert cuda.cuda_of_gpu((12, 1)) == (12, 9)


@given(st.integers(390, 700), st.integers(390, 700))
def test_newer_drivers_know_no_less(one: int, other: int) -> None:
    older, newer = sorted((one, other))
    assert cuda.cuda_of_driver((older, 0)) <= cuda.cuda_of_driver((newer, 0))
