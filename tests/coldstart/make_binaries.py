"""Makes `binaries/`: one small kernel compiled every way that the audit must tell apart.

Run with nvcc 13.0 on PATH::

    python tests/coldstart/make_binaries.py

`binaries/expected.json` is written from the compiler's options, never from what the audit reads.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from pathlib import Path

FOLDER = Path(__file__).parent / "binaries"
KERNEL = """extern "C" __global__ void scale(float *data, float factor) { data[threadIdx.x] *= factor; }
"""
CALLER = """__device__ float helper(float x);
extern "C" __global__ void outer(float *d) { d[threadIdx.x] = helper(d[threadIdx.x]); }
"""
HELPER = """__device__ float helper(float x) { return x * x + 1.0f; }
"""
MACHINES = (75, 80, 86, 89, 90, "90a", 100, "100a", "100f", 103, "103f", 110, "110f")
MACHINES += (120, "120a", "120f", 121, "121a", "121f")
VIRTUALS = (75, 86, 90, "90a", "100f", 120, "120a", "120f", 121, "121f")
QUIET = ["-Xcompiler", "-fPIC", "-cudart", "none"]


def gencode(*targets: str) -> list[str]:
    """``sm_90a`` or ``compute_90`` or ``lto_90``, each as its own -gencode."""
    options = []
    for target in targets:
        number = target.rpartition("_")[2]
        options += ["-gencode", f"arch=compute_{number},code={target}"]
    return options


def entry(target: str, compression: str | None = None) -> list[str]:
    kind = {"sm": "cubin", "compute": "ptx", "lto": "lto_ir"}[target.partition("_")[0]]
    # By default the compiler compresses text and leaves machine code as it is.
    return [kind, target, compression or ("none" if kind == "cubin" else "zstd")]


def nvcc(*arguments: str, cwd: Path) -> None:
    subprocess.run(["nvcc", *arguments], check=True, cwd=cwd)


def main() -> None:
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    expected: dict[str, list[list[list[str]]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        (work / "kernel.cu").write_text(KERNEL)
        (work / "caller.cu").write_text(CALLER)
        (work / "helper.cu").write_text(HELPER)

        def fatbin(name: str, targets: list[str], *options: str, compression: str | None = None) -> None:
            nvcc("-fatbin", *options, *gencode(*targets), "-o", str(FOLDER / name), "kernel.cu", cwd=work)
            expected[name] = [[entry(target, compression) for target in targets]]

        for number in MACHINES:
            fatbin(f"sm_{number}.fatbin", [f"sm_{number}"])
        for number in VIRTUALS:
            fatbin(f"compute_{number}.fatbin", [f"compute_{number}"])
        fatbin("several.fatbin", ["sm_75", "sm_90a", "compute_90"])
        fatbin("lto.fatbin", ["lto_90", "lto_120f"])
        fatbin("uncompressed.fatbin", ["sm_90", "compute_90"], "-no-compress", compression="none")
        fatbin("smallest.fatbin", ["sm_90", "compute_90"], "-compress-mode=size", compression="zstd")
        fatbin("fastest.fatbin", ["compute_90"], "-compress-mode=speed", compression="lz4")

        cubin = FOLDER / "sm_120a.cubin"
        nvcc("-cubin", "-arch=sm_120a", "-o", str(cubin), "kernel.cu", cwd=work)
        expected[cubin.name] = [[entry("sm_120a")]]
        ptx = FOLDER / "compute_90a.ptx"
        nvcc("-ptx", "-arch=compute_90a", "-o", str(ptx), "kernel.cu", cwd=work)
        expected[ptx.name] = [[entry("compute_90a", "none")]]

        both = ["sm_90", "compute_90"]
        objects = ["caller.o", "helper.o"]
        for source in ("caller.cu", "helper.cu"):
            nvcc("-rdc=true", *QUIET, *gencode(*both), "-c", source, cwd=work)
        nvcc("-dlink", *QUIET[:2], "-arch=sm_90", "-o", "linked.o", *objects, cwd=work)
        inputs = [[entry(target, "zstd") for target in both]] * 2
        link(work, "linked.so", *objects, "linked.o")
        expected["linked.so"] = [*inputs, [entry("sm_90")]]
        link(work, "unlinked.so", *objects)
        expected["unlinked.so"] = inputs

        for name, source in (("first.o", "kernel.cu"), ("second.o", "kernel.cu")):
            extra = [] if name == "first.o" else ["-Dscale=again"]
            nvcc(*QUIET, *extra, *gencode("sm_120", "compute_120"), "-c", source, "-o", name, cwd=work)
        link(work, "two_modules.so", "first.o", "second.o")
        expected["two_modules.so"] = [[entry("sm_120"), entry("compute_120")]] * 2
    (FOLDER / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


def link(work: Path, name: str, *objects: str) -> None:
    target = FOLDER / name
    subprocess.run(["g++", "-shared", "-s", "-o", str(target), *objects], check=True, cwd=work)


if __name__ == "__main__":
    main()
