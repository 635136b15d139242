"""What a host compiles whisper.cpp with, as JSON on the standard output.

Runs on the host with the Python of its environments, and needs nothing but that.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any, Final

CPU: Final = 'spark_speech_whisper_cpp_cuda_architectures: "" compiles for the CPU'
TOOLKIT: Final = (
    f"install NVIDIA's CUDA toolkit 13, or name its folder in spark_speech_whisper_cpp_path; {CPU}"
)
PROGRAMS: Final = (
    ("a C compiler", ("cc", "gcc", "clang"), "apt-get install build-essential"),
    ("a C++ compiler", ("c++", "g++", "clang++"), "apt-get install build-essential"),
    ("CMake", ("cmake",), "apt-get install cmake"),
    ("make", ("make", "gmake"), "apt-get install make"),
)
JOB_BYTES: Final = 2 * 1024**3
"""What one compiler takes: nvcc, at whisper.cpp's largest file."""
NATIVE: Final = ("-march=native", "-mcpu=native")
"""How compilers are asked for all that the processor can do; not each knows each."""


def said(*command: str) -> str:
    """What a program prints, on either stream; nothing where it cannot or fails."""
    try:
        done = subprocess.run(command, input="", capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout + done.stderr


def missing(what: str, fix: str) -> dict[str, str]:
    """One thing that the host lacks."""
    return {"what": what, "fix": fix}


def compilers(path: str) -> list[dict[str, str]]:
    """What is missing for any build."""
    lacks = [
        missing(f"{what} is missing", fix)
        for what, names, fix in PROGRAMS
        if not any(shutil.which(name, path=path) for name in names)
    ]
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        lacks.append(missing(f"Python.h of {sys.executable} is missing", f"apt-get install {version}-dev"))
    if importlib.util.find_spec("ensurepip") is None:
        lacks.append(missing(f"{sys.executable} has no ensurepip", f"apt-get install {version}-venv"))
    return lacks


def cuda(nvcc: str | None, architectures: list[str]) -> tuple[dict[str, str], list[dict[str, str]]]:
    """The toolkit that a compiler belongs to, and what of it is missing for these architectures."""
    if nvcc is None:
        return {}, [missing("nvcc is missing", TOOLKIT)]
    version = re.search(r"\bV(\d+)\.(\d+)\.(\d+)", said(nvcc, "--version"))
    known = set(re.findall(r"\bsm_(\d+)", said(nvcc, "--list-gpu-code")))
    place = re.search(r"^#\$ TOP=(.+)$", said(nvcc, "--dryrun", "-x", "cu", "-c", os.devnull), re.MULTILINE)
    if version is None or place is None:
        return {}, [missing(f"{nvcc} does not say what it is", TOOLKIT)]
    top = Path(place[1].strip()).resolve()
    release = ".".join(str(int(part)) for part in version.groups())
    unknown = sorted({number for one in architectures if (number := re.sub(r"\D.*", "", one)) not in known})
    lacks = [missing(f"{nvcc} ({release}) does not know sm_{number}", TOOLKIT) for number in unknown]
    headers = (top / "include", *top.glob("targets/*/include"), Path("/usr/include"))
    if not any((folder / "cublas_v2.h").is_file() for folder in headers):
        package = "libcublas-dev-" + "-".join(release.split(".")[:2])
        lacks.append(missing(f"cuBLAS is not in {top}", f"apt-get install {package}"))
    return {"nvcc": nvcc, "toolkit": release, "cuda_libraries": str(top / "lib64")}, lacks


def compiler_digest(path: str) -> str:
    """Stands for the C++ compiler and the processor: of the macros of a build for this very machine."""
    compiler = next(filter(None, (shutil.which(name, path=path) for name in PROGRAMS[1][1])), "")
    macros = next(
        filter(None, (said(compiler, flag, "-E", "-dM", "-x", "c++", "-") for flag in NATIVE)),
        "",
    )
    return hashlib.sha256("\n".join(sorted(macros.splitlines())).encode()).hexdigest()


def jobs() -> int:
    """How many compilers the processors and the memory that is available allow."""
    available = re.search(
        r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text("ascii"), re.MULTILINE
    )
    fit = int(available[1]) * 1024 // JOB_BYTES if available else 1
    return max(1, min(len(os.sched_getaffinity(0)), fit))


def examine(path: str, architectures: list[str]) -> dict[str, Any]:
    """Everything that the role asks.

    Args:
        path: folders to look for programs in, with a colon between them.
        architectures: of GPUs, as CMake names them; none for a build for the CPU.
    """
    lacks = compilers(path)
    toolkit: dict[str, str] = {}
    if architectures:
        toolkit, more = cuda(shutil.which("nvcc", path=path), architectures)
        lacks += more
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"
    platform = re.sub(r"[^0-9a-z]", "_", sysconfig.get_platform())
    return {
        "missing": lacks,
        "compiler": compiler_digest(path),
        "tag": f"{python}-{python}-{platform}",
        "jobs": jobs(),
        **toolkit,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--path", required=True)
    parser.add_argument("--architectures", default="")
    given = parser.parse_args()
    wanted = [one for one in given.architectures.split(";") if one]
    sys.stdout.write(json.dumps(examine(given.path, wanted)) + "\n")
