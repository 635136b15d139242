"""The audit of real libraries: against NVIDIA's own lister, and as fast as it must be."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from orchestrator.coldstart import kernel_sources
from orchestrator.coldstart.compatibility import Outcome, Platform
from orchestrator.coldstart.elf import Role
from orchestrator.coldstart.fatbin import Kind
from orchestrator.coldstart.gpu_target import GpuTarget, Variant
from orchestrator.coldstart.kernel_report import audit
from orchestrator.coldstart.kernels import audit_file
from tests.coldstart.fatbins import BINARIES, EXPECTED
from tests.integration.kernels_on_gpu import ROOT

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

SPARK = Platform(GpuTarget(12, 1))
PACKAGES = Path(importlib.util.find_spec("numpy").origin).parents[1]  # type: ignore[union-attr,arg-type]
_KINDS = {"elf": Kind.CUBIN, "ptx": Kind.PTX, "nvvm": Kind.LTO_IR}
_ENTRY = re.compile(
    r"Fatbin (elf|ptx|nvvm) code:\n=+\narch = sm_(\d+)(a?)f?\ncode version = \[(\d+),(\d+)\]\n"
    r"host = linux\ncompile_size = (\d+)bit\n(compressed)?"
)
Line = tuple[Kind, int, bool, tuple[int, int], int, bool]


def cuobjdump() -> str | None:
    """NVIDIA's lister: on PATH, or in the wheel of the Triton compiler."""
    spec = importlib.util.find_spec("triton")
    inside = None if spec is None or spec.origin is None else Path(spec.origin).parent
    packed = None if inside is None else inside / "backends" / "nvidia" / "bin" / "cuobjdump"
    return shutil.which("cuobjdump") or (str(packed) if packed is not None and packed.exists() else None)


def theirs(path: Path) -> Counter[Line]:
    lister = cuobjdump()
    assert lister is not None
    done = subprocess.run([lister, str(path)], capture_output=True, text=True, timeout=300, check=True)
    text = re.sub(r"\n\n+", "\n", done.stdout)
    return Counter(
        (_KINDS[kind], int(number), bool(exact), (int(major), int(minor)), int(bits), bool(packed))
        for kind, number, exact, major, minor, bits, packed in _ENTRY.findall(text)
    )


def ours(path: Path) -> Counter[Line]:
    """What the lister shows by default: what a program registers."""
    return Counter(
        (
            entry.kind,
            entry.target.major * 10 + entry.target.minor,
            entry.target.variant is Variant.EXACT,
            entry.version,
            entry.bits,
            str(entry.compression) != "none",
        )
        for module in audit_file(path).modules
        if module.role in (Role.REGISTERED, Role.FILE)
        for entry in module.container.entries
    )


def installed() -> list[Path]:
    """Real libraries with GPU code, of several compilers and compressions."""
    patterns = (
        "ctranslate2.libs/libctranslate2*",
        "torchaudio/lib/libtorchaudio*.so",
        "torch/lib/libtorch_cuda_linalg.so",
        "nvidia/cudnn/lib/libcudnn_cnn.so.9",
        "nvidia/cu13/lib/libcublas.so.13",
        "nvidia/nccl/lib/libnccl.so.2",
    )
    return sorted(path for pattern in patterns for path in PACKAGES.glob(pattern))


@pytest.mark.skipif(cuobjdump() is None, reason="needs cuobjdump: on PATH, or in the wheel of Triton")
@pytest.mark.parametrize(
    "path",
    [
        *(
            BINARIES / name
            for name in sorted(EXPECTED)
            if name.endswith((".fatbin", ".so")) and name != "unlinked.so"
        ),
        *installed(),
    ],
    ids=lambda path: path.name,
)
def test_the_listing_is_that_of_cuobjdump(path: Path) -> None:
    listed = ours(path)
    assert listed == theirs(path)
    assert listed


def test_this_environment_is_read_whole_by_two_processes_as_by_one(tmp_path: Path) -> None:
    for number in range(4):
        shutil.copytree(BINARIES, tmp_path / str(number))
    found = kernel_sources.of_path(tmp_path)
    alone, together = audit("folder", found, SPARK, workers=1), audit("folder", found, SPARK, workers=2)
    assert together.files == alone.files
    assert (together.read, together.read_bytes) == (alone.read, alone.read_bytes)


