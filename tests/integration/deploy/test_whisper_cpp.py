"""whisper.cpp compiled for real, on a throw-away host without a network, and heard by its engine."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from orchestrator import resources
from orchestrator.contract import SAMPLE_RATE_HZ
from tests.bed import Bed
from tests.engines.whisper.tiny import Tiny
from tests.integration.deploy.conftest import MakeBed, slow
from tests.integration.deploy.load import DIALOGUE

PLAYBOOK = resources.playbooks() / "whisper_cpp.yml"
REQUIREMENTS = resources.compose() / "requirements.txt"
BUILD = ("setuptools>=77", "setuptools-scm>=8")
TEXT = "it was the best of times"
HEAR = """
import json, sys
from pathlib import Path
sys.path += sys.argv[2:]
import _pywhispercpp, numpy
from orchestrator import engines
from orchestrator.engines.base import EngineSource
engine = engines.load("whisper_cpp", EngineSource(Path(sys.argv[1]), threads=1, options={}))
(heard,) = engine.recognize([numpy.load(Path(sys.argv[1]) / "speech.npy")])
print(json.dumps([heard.text, _pywhispercpp.__file__]))
"""
pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(1800),  # whisper.cpp on one core
    slow,
    pytest.mark.skipif(shutil.which("cmake") is None, reason="CMake is not installed"),
    pytest.mark.skipif(
        importlib.util.find_spec("ensurepip") is None, reason="this Python makes no environments with pip"
    ),
]


@pytest.fixture(scope="module")
def bed(make_shared_bed: MakeBed) -> Bed:
    return make_shared_bed(1)


@pytest.fixture(scope="module")
def wheelhouse(test_cache: Path) -> Iterator[Path]:
    """What builds wheels, where a host sees it: its /tmp is its own."""
    folder = test_cache / "bed" / f"wheelhouse-{os.getpid()}"
    folder.mkdir(parents=True)
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--only-binary=:all:"]
    subprocess.run([*download, f"--dest={folder}", *BUILD], check=True)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory, wheelhouse: Path) -> Path:
    folder = tmp_path_factory.mktemp("sdist")
    lines = REQUIREMENTS.read_text(encoding="utf-8").split("\n")
    first = next(number for number, line in enumerate(lines) if line.startswith("pywhispercpp=="))
    last = next(number for number in range(first + 1, len(lines)) if not lines[number].startswith(" "))
    (folder / "requirements.txt").write_text("\n".join(lines[first:last]))
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary=pywhispercpp"]
    command += ["--require-hashes", f"--requirement={folder}/requirements.txt", f"--dest={folder}"]
    subprocess.run(command, check=True)
    return next(folder.glob("*.tar.gz"))


def play(bed: Bed, folder: Path, wheelhouse: Path, sdist: Path, **given: object) -> str:
    """Run whisper_cpp.yml with a build for the CPU; what was printed."""
    variables = {
        "spark_speech_whisper_cpp_cuda_architectures": "",
        "spark_speech_whisper_cpp_sdist": str(sdist),
        "spark_speech_wheelhouse": str(wheelhouse),
        "spark_speech_wheels_dir": str(folder / "wheels"),
        "spark_speech_python": str(Path(sys.executable).resolve()),
        "spark_speech_whisper_cpp_jobs": 1,
        **given,
    }
    inventory = bed.inventory(folder, user="spark", **variables)
    done = subprocess.run(
        [str(Path(sys.executable).with_name("ansible-playbook")), "-i", str(inventory), str(PLAYBOOK)],
        env={**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_HOME": str(folder / "ansible")},
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    return " ".join(f"rc={done.returncode} {done.stdout} {done.stderr}".split())


def left(bed: Bed, folder: Path) -> list[str]:
    """What a build left, on the host and on the controller."""
    home = bed.hosts[0].path("/var/lib/spark-speech")
    found = [path.name for path in home.iterdir()] if home.is_dir() else []
    wheels = folder / "wheels"
    return found + ([path.name for path in wheels.iterdir()] if wheels.is_dir() else [])


def test_what_does_not_compile_leaves_nothing(
    bed: Bed, wheelhouse: Path, sdist: Path, tmp_path: Path
) -> None:
    broken = bed.hosts[0].path("/opt/broken/cmake")
    broken.parent.mkdir(parents=True)
    broken.write_text("#!/bin/sh\necho the disk is on fire >&2\nexit 1\n")
    broken.chmod(0o755)
    path = f"/opt/broken:{os.defpath}"
    text = play(bed, tmp_path, wheelhouse, sdist, spark_speech_whisper_cpp_path=path)
    assert text.startswith("rc=2 ")
    assert "spark1 could not compile whisper.cpp" in text
    assert "the disk is on fire" in text
    assert left(bed, tmp_path) == []


def test_the_engine_hears_with_what_a_sealed_host_compiled(
    bed: Bed, wheelhouse: Path, sdist: Path, tmp_path: Path
) -> None:
    text = play(bed, tmp_path, wheelhouse, sdist)
    assert text.startswith("rc=0 "), text
    (name,) = left(bed, tmp_path)
    text = play(bed, tmp_path, wheelhouse, sdist)
    assert text.startswith("rc=0 "), text
    assert "changed=0" in text
    assert left(bed, tmp_path) == [name]

    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    python = str(environment / "bin" / "python")
    install = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "--quiet",
        "--no-index",
        "--no-deps",
    ]
    subprocess.run([*install, str(tmp_path / "wheels" / name)], check=True)
    model = tmp_path / "model"
    model.mkdir()
    Tiny(TEXT, "de").write_ggml(model / "ggml-model.bin")
    samples, rate = soundfile.read(DIALOGUE, dtype="float32", frames=9 * SAMPLE_RATE_HZ)
    assert rate == SAMPLE_RATE_HZ
    np.save(model / "speech.npy", samples)
    others = [sysconfig.get_path("purelib"), str(Path(__file__).parents[3])]
    said = subprocess.check_output([python, "-c", HEAR, str(model), *others], text=True)
    heard, library = json.loads(said.splitlines()[-1])
    assert heard == TEXT
    assert Path(library).is_relative_to(environment)
