"""Can a Spark (aarch64, CPython 3.12) install what the serving image pins? Asked of the package index."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
UV = shutil.which("uv", path=f"{os.environ['PATH']}:{CHECKOUT}/.uv/bin")
"""On PATH, or where `.ci/setup` puts it."""
pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(
        shutil.which("uv") is None, reason="uv, which resolves for other machines, is not on PATH"
    ),
]
CHECKOUT = Path(__file__).resolve().parents[2]
# The oldest glibc that every wheel can do with; a Spark (Ubuntu 24.04) has 2.39, Debian 12 has 2.36.
PLATFORM = "aarch64-manylinux_2_34"
SOURCE_ONLY = "antlr4-python3-runtime"


def resolve(requirements: Path, target: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [
        str(UV),
        "pip",
        "compile",
        str(requirements),
        "--python-platform",
        PLATFORM,
        "--python-version",
    ]
    command += ["3.12", "--only-binary", ":all:", "--no-header", "--no-annotate", "--quiet", *options]
    return subprocess.run([*command, "--output-file", str(target)], capture_output=True, text=True)


def pinned(path: Path) -> set[str]:
    return set(re.findall(r"^([\w.-]+==[\w.+!-]+)", path.read_text(encoding="utf-8"), re.MULTILINE))


def test_the_pinned_set_resolves_to_wheels_for_a_spark(tmp_path: Path) -> None:
    """Nothing is missing, nothing is added: what was pinned is complete."""
    both = tmp_path / "both.txt"
    parts = [CHECKOUT / "compose" / name for name in ("requirements.txt", "requirements-source.txt")]
    both.write_text("".join(part.read_text(encoding="utf-8") for part in parts))
    done = resolve(both, tmp_path / "resolved.txt", "--no-binary", SOURCE_ONLY)
    assert done.returncode == 0, done.stderr
    resolved = pinned(tmp_path / "resolved.txt")
    assert resolved <= pinned(both)
    missing = {name.partition("==")[0] for name in pinned(both) - resolved}
    assert missing <= {"async-timeout"}, "pinned for another Python only"
    assert any(name.startswith("nvidia-cuda-runtime==13.") for name in resolved)


def test_the_one_exception_is_still_needed(tmp_path: Path) -> None:
    """When it fails, a wheel has been published: the Dockerfile needs its second file no more."""
    done = resolve(CHECKOUT / "compose/requirements-source.txt", tmp_path / "resolved.txt")
    assert done.returncode != 0
    assert SOURCE_ONLY in done.stderr
