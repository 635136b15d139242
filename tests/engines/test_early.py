from __future__ import annotations

import ctypes
import importlib
import os
from pathlib import Path
from typing import Any

import pytest

from orchestrator.engines import EngineSource, early, registry
from orchestrator.errors import MissingDependencyError


class Driver:
    """Notes what the driver is asked; each call returns ``status``."""

    def __init__(self, status: int = 0) -> None:
        self.status = status
        self.calls: list[tuple[str, Any]] = []

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> int:
            self.calls.append((name, arguments[-1]))
            return self.status

        return call


def started(source: EngineSource) -> None:
    early.begin(source).join(60)


@pytest.fixture
def read_ahead(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    sizes: list[int] = []
    monkeypatch.setattr(os, "posix_fadvise", lambda handle, begin, size, advice: sizes.append(size))
    return sizes


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    made = Driver()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: made)
    return made


def test_large_files_are_read_ahead_and_a_cpu_needs_no_driver(
    tmp_path: Path, read_ahead: list[int], driver: Driver
) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"w" * 2_000_000)
    (tmp_path / "model.json").write_bytes(b"{}")
    started(EngineSource(tmp_path))
    assert read_ahead == [2_000_000]
    assert driver.calls == []


@pytest.mark.parametrize(("device", "number"), [("cuda", 0), ("cuda:3", 3)])
def test_the_context_is_made_on_the_engines_device(
    tmp_path: Path, driver: Driver, device: str, number: int
) -> None:
    started(EngineSource(tmp_path, device))
    assert [name for name, _ in driver.calls] == ["cuInit", "cuDeviceGet", "cuDevicePrimaryCtxRetain"]
    assert driver.calls[1][1] == number


def test_a_driver_that_fails_is_asked_nothing_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing = Driver(status=999)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: failing)
    started(EngineSource(tmp_path, "cuda"))
    assert [name for name, _ in failing.calls] == ["cuInit"]


def test_without_a_driver_or_a_folder_the_engine_speaks_for_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def missing(name: str) -> Any:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    for device in ("cuda", "cuda:x", "gpu"):
        started(EngineSource(tmp_path / "nowhere", device))
    assert capfd.readouterr() == ("", "")


def test_only_engines_on_torch_get_a_head_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[EngineSource] = []
    monkeypatch.setattr(early, "begin", begun.append)
    monkeypatch.setattr(registry, "availability", lambda name: registry.Availability(name, (), None))

    def stop(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", stop)
    for name in ("moonshine", "parakeet"):
        with pytest.raises(MissingDependencyError):
            registry.load(name, EngineSource(tmp_path))
    with pytest.raises(MissingDependencyError):
        registry.load_streaming("parakeet_streaming", EngineSource(tmp_path))
    assert len(begun) == 2
