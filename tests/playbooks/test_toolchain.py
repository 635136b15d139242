"""What the role `whisper_cpp` finds out about a host, with stand-ins for its programs."""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path
from types import ModuleType

import pytest
import yaml

ROOT = Path(__file__).parents[2]
ROLE = ROOT / "playbooks" / "roles" / "whisper_cpp"
COMPILERS = ("cc", "c++", "cmake", "make")
NVCC = """#!/bin/sh
case "$1" in
    --version) echo 'Cuda compilation tools, release 13.0, V13.0.88' ;;
    --list-gpu-code) printf 'sm_90\\nsm_121\\n' ;;
    --dryrun) echo '#$ TOP={top}/bin/..' >&2 ;;
    *) exit 1 ;;
esac
"""


@pytest.fixture
def toolchain() -> ModuleType:
    spec = importlib.util.spec_from_file_location("toolchain", ROLE / "files" / "toolchain.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def program(folder: Path, name: str, text: str = "#!/bin/sh\nexit 0\n") -> None:
    folder.mkdir(exist_ok=True, parents=True)
    (folder / name).write_text(text)
    (folder / name).chmod(0o755)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A host with everything."""
    for name in COMPILERS:
        program(tmp_path / "bin", name)
    top = tmp_path / "cuda"
    program(top / "bin", "nvcc", NVCC.format(top=top))
    (top / "targets" / "sbsa-linux" / "include").mkdir(parents=True)
    (top / "targets" / "sbsa-linux" / "include" / "cublas_v2.h").touch()
    return tmp_path


def examined(toolchain: ModuleType, path: Path, *architectures: str) -> dict[str, object]:
    found: dict[str, object] = toolchain.examine(f"{path}/bin:{path}/cuda/bin", list(architectures))
    return found


def lacks(found: dict[str, object]) -> list[str]:
    return [one["what"] for one in found["missing"]]  # type: ignore[index, attr-defined]


@pytest.fixture(autouse=True)
def _a_whole_python(toolchain: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """This machine's own may come without headers, and without what makes environments."""
    (tmp_path / "Python.h").touch()
    monkeypatch.setattr(toolchain.sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setattr(toolchain.importlib.util, "find_spec", lambda name: object())


def test_a_host_with_everything_lacks_nothing(toolchain: ModuleType, path: Path) -> None:
    found = examined(toolchain, path, "121", "121a-real", "90")
    assert found["missing"] == []
    assert found["nvcc"] == f"{path}/cuda/bin/nvcc"
    assert found["toolkit"] == "13.0.88"
    assert found["cuda_libraries"] == f"{path}/cuda/lib64"
    assert re.fullmatch(r"cp3\d+-cp3\d+-linux_(x86_64|aarch64)", str(found["tag"]))


def test_a_build_for_the_cpu_asks_for_no_toolkit(toolchain: ModuleType, path: Path) -> None:
    (path / "cuda" / "bin" / "nvcc").unlink()
    found = examined(toolchain, path)
    assert found["missing"] == []
    assert "toolkit" not in found
    assert lacks(examined(toolchain, path, "121")) == ["nvcc is missing"]


def test_a_python_that_cannot_be_compiled_for_is_no_use(
    toolchain: ModuleType, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path / "Python.h").unlink()
    monkeypatch.setattr(toolchain.importlib.util, "find_spec", lambda name: None)
    fixes = [one["fix"] for one in examined(toolchain, path)["missing"]]  # type: ignore[attr-defined]
    assert [re.sub(r"[0-9.]+", "", fix) for fix in fixes] == [
        "apt-get install python-dev",
        "apt-get install python-venv",
    ]


@pytest.mark.parametrize("name", COMPILERS)
def test_each_program_that_is_missing_is_named(toolchain: ModuleType, path: Path, name: str) -> None:
    (path / "bin" / name).unlink()
    (lack,) = examined(toolchain, path, "121")["missing"]  # type: ignore[misc]
    assert lack["what"].endswith("is missing")
    assert lack["fix"].startswith("apt-get install ")


def test_a_toolkit_that_does_not_know_the_gpu_is_no_use(toolchain: ModuleType, path: Path) -> None:
    assert lacks(examined(toolchain, path, "90", "120a")) == [
        f"{path}/cuda/bin/nvcc (13.0.88) does not know sm_120"
    ]


def test_a_toolkit_without_cublas_is_no_use(toolchain: ModuleType, path: Path) -> None:
    if Path("/usr/include/cublas_v2.h").exists():
        pytest.skip("this machine has cuBLAS where any compiler looks")
    (path / "cuda" / "targets" / "sbsa-linux" / "include" / "cublas_v2.h").unlink()
    (lack,) = examined(toolchain, path, "121")["missing"]  # type: ignore[misc]
    assert lack["fix"] == "apt-get install libcublas-dev-13-0"


def test_something_that_is_no_compiler_is_told_as_such(toolchain: ModuleType, path: Path) -> None:
    program(path / "cuda" / "bin", "nvcc", "#!/bin/sh\nexit 1\n")
    assert lacks(examined(toolchain, path, "121")) == [f"{path}/cuda/bin/nvcc does not say what it is"]


def test_another_compiler_is_another_toolchain(toolchain: ModuleType, path: Path) -> None:
    digests = set()
    for macros in ("#define A 1", "#define A 2", "#define B 1\n#define A 2", "#define A 2\n#define B 1"):
        program(path / "bin", "c++", f"#!/bin/sh\necho '{macros}'\n")
        digests.add(examined(toolchain, path)["compiler"])
    assert len(digests) == 3, "the order of its macros does not matter"


def test_there_is_memory_for_each_compiler(toolchain: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain.os, "sched_getaffinity", lambda pid: set(range(20)))
    for available_mib, jobs in ((100_000, 20), (10_000, 4), (100, 1)):
        text = f"MemTotal: 1 kB\nMemAvailable:   {available_mib * 1024} kB\n"
        monkeypatch.setattr(Path, "read_text", lambda self, encoding, text=text: text)
        assert toolchain.jobs() == jobs


def test_the_defaults_build_for_a_spark() -> None:
    defaults = yaml.safe_load((ROOT / "playbooks/roles/spark_speech/defaults/main.yml").read_text("utf-8"))
    assert defaults["spark_speech_whisper_cpp_cuda_architectures"] == "121"
    assert "/usr/local/cuda/bin" in defaults["spark_speech_whisper_cpp_path"].split(os.pathsep)
