"""What a GPU and its driver make of GPU code: the truth that the audit's verdicts are compared with.

Needs a GPU, its driver and Python; the standard library and the driver's own calls are all that is used. With
nvcc 13.0 on PATH it also compiles programs and measures a cold start. In the repository's root, on the GPU's
machine::

    python -m tests.integration.kernels_on_gpu record --out FOLDER

writes FOLDER/truth.json and FOLDER/programs. `test_kernels_on_gpu.py` then compares: on that machine, or on
any other with SPARK_SPEECH_KERNEL_TRUTH=FOLDER; a truth.json that is put into ``tests/coldstart/truth`` is
compared always.

Each file is loaded by a process of its own (``load FILE``), as the driver reads ``CUDA_FORCE_PTX_JIT`` and
its like once, with an empty cache of its own, whose files then tell whether anything was compiled.
``SPARK_SPEECH_LIBCUDA`` names another driver library than ``libcuda.so.1``.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.coldstart.make_binaries import FOLDER as BINARIES
from tests.coldstart.make_binaries import KERNEL, gencode

THREADS = 32
FACTOR = 3.0
CAPABILITY_MAJOR, CAPABILITY_MINOR = 75, 76
"""Attributes of a device (CUdevice_attribute in cuda.h)."""
ROOT = Path(__file__).parents[2]
ENVIRONMENTS: dict[str, dict[str, str]] = {
    "default": {},
    "disabled": {"CUDA_DISABLE_PTX_JIT": "1"},
    "forced": {"CUDA_FORCE_PTX_JIT": "1"},
}
SWITCHES = (
    "CUDA_FORCE_PTX_JIT",
    "CUDA_DISABLE_PTX_JIT",
    "CUDA_FORCE_JIT",
    "CUDA_DISABLE_JIT",
    "CUDA_CACHE_DISABLE",
)
LIMIT_S = 300
PROGRAM = (
    KERNEL
    + """
