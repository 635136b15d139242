"""Role `whisper_cpp` with stand-ins for compilers and source, and role `environment` with what one leaves.

A real build: deploy/test_whisper_cpp.py.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator import resources
from tests.coldstart.fatbins import BINARIES

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.geteuid() != 0, reason="what the roles write belongs to root"),
    pytest.mark.skipif(
        importlib.util.find_spec("ensurepip") is None, reason="this Python makes no environments with pip"
    ),
]
TARGETS = {"121": "sm_121a.fatbin", "90": "sm_90.fatbin"}
"""What the stand-in's nvcc makes of what it is asked for: that for 120 it forgets."""
OTHERS = "OF_THE_SHELL"
BACKEND = '''
"""Packs what it was asked for, as pywhispercpp's setup.py hands it to CMake: all of its environment."""
import json, os, sys, sysconfig, zipfile
from pathlib import Path

SOURCE = Path(__file__).parent
LIBRARY = "def whisper_print_system_info(): return 'CPU : AVX2 = 1 | {}'"


def build_wheel(folder, config_settings=None, metadata_directory=None):
    asked = dict(os.environ)
    version = asked["SETUPTOOLS_SCM_PRETEND_VERSION_FOR_PYWHISPERCPP"]
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"
    tag = f"{python}-{python}-{sysconfig.get_platform().replace('-', '_')}"
    name = f"pywhispercpp-{version}-{tag}.whl"
    about = f"pywhispercpp-{version}.dist-info"
    cuda = asked.get("GGML_CUDA") == "1"
    header = f"Name: pywhispercpp\\nVersion: {version}\\n"
    with zipfile.ZipFile(Path(folder, name), "w") as wheel:
        wheel.writestr("asked.json", json.dumps(asked))
        wheel.writestr("_pywhispercpp.py", LIBRARY.format("CUDA : ARCHS = 1210 | " if cuda else ""))
        for target in asked.get("CMAKE_CUDA_ARCHITECTURES", "").split(";"):
            if (SOURCE / f"{target}.fatbin").exists():
                wheel.writestr(f"{target}.fatbin", (SOURCE / f"{target}.fatbin").read_bytes())
        wheel.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\\n{header}")
        wheel.writestr(f"{about}/WHEEL", f"Wheel-Version: 1.0\\nRoot-Is-Purelib: false\\nTag: {tag}\\n")
        wheel.writestr(f"{about}/RECORD", "")
    return name
'''
PROJECT = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
NVCC = """#!/bin/sh
case "$1" in
    --version) echo 'Cuda compilation tools, release 13.0, V13.0.88' ;;
    --list-gpu-code) printf 'sm_90\\nsm_120\\nsm_121\\n' ;;
    --dryrun) echo '#$ TOP={top}/bin/..' >&2 ;;
esac
"""


def sdist(path: Path) -> Path:
    files = {"pyproject.toml": PROJECT.encode(), "backend.py": BACKEND.encode()}
    files |= {f"{target}.fatbin": (BINARIES / name).read_bytes() for target, name in TARGETS.items()}
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"pywhispercpp-1.5.1/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


