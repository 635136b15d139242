from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DATA = ("model_repository", "playbooks", "compose")

# It builds in an isolated environment, from the package index.
pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def checkout_files() -> dict[str, set[str]]:
    """What each folder held before the build; an editor may save more while it runs."""
    return {folder: sources(CHECKOUT / folder) for folder in ("orchestrator", *DATA)}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, checkout_files: dict[str, set[str]]) -> Path:
    """A folder with the sdist and the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--outdir", str(folder), str(CHECKOUT)],
        check=True,
        capture_output=True,
        text=True,
    )
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    return next(built.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder outside the checkout that the wheel is installed into, without its dependencies."""
    folder = tmp_path_factory.mktemp("site")
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet"]
    subprocess.run([*install, "--target", str(folder), str(wheel)], check=True, capture_output=True)
    return folder


def run(installed: Path, cwd: Path, *command: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(installed)}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def sources(folder: Path) -> set[str]:
    return {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_the_wheel_holds_the_package_and_its_data_and_nothing_else(
    wheel: Path, checkout_files: dict[str, set[str]]
) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name.split("/")[0] for name in names} == {
        "orchestrator",
        f"spark_speech-{PROJECT['version']}.dist-info",
    }
    assert not [name for name in names if "__pycache__" in name or "test_" in name]
    for path in checkout_files["orchestrator"]:
        assert f"orchestrator/{path}" in names, path
    for folder in DATA:
        for path in checkout_files[folder]:
            assert f"orchestrator/_data/{folder}/{path}" in names, path
    assert "orchestrator/_data/docs/spark-speech.example.toml" in names
    assert "orchestrator/py.typed" in names


def test_the_sdist_holds_what_the_wheel_is_built_from_and_no_tests(built: Path) -> None:
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        names = [name.partition("/")[2] for name in archive.getnames()]
    assert {name.split("/")[0] for name in names} <= {
        *("orchestrator", "docs", *DATA),
        *("LICENSE", "README.md", "pyproject.toml", "PKG-INFO", ".gitignore"),
    }


def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return message_from_bytes(archive.read(name))


def test_the_metadata_is_complete(wheel: Path) -> None:
    found = metadata(wheel)
    assert found["Name"] == "spark-speech"
    assert found["License-Expression"] == "Apache-2.0"
    assert found["License-File"] == "LICENSE"
    assert found["Description-Content-Type"] == "text/markdown"
    assert found["Summary"] == PROJECT["description"]
    assert set(found.get_all("Provides-Extra", [])) == set(PROJECT["optional-dependencies"])
    with zipfile.ZipFile(wheel) as archive:
        licence = next(name for name in archive.namelist() if name.endswith("licenses/LICENSE"))
        assert b"Version 2.0, January 2004" in archive.read(licence)


def test_the_installed_package_finds_its_own_data(
    installed: Path, tmp_path: Path, checkout_files: dict[str, set[str]]
) -> None:
    code = """
from orchestrator import resources
for find in (resources.model_repository, resources.playbooks, resources.compose, resources.example_config):
    print(find())
"""
    paths = [Path(line) for line in run(installed, tmp_path, sys.executable, "-c", code).splitlines()]
    assert [path.relative_to(installed / "orchestrator/_data").as_posix() for path in paths] == [
        *DATA,
        "docs/spark-speech.example.toml",
    ]
    for name, path in zip(DATA, paths, strict=False):
        assert checkout_files[name] <= sources(path)


def test_the_installed_command_runs_outside_the_checkout(installed: Path, tmp_path: Path) -> None:
    command = str(installed / "bin/spark-speech")
    assert run(installed, tmp_path, command, "--version") == f"spark-speech {PROJECT['version']}\n"
    example = run(installed, tmp_path, command, "config", "example")
    assert example == (CHECKOUT / "docs/spark-speech.example.toml").read_text(encoding="utf-8")
    assert "Commands" in run(installed, tmp_path, command, "--help")