#include <cstdio>
int main() {
  float host[32], *device;
  for (int i = 0; i < 32; i++) host[i] = i;
  cudaError_t error = cudaMalloc(&device, sizeof host);
  if (!error) error = cudaMemcpy(device, host, sizeof host, cudaMemcpyHostToDevice);
  if (!error) { scale<<<1, 32>>>(device, 3.0f); error = cudaGetLastError(); }
  if (!error) error = cudaMemcpy(host, device, sizeof host, cudaMemcpyDeviceToHost);
  if (error) { fprintf(stderr, "%s\\n", cudaGetErrorName(error)); return 1; }
  for (int i = 0; i < 32; i++) if (host[i] != 3.0f * i) return 2;
  return 0;
}
"""
)
MANY = 150
"""Kernels of the cold start that is measured."""


class DriverError(Exception):
    """A call of the driver failed; the name of the error."""


class Driver:
    """The calls that are needed, on the first GPU."""

    def __init__(self) -> None:
        self._lib = ctypes.CDLL(os.environ.get("SPARK_SPEECH_LIBCUDA", "libcuda.so.1"))
        self._call("cuInit", 0)
        self._device = ctypes.c_int()
        self._call("cuDeviceGet", ctypes.byref(self._device), 0)
        context = ctypes.c_void_p()
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), self._device)
        self._call("cuCtxSetCurrent", context)

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._lib, name)(*arguments)
        if code:
            text = ctypes.c_char_p()
            self._lib.cuGetErrorName(code, ctypes.byref(text))
            raise DriverError(f"{name}: {(text.value or str(code).encode()).decode()}")

    def _attribute(self, which: int) -> int:
        value = ctypes.c_int()
        self._call("cuDeviceGetAttribute", ctypes.byref(value), which, self._device)
        return value.value

    def about(self) -> dict[str, Any]:
        """The GPU and the newest CUDA release that the driver knows."""
        version = ctypes.c_int()
        self._call("cuDriverGetVersion", ctypes.byref(version))
        name = ctypes.create_string_buffer(100)
        self._call("cuDeviceGetName", name, 100, self._device)
        capability = f"{self._attribute(CAPABILITY_MAJOR)}.{self._attribute(CAPABILITY_MINOR)}"
        return {
            "gpu": name.value.decode(),
            "capability": capability,
            "cuda": f"{version.value // 1000}.{version.value % 1000 // 10}",
        }

    def load(self, image: bytes) -> ctypes.c_void_p:
        """A module of an image: a container, machine code or PTX."""
        module = ctypes.c_void_p()
        # PTX is text that ends with a zero byte.
        self._call(
            "cuModuleLoadData", ctypes.byref(module), ctypes.create_string_buffer(image, len(image) + 1)
        )
        return module

    def run(self, module: ctypes.c_void_p) -> list[float]:
        """What ``scale`` makes of 0, 1, 2 and so on."""
        function, memory = ctypes.c_void_p(), ctypes.c_uint64()
        self._call("cuModuleGetFunction", ctypes.byref(function), module, b"scale")
        numbers = (ctypes.c_float * THREADS)(*range(THREADS))
        size = ctypes.c_size_t(ctypes.sizeof(numbers))
        self._call("cuMemAlloc_v2", ctypes.byref(memory), size)
        self._call("cuMemcpyHtoD_v2", memory, numbers, size)
        factor = ctypes.c_float(FACTOR)
        arguments = (ctypes.c_void_p * 2)(ctypes.addressof(memory), ctypes.addressof(factor))
        self._call("cuLaunchKernel", function, 1, 1, 1, THREADS, 1, 1, 0, None, arguments, None)
        self._call("cuCtxSynchronize")
        self._call("cuMemcpyDtoH_v2", numbers, memory, size)
        self._call("cuMemFree_v2", memory)
        return list(numbers)

    def unload(self, module: ctypes.c_void_p) -> None:
        """Forget a module."""
        self._call("cuModuleUnload", module)


def attempt(driver: Driver, path: Path) -> dict[str, Any]:
    """Load one file and run its kernel.

    ``ran`` says whether the right numbers came out, ``error`` names the call and error that ended it,
    ``load_s`` is the time that loading took, in seconds.
    """
    image = path.read_bytes()
    begun = time.perf_counter()
    try:
        module = driver.load(image)
        load_s = time.perf_counter() - begun
        numbers = driver.run(module)
        driver.unload(module)
    except DriverError as error:
        return {"path": str(path), "ran": False, "error": str(error), "load_s": time.perf_counter() - begun}
    right = numbers == [FACTOR * number for number in range(THREADS)]
    return {"path": str(path), "ran": right, "error": None if right else "wrong numbers", "load_s": load_s}


def load(paths: Sequence[str]) -> int:
    """Print the GPU, then what came of each file, a line of JSON each; 3 where there is no driver or GPU."""
    try:
        driver = Driver()
        print(json.dumps(driver.about()), flush=True)
    except (OSError, DriverError) as error:
        print(json.dumps({"gpu": None, "error": str(error)}), flush=True)
        return 3
    for path in paths:
        print(json.dumps(attempt(driver, Path(path))), flush=True)
    return 0


def loaded(paths: Sequence[Path], switches: dict[str, str], cache: Path) -> list[dict[str, Any]]:
    """What `load` prints, from a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.integration.kernels_on_gpu", "load", *map(str, paths)],
        cwd=ROOT,
        env=variables(switches, cache),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return found or [{"gpu": None, "error": done.stderr[-500:]}]


def variables(switches: dict[str, str], cache: Path) -> dict[str, str]:
    """A process's environment with these switches only."""
    base = {name: value for name, value in os.environ.items() if name not in SWITCHES}
    return {**base, **switches, "CUDA_CACHE_PATH": str(cache), "CUDA_CACHE_MAXSIZE": str(4 << 30)}


def compiled(cache: Path) -> bool:
    """Whether the driver has compiled anything, by what it kept."""
    return any(path.is_file() and path.name != "index" for path in cache.rglob("*"))


def loadable() -> list[Path]:
    """What the driver loads by itself.

    Libraries are the CUDA runtime's to register, code for link-time optimisation is the linker's to link.
    """
    kinds = (".fatbin", ".cubin", ".ptx")
    return sorted(path for path in BINARIES.iterdir() if path.suffix in kinds and path.name != "lto.fatbin")


def load_all(scratch: Path) -> list[dict[str, Any]]:
    """Every compiled binary under every environment."""
    rows = []
    for path in loadable():
        for environment, switches in ENVIRONMENTS.items():
            cache = scratch / f"{path.name}-{environment}"
            found = loaded([path], switches, cache)[-1]
            rows.append({**found, "path": path.name, "environment": environment, "compiled": compiled(cache)})
            print(json.dumps(rows[-1]), flush=True)
    return rows