def test_torch_runs_natively_on_a_spark() -> None:
    """The wheels of torch for CUDA 13 carry sm_120, which a 12.1 GPU runs: nothing of its own is compiled."""
    libraries = PACKAGES / "torch" / "lib"
    if not (libraries / "libtorch_cuda.so").exists():
        pytest.skip("this torch has no CUDA")
    report = audit("torch", kernel_sources.of_path(libraries), SPARK)
    by_name = {Path(verdict.path).name: verdict for verdict in report.files}
    assert by_name["libtorch_cuda.so"].outcome is Outcome.NATIVE
    assert by_name["libtorch_cuda.so"].modules.fails == 0
    assert report.compiles_nothing


def test_an_environment_of_gigabytes_is_audited_without_problems() -> None:
    report = audit("environment", kernel_sources.of_path(PACKAGES), SPARK)
    print(f"{report.read} files, {report.read_bytes / 1e9:.1f} GB in {report.seconds:.1f} s")
    assert report.problems == ()
    assert [verdict.problems for verdict in report.files if verdict.problems] == []


FAKE_DRIVER = """
#include <stdlib.h>
#include <string.h>
typedef unsigned long long u64;
static float memory[32]; static int held;
int cuInit(unsigned f) { return 0; }
int cuDeviceGet(int *d, int n) { *d = 0; return 0; }
int cuDevicePrimaryCtxRetain(void **c, int d) { *c = &held; return 0; }
int cuCtxSetCurrent(void *c) { return 0; }
int cuDriverGetVersion(int *v) { *v = 13000; return 0; }
int cuDeviceGetName(char *n, int l, int d) { strcpy(n, "pretended"); return 0; }
int cuDeviceGetAttribute(int *v, int a, int d) { *v = a == 75 ? 12 : 1; return 0; }
int cuGetErrorName(int c, const char **t) { *t = "CUDA_ERROR_NO_BINARY_FOR_GPU"; return 0; }
int cuModuleLoadData(void **m, const void *i) { *m = &held; return getenv("REFUSES") ? 209 : 0; }
int cuModuleGetFunction(void **f, void *m, const char *n) { *f = &held; return strcmp(n, "scale") != 0; }
int cuMemAlloc_v2(u64 *p, size_t s) { *p = (u64)(size_t)memory; return 0; }
int cuMemcpyHtoD_v2(u64 p, const void *h, size_t s) { memcpy((void *)(size_t)p, h, s); return 0; }
int cuMemcpyDtoH_v2(void *h, u64 p, size_t s) { memcpy(h, (void *)(size_t)p, s); return 0; }
int cuLaunchKernel(void *f, unsigned a, unsigned b, unsigned c, unsigned x, unsigned y, unsigned z,
                   unsigned s, void *q, void **v, void **e) {
  float *d = (float *)(size_t)*(u64 *)v[0];
  for (unsigned i = 0; i < x; i++) d[i] *= *(float *)v[1];
  return 0;
}
int cuCtxSynchronize(void) { return 0; }
int cuMemFree_v2(u64 p) { return 0; }
int cuModuleUnload(void *m) { return 0; }
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_the_program_for_a_gpu_speaks_with_the_driver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a pretended driver, so that the proof on a GPU does not fail by its own program."""
    (tmp_path / "driver.c").write_text(FAKE_DRIVER)
    driver = tmp_path / "driver.so"
    compile_it = ["cc", "-shared", "-fPIC", "-w", "-o", str(driver), str(tmp_path / "driver.c")]
    subprocess.run(compile_it, check=True)
    monkeypatch.setenv("SPARK_SPEECH_LIBCUDA", str(driver))
    monkeypatch.chdir(ROOT)
    program = [sys.executable, "-m", "tests.integration.kernels_on_gpu"]
    command = [*program, "load", str(BINARIES / "sm_121.fatbin")]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert '"capability": "12.1"' in said[0]
    assert '"ran": true' in said[1]
    monkeypatch.setenv("REFUSES", "1")
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert "cuModuleLoadData: CUDA_ERROR_NO_BINARY_FOR_GPU" in said[1]
    monkeypatch.setenv("SPARK_SPEECH_LIBCUDA", str(tmp_path / "none.so"))
    assert subprocess.run(command, capture_output=True).returncode == 3
    record = [*program, "record", "--out", str(tmp_path / "out")]
    assert subprocess.run(record, capture_output=True).returncode == 3