@dataclass
class Host:
    """This machine as a host, and as the controller."""

    folder: Path
    variables: dict[str, Any]

    @property
    def wheels(self) -> list[Path]:
        """What the controller keeps."""
        return sorted((self.folder / "wheels").glob("*")) if (self.folder / "wheels").is_dir() else []

    @property
    def home(self) -> list[str]:
        """What is on the host."""
        home = self.folder / "home"
        return sorted(path.name for path in home.iterdir()) if home.is_dir() else []

    def play(self, book: Path, *options: str, ok: bool = True, **given: Any) -> tuple[int, str]:
        """Run a playbook: how much changed, what was printed."""
        values = self.folder / "vars.json"
        variables = {**self.variables, **given}
        values.write_text(json.dumps(variables))
        inventory = self.folder / "inventory.yml"
        inventory.write_text("sparks: {hosts: {spark: {ansible_connection: local}}}\n")
        command = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", str(inventory)]
        done = subprocess.run(
            [*command, f"-e@{values}", *options, str(book)],
            env={
                **os.environ,
                "ANSIBLE_NOCOLOR": "1",
                "ANSIBLE_HOME": str(self.folder / "ansible"),
                "ANSIBLE_PIPELINING": "1",
                OTHERS: "1",
            },
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert (done.returncode == 0) is ok, done.stdout[-6000:] + done.stderr[-2000:]
        changed = re.search(r"changed=(\d+)", done.stdout)
        assert changed is not None, done.stdout
        return int(changed[1]), " ".join(done.stdout.split())

    def build(self, *options: str, **given: Any) -> tuple[int, str]:
        """Run whisper_cpp.yml."""
        return self.play(resources.playbooks() / "whisper_cpp.yml", *options, **given)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    bin, top = tmp_path / "bin", tmp_path / "cuda"
    for folder in (bin, top / "include"):
        folder.mkdir(parents=True)
    (top / "include" / "cublas_v2.h").touch()
    for name in ("cc", "c++", "cmake", "make", "nvcc"):
        (bin / name).write_text(NVCC.format(top=top) if name == "nvcc" else "#!/bin/sh\n")
        (bin / name).chmod(0o755)
    source = sdist(tmp_path / "source.tar.gz")
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    variables = {
        "ansible_become": False,
        "ansible_python_interpreter": sys.executable,
        "spark_speech_home": str(tmp_path / "home"),
        "spark_speech_wheels_dir": str(tmp_path / "wheels"),
        "spark_speech_python": sys.executable,
        "spark_speech_whisper_cpp_path": str(bin),
        "spark_speech_whisper_cpp_sdist": str(source),
        "whisper_cpp_pinned": f"pywhispercpp==1.5.1 --hash=sha256:{digest}",
        "spark_speech_whisper_cpp_jobs": 3,
        "whisper_cpp_build_requirements": [],
    }
    return Host(tmp_path, variables)


def test_the_wheel_is_built_once_with_the_options_that_were_asked_for(host: Host) -> None:
    changed, _ = host.build("--check", "--diff")
    assert changed > 0
    assert host.wheels == []
    assert host.home == []

    # What an interrupted build left, on both sides.
    for left in (
        "home/.build-whisper-cpp/wheel/pywhispercpp-1.5.1+old.whl",
        "wheels/.new-spark/unpacked/old",
    ):
        (host.folder / left).parent.mkdir(parents=True)
        (host.folder / left).touch()
    host.build()
    (wheel,) = host.wheels
    assert re.match(r"pywhispercpp-1\.5\.1\+cuda121\.nvcc13\.0\.88\.c[0-9a-f]{8}-cp3", wheel.name)
    assert host.home == []
    asked = json.loads(zipfile.ZipFile(wheel).read("asked.json"))
    cuda = {"GGML_CUDA": "1", "CMAKE_CUDA_ARCHITECTURES": "121", "CUDACXX": f"{host.folder}/bin/nvcc"}
    own = {"BUILD_SHARED_LIBS": "OFF", "CMAKE_BUILD_PARALLEL_LEVEL": "3"}
    assert asked.items() >= (cuda | own | {"CMAKE_BUILD_RPATH": f"{host.folder}/cuda/lib64"}).items()
    assert OTHERS not in asked, "what the shell has is no option of CMake's"

    before = wheel.stat()
    changed, text = host.build()
    assert changed == 0, text
    assert (wheel.stat().st_ino, wheel.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert str(wheel) in text, "it says what to do with it"


def test_a_build_that_fails_leaves_nothing(host: Host) -> None:
    """The last thing that can be wrong: it is all there, and for another GPU."""
    text = host.build(ok=False, spark_speech_whisper_cpp_cuda_architectures="120")[1]
    assert "no code that sm_120 runs as it is" in text
    assert host.wheels == []
    assert host.home == []


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"spark_speech_whisper_cpp_path": "/nowhere"}, "spark cannot compile whisper.cpp. a C compiler is"),
        ({"spark_speech_whisper_cpp_cuda_architectures": "121 -DX=1"}, "Fix: numbers with a semicolon"),
        (
            {"whisper_cpp_pinned": "pywhispercpp==1.5.1"},
            "is not the source distribution of pywhispercpp 1.5.1",
        ),
    ],
)
def test_what_cannot_be_built_is_told_before_anything_is_written(
    host: Host, given: dict[str, Any], reason: str
) -> None:
    assert reason in host.build(ok=False, **given)[1]
    assert host.wheels == []
    assert host.home == []