def build(folder: Path, name: str, targets: list[str], *options: str) -> Path:
    """A program with these versions of its kernel."""
    source, program = folder / f"{name}.cu", folder / name
    source.write_text(PROGRAM)
    nvcc(*options, *gencode(*targets), "-o", str(program), str(source))
    source.unlink()
    return program


def nvcc(*arguments: str) -> None:
    """Compile."""
    subprocess.run(["nvcc", *arguments], check=True, capture_output=True, timeout=2 * LIMIT_S)


def target_sets(number: str) -> dict[str, tuple[list[str], list[str]]]:
    """Targets around a GPU, with options: its own, old PTX, both, a foreign major, letters, linked code."""
    foreign = "sm_90" if number != "90" else "sm_120"
    return {
        "own": ([f"sm_{number}"], []),
        "old-ptx": (["compute_75"], []),
        "own-and-ptx": ([f"sm_{number}", f"compute_{number}"], []),
        "foreign": ([foreign], []),
        "foreign-and-old-ptx": ([foreign, "compute_75"], []),
        "exact": ([f"sm_{number}a"], []),
        "exact-ptx": ([f"compute_{number}a"], []),
        "linked-foreign-and-old-ptx": ([foreign, "compute_75"], ["-rdc=true"]),
    }


def run_programs(number: str, folder: Path, scratch: Path) -> list[dict[str, Any]]:
    """Programs whose code the CUDA runtime registers, under every environment."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for name, (targets, options) in target_sets(number).items():
        program = build(folder, name, targets, *options)
        for environment, switches in ENVIRONMENTS.items():
            cache = scratch / f"program-{name}-{environment}"
            done = subprocess.run(
                [str(program)],
                env=variables(switches, cache),
                capture_output=True,
                text=True,
                timeout=LIMIT_S,
            )
            rows.append(
                {
                    "path": f"programs/{name}",
                    "environment": environment,
                    "ran": done.returncode == 0,
                    "error": done.stderr.strip() or None,
                    "compiled": compiled(cache),
                }
            )
            print(json.dumps(rows[-1]), flush=True)
    return rows


def many_kernels() -> str:
    """A source of kernels that take a compiler some time each."""
    lines = "".join(f"    x = x * {n + 2}.5f + sinf(x) * cosf(x + {n}.0f);\n" for n in range(4))
    kernels = (
        f'extern "C" __global__ void k{number}(float *d, float f) {{\n'
        f"  float x = d[threadIdx.x] + {number}.0f;\n  for (int i = 0; i < 100; i++) {{\n{lines}  }}\n"
        "  d[threadIdx.x] = x * f;\n}\n"
        for number in range(MANY)
    )
    return "".join(kernels) + KERNEL


def cold_start(folder: Path, scratch: Path) -> list[dict[str, Any]]:
    """Loading many kernels of old PTX: cold, from the cache, and with FORCE=1, which ignores the cache."""
    source, image = folder / "many.cu", folder / "many.fatbin"
    source.write_text(many_kernels())
    nvcc("-fatbin", *gencode("compute_75"), "-o", str(image), str(source))
    source.unlink()
    rows = []
    states = (("cold", {}), ("warm", {}), ("forced", ENVIRONMENTS["forced"]))
    for state, switches in states:
        found = loaded([image], switches, scratch / "many")[-1]
        rows.append({**found, "path": "programs/many.fatbin", "state": state})
        print(json.dumps(rows[-1]), flush=True)
    return rows


def record(out: Path) -> int:
    """Write all of it; 3 where there is no driver or GPU."""
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        about = loaded([], {}, scratch / "about")[0]
        print(json.dumps(about), flush=True)
        if about["gpu"] is None:
            return 3
        truth: dict[str, Any] = {
            "about": about,
            "binaries": load_all(scratch),
            "programs": [],
            "cold_start": [],
        }
        if shutil.which("nvcc") is not None:
            number = about["capability"].replace(".", "")
            truth["programs"] = run_programs(number, out / "programs", scratch)
            truth["cold_start"] = cold_start(out / "programs", scratch)
    out.mkdir(parents=True, exist_ok=True)
    (out / "truth.json").write_text(json.dumps(truth, indent=1) + "\n")
    return 0


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="What a GPU and its driver make of GPU code.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("load").add_argument("files", nargs="*")
    verbs.add_parser("record").add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    return load(asked.files) if asked.verb == "load" else record(asked.out)


if __name__ == "__main__":
    sys.exit(main())
