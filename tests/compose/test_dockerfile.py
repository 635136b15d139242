"""The Dockerfile's own rules, and the pinned set that it installs."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from orchestrator import resources

COMPOSE = resources.compose()
CHECKOUT = Path(__file__).resolve().parents[2]
DOCKERFILE = (COMPOSE / "Dockerfile").read_text(encoding="utf-8")
SOURCE_ONLY = {"antlr4-python3-runtime"}
SPARK = {"sys_platform": "linux", "platform_machine": "aarch64", "python_full_version": "3.12.3"}


def pins(name: str) -> dict[str, tuple[str, frozenset[str]]]:
    """Package to version and digests, as a Spark installs them."""
    joined = (COMPOSE / name).read_text(encoding="utf-8").replace("\\\n", " ")
    found = {}
    for line in joined.splitlines():
        if not line[:1].isalnum():
            continue
        text, *hashes = line.split(" --hash=")
        wanted = Requirement(text)
        if wanted.marker is None or wanted.marker.evaluate(dict(SPARK)):
            (only,) = wanted.specifier
            assert only.operator == "=="
            found[canonicalize_name(wanted.name)] = (
                only.version,
                frozenset(each.strip() for each in hashes),
            )
    return found


@pytest.fixture(scope="module")
def pinned() -> dict[str, tuple[str, frozenset[str]]]:
    return pins("requirements.txt") | pins("requirements-source.txt")


@pytest.fixture(scope="module")
def locked() -> dict[str, Any]:
    lock = tomllib.loads((CHECKOUT / "uv.lock").read_text(encoding="utf-8"))
    return {package["name"]: package for package in lock["package"]}


def extras() -> list[str]:
    script = (CHECKOUT / ".ci/requirements").read_text(encoding="utf-8")
    match = re.search(r"^extras=\((.*)\)$", script, re.MULTILINE)
    assert match is not None
    return match[1].split()


def closure(locked: dict[str, Any]) -> set[str]:
    """What uv.lock says the image's extras need on a Spark."""
    found: set[tuple[str, str | None]] = set()
    waiting: list[tuple[str, str | None]] = [("spark-speech", None)]
    waiting += [("spark-speech", extra) for extra in extras()]
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in found:
            continue
        found.add((name, extra))
        package = locked[name]
        wanted = (
            package.get("dependencies", [])
            if extra is None
            else package.get("optional-dependencies", {}).get(extra, [])
        )
        for each in wanted:
            marker = each.get("marker")
            if marker is not None and not Requirement(f"x; {marker}").marker.evaluate(dict(SPARK)):  # type: ignore[union-attr]
                continue
            waiting.append((each["name"], None))
            waiting += [(each["name"], more) for more in each.get("extra", [])]
    return {name for name, _ in found} - {"spark-speech"}


def test_the_pinned_set_is_that_of_the_lock(pinned: Any, locked: dict[str, Any]) -> None:
    """Run `.ci/requirements` when this fails."""
    assert set(pinned) == closure(locked)
    for name, (version, hashes) in pinned.items():
        files = [
            *locked[name].get("wheels", []),
            *([locked[name]["sdist"]] if "sdist" in locked[name] else []),
        ]
        assert version == locked[name]["version"], name
        assert hashes, name
        assert hashes <= {file["hash"] for file in files}, name


def test_only_plain_python_is_built_from_source() -> None:
    assert set(pins("requirements-source.txt")) == SOURCE_ONLY
    assert not SOURCE_ONLY & set(pins("requirements.txt"))


def test_the_set_is_for_cuda_13(pinned: Any) -> None:
    assert pinned["nvidia-cuda-runtime"][0].startswith("13.")
    assert not [name for name in pinned if name.endswith(("-cu11", "-cu12"))]


@pytest.mark.skipif(
    not (shutil.which("uv") or (CHECKOUT / ".uv/bin/uv").exists()),
    reason="uv, which writes the files, is missing",
)
def test_the_script_writes_what_is_committed(tmp_path: Path) -> None:
    subprocess.run([CHECKOUT / ".ci/requirements", tmp_path], check=True, capture_output=True)
    for name in ("requirements.txt", "requirements-source.txt"):
        assert (tmp_path / name).read_text() == (COMPOSE / name).read_text(), "run .ci/requirements"


def instructions(name: str) -> list[str]:
    joined = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.MULTILINE))
    return [line.partition(" ")[2] for line in joined.splitlines() if line.partition(" ")[0] == name]


def test_both_stages_stand_on_the_base_of_the_build_argument() -> None:
    assert instructions("FROM") == ["${BASE_IMAGE} AS build", "${BASE_IMAGE}"]
    assert instructions("ARG")[0] == "BASE_IMAGE=nvcr.io/nvidia/tritonserver:25.11-py3"


def test_the_image_runs_as_nobody_in_particular_and_tells_its_health() -> None:
    assert instructions("USER")[-1] == "10001:10001"
    assert instructions("ENTRYPOINT") == ['["spark-speech"]']
    assert len(instructions("HEALTHCHECK")) == 1


def test_nothing_is_fetched_that_is_not_pinned() -> None:
    assert instructions("ADD") == []
    for run in instructions("RUN"):
        assert "apt-get" not in run
        assert "curl" not in run
        if " -r " in run:
            assert "--require-hashes" in run
            assert "--no-deps" in run


def test_the_environment_is_the_cuda_policy() -> None:
    lines = (COMPOSE / "cuda.env").read_text(encoding="utf-8").splitlines()
    policy = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    said = dict(re.findall(r"(\w+)=(\S+)", " ".join(instructions("ENV"))))
    assert said.items() >= policy.items()
    assert said["TRITON_PTXAS_PATH"] == said["TRITON_PTXAS_BLACKWELL_PATH"] == "/opt/spark-speech/bin/ptxas"


def test_the_context_holds_only_what_is_copied() -> None:
    rules = (CHECKOUT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert next(rule for rule in rules if not rule.startswith("#")) == "*"
    assert "compose/.env" in rules


@pytest.mark.parametrize(("release", "code"), [("12.9", 1), ("13.0", 0)])
def test_an_assembler_of_cuda_13_is_found_or_the_build_ends(tmp_path: Path, release: str, code: int) -> None:
    tool = tmp_path / "tool"
    tool.write_text(f"#!/bin/sh\necho 'Cuda compilation tools, release {release}, V{release}.1'\n")
    tool.chmod(0o755)
    script = (COMPOSE / "find_ptxas.sh").read_text(encoding="utf-8")
    here = tmp_path / "find.sh"
    here.write_text(script.replace("/usr/local/cuda/bin/ptxas", str(tool)).replace("/opt/", f"{tmp_path}/"))
    done = subprocess.run(["sh", here, tmp_path / "ptxas"], capture_output=True, text=True)
    assert done.returncode == code
    assert (tmp_path / "ptxas").is_symlink() is (code == 0)
    assert ("CUDA 13" in done.stderr) is (code == 1)
