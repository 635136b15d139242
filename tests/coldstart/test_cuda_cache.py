"""The policy that keeps compiled GPU code between starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator import resources
from orchestrator.coldstart.cuda_cache import cuda_environment, policy_violations


def test_the_policy_keeps_its_own_rules_below_one_folder() -> None:
    environment = cuda_environment(Path("/cache"))
    assert policy_violations(environment) == []
    assert environment["CUDA_FORCE_PTX_JIT"] == "0"
    assert environment["CUDA_CACHE_DISABLE"] == "0"
    assert 2 * 1024**3 <= int(environment["CUDA_CACHE_MAXSIZE"]) <= 4 * 1024**3
    folders = [value for name, value in environment.items() if name.endswith(("_PATH", "_DIR"))]
    assert len(folders) == len(set(folders)) == 3
    assert all(folder.startswith("/cache/") for folder in folders)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CUDA_FORCE_PTX_JIT", "1"),
        ("CUDA_CACHE_DISABLE", "1"),
        ("CUDA_CACHE_PATH", None),
        ("CUDA_CACHE_MAXSIZE", "1073741824"),
        ("CUDA_CACHE_MAXSIZE", "plenty"),
        ("CUDA_CACHE_MAXSIZE", None),
        ("TORCHINDUCTOR_CACHE_DIR", None),
        ("TRITON_CACHE_DIR", None),
    ],
)
def test_each_broken_rule_is_named(name: str, value: str | None) -> None:
    environment = cuda_environment(Path("/cache"))
    environment.pop(name)
    if value is not None:
        environment[name] = value
    (violation,) = policy_violations(environment)
    assert name in violation


def test_containers_get_the_same_policy() -> None:
    """`compose/cuda.env` says the same, below the container's own cache folder."""
    lines = (resources.compose() / "cuda.env").read_text().splitlines()
    pairs = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    assert pairs == cuda_environment(Path("/var/cache/spark-speech"))