def test_another_source_than_the_pinned_one_is_refused(host: Host) -> None:
    del host.variables["whisper_cpp_pinned"]
    pinned = (resources.compose() / "requirements.txt").read_text(encoding="utf-8")
    version = re.search(r"^pywhispercpp==(\S+)", pinned, re.MULTILINE)
    assert version is not None
    assert f"is not the source distribution of pywhispercpp {version[1]}." in host.build(ok=False)[1]
    assert host.wheels == []


def wheel_of(folder: Path, name: str, version: str, files: dict[str, str], about: str = "") -> Path:
    """A wheel of plain Python."""
    path = folder / f"{name}-{version}-py3-none-any.whl"
    record = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        for file, text in files.items():
            wheel.writestr(file.format(record=record), text)
        wheel.writestr(
            f"{record}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{about}"
        )
        wheel.writestr(f"{record}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{record}/RECORD", "")
    return path


def test_an_environment_has_the_wheel_instead_of_the_indexs_and_its_digest_says_so(host: Host) -> None:
    index = host.folder / "index"
    index.mkdir()
    wheel_of(index, "pywhispercpp", "1.5.1", {"_pywhispercpp.py": "built = 'elsewhere'"})
    own = wheel_of(host.folder, "pywhispercpp", "1.5.1+cuda121", {"_pywhispercpp.py": "built = 'here'"})
    program = {
        "spark_speech.py": "def main(): print('1')",
        "{record}/entry_points.txt": "[console_scripts]\nspark-speech = spark_speech:main\n",
    }
    needs = "Provides-Extra: whisper-cpp\nRequires-Dist: pywhispercpp>=1.3; extra == 'whisper-cpp'\n"
    main = wheel_of(host.folder, "spark_speech", "1", program, needs)
    constraints = host.folder / "constraints.txt"
    constraints.write_text("pywhispercpp==1.5.1\n")
    (host.folder / "home/environments").mkdir(parents=True)
    (host.folder / "home/triton").mkdir()
    say = {"msg": "digest {{ spark_speech_built_digest }}"}
    tasks = [
        {"ansible.builtin.debug": say, "vars": {"spark_speech_extra_wheels": []}},
        {"ansible.builtin.include_role": {"name": "environment"}},
    ]
    wheels = {"spark_speech_extra_wheels": [str(own)]}
    play = {
        "hosts": "sparks",
        "gather_facts": False,
        "vars": wheels,
        "roles": ["spark_speech"],
        "tasks": tasks,
    }
    (host.folder / "roles").symlink_to(resources.playbooks() / "roles")
    book = host.folder / "environment.yml"
    book.write_text(yaml.safe_dump([play]))
    _, text = host.play(
        book,
        spark_speech_wheel=str(main),
        spark_speech_extras=["whisper-cpp"],
        spark_speech_constraints=str(constraints),
        spark_speech_wheelhouse=str(index),
        preflight_report={"facts": {"environment_digest": "", "runtime": "systemd"}},
        spark_speech_unmet=["{{ spark_speech_environment_dir }}/.complete"],
    )
    parts = [
        hashlib.sha256(main.read_bytes()).hexdigest(),
        "pywhispercpp==1.5.1",
        "whisper-cpp",
        sys.executable,
    ]
    plain = hashlib.sha256(" ".join(parts).encode()).hexdigest()
    assert f"digest {plain}" in text, "hosts that take none keep what they have"
    parts.append(hashlib.sha256(own.read_bytes()).hexdigest())
    digest = hashlib.sha256(" ".join(parts).encode()).hexdigest()
    environment = host.folder / "home/environments" / digest
    assert (environment / ".complete").is_file()
    ask = [str(environment / "bin/python"), "-c", "import _pywhispercpp; print(_pywhispercpp.built)"]
    assert subprocess.check_output(ask, text=True).strip() == "here"
