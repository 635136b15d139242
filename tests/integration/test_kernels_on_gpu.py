"""The audit's verdicts against what a GPU and its driver did: the proof of the rules.

The truth comes from `kernels_on_gpu.py`: recorded now where there is a GPU, from the folder that
SPARK_SPEECH_KERNEL_TRUTH names, and from recordings in ``tests/coldstart/truth``. What ran, what was compiled
and what was refused must be the verdict, for each binary under each environment::

    pytest tests/integration/test_kernels_on_gpu.py -rA -s
"""

from __future__ import annotations

import functools
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest

from orchestrator.coldstart.compatibility import JitPolicy, Outcome, Platform
from orchestrator.coldstart.cuda_versions import driver_of_cuda
from orchestrator.coldstart.gpu_target import GpuTarget, parse_version
from orchestrator.coldstart.kernel_verdict import FileVerdict, judge
from orchestrator.coldstart.kernels import audit_file
from tests.coldstart.fatbins import BINARIES
from tests.integration.kernels_on_gpu import ENVIRONMENTS, loaded, record

RECORDINGS = Path(__file__).parents[1] / "coldstart" / "truth"
pytestmark = pytest.mark.integration


@functools.cache
def has_gpu() -> bool:
    """Whether this machine has a GPU and a driver."""
    with tempfile.TemporaryDirectory() as scratch:
        return loaded([], {}, Path(scratch))[0]["gpu"] is not None


def files() -> list[Path]:
    """Every truth.json there is without recording one."""
    given = os.environ.get("SPARK_SPEECH_KERNEL_TRUTH")
    return [*([Path(given) / "truth.json"] if given else []), *sorted(RECORDINGS.glob("*.json"))]


@pytest.fixture(
    scope="module", params=[*files(), None], ids=lambda file: "now" if file is None else file.stem
)
def truth(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What was recorded, or is now."""
    file: Path | None = request.param
    if file is None:
        if not has_gpu():
            pytest.skip("needs a GPU and its driver")
        file = tmp_path_factory.mktemp("truth") / "truth.json"
        assert record(file.parent) == 0
    data: dict[str, Any] = json.loads(file.read_text())
    return {**data, "folder": file.parent}


def verdict_on(path: Path, truth: dict[str, Any], switches: dict[str, str]) -> FileVerdict:
    """What the audit says of a file on the GPU that the truth is about."""
    about = truth["about"]
    branch = driver_of_cuda(parse_version(about["cuda"], "CUDA"))
    platform = Platform(
        GpuTarget.parse(about["capability"]),
        driver=None if branch is None else (branch, 0),
        jit=JitPolicy.of(switches),
    )
    return judge(audit_file(path), platform)


def disagreements(rows: list[dict[str, Any]], folder: Path, truth: dict[str, Any]) -> list[str]:
    """Rows whose verdict is not what happened."""
    found = []
    for row in rows:
        verdict = verdict_on(folder / row["path"], truth, ENVIRONMENTS[row["environment"]])
        happened = "ran" if row["ran"] else f"failed ({row['error']})"
        happened += ", compiled" if row["compiled"] else ""
        line = f"{row['path']} {row['environment']}: {happened}; verdict {verdict.outcome}: {verdict.text}"
        print(line)
        wrong = row["ran"] != (verdict.outcome is not Outcome.FAILS)
        if row["environment"] != "forced" and row["ran"]:  # where it need not keep what it compiles
            wrong |= row["compiled"] != (verdict.outcome is Outcome.JIT)
        if wrong:
            found.append(line)
    return found


def test_the_driver_does_what_the_verdicts_say(truth: dict[str, Any]) -> None:
    assert disagreements(truth["binaries"], BINARIES, truth) == []
    outcomes = {(row["ran"], row["compiled"]) for row in truth["binaries"]}
    assert {(True, False), (True, True), (False, False)} <= outcomes


def test_programs_with_registered_code_do_what_the_verdicts_say(truth: dict[str, Any]) -> None:
    rows = [row for row in truth["programs"] if (truth["folder"] / row["path"]).exists()]
    if not rows:
        pytest.skip("recorded without nvcc, or without its programs")
    assert disagreements(rows, truth["folder"], truth) == []


def test_the_cache_saves_the_cold_start_and_force_loses_it_again(truth: dict[str, Any]) -> None:
    times = {row["state"]: row["load_s"] for row in truth["cold_start"]}
    if not times:
        pytest.skip("recorded without nvcc")
    assert all(row["ran"] for row in truth["cold_start"])
    print(times)
    assert times["warm"] < times["cold"] / 5
    assert times["forced"] > times["cold"] / 3


def test_the_estimate_is_of_the_right_size(truth: dict[str, Any]) -> None:
    times = {row["state"]: row["load_s"] for row in truth["cold_start"]}
    image = truth["folder"] / "programs" / "many.fatbin"
    if not times or not image.exists():
        pytest.skip("recorded without nvcc, or without its programs")
    verdict = verdict_on(image, truth, {})
    print(f"estimated {verdict.jit_s:.1f} s, took {times['cold']:.1f} s")
    # An order of magnitude off would mislead.
    assert times["cold"] / 10 < verdict.jit_s < times["cold"] * 10
