from __future__ import annotations

import subprocess
import sys
import time

import pytest

from orchestrator.bench.streams import watch
from orchestrator.bench.streams.watch import Gpu, cpu_seconds, resident_mib, watching

PARENT = """
import subprocess, sys
code = "x = bytearray(64 << 20)\\nprint('full', flush=True)\\nwhile True: pass"
child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
child.stdout.readline()
print("ready", flush=True)
sys.stdin.read()
child.kill()
child.wait()
"""


def until(true):
    """Wait for it; a busy machine gives the processes little time."""
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


@pytest.fixture
def family():
    """A process that waits, with a child that keeps a core busy and 64 MiB full."""
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    parent.stdout.readline()
    yield parent
    if parent.poll() is None:
        parent.communicate()


def test_the_server_and_its_children_are_told_apart(family):
    with watching(family.pid) as usage:
        time.sleep(1.0)
        busy = cpu_seconds(family.pid)[1]
        until(lambda: cpu_seconds(family.pid)[1] > busy + 0.3)
    assert usage.wall_s >= 1.0
    assert usage.models_cpu_s > 0.2
    assert usage.models_cpu_s > 5 * usage.server_cpu_s
    assert usage.resident_mib > 64
    assert usage.gpu_share is None


def test_a_process_that_is_gone_uses_nothing(family):
    family.communicate()
    assert resident_mib(family.pid) == 0
    assert cpu_seconds(family.pid) == (0, 0)
    with watching(family.pid) as usage:
        pass
    assert usage.server_cpu_s == 0


class Nvml:
    """The management library with one GPU."""

    def __init__(self, **fails: int) -> None:
        self.fails = fails

    def nvmlInit_v2(self):  # noqa: N802
        return self.fails.get("init", 0)

    def nvmlDeviceGetHandleByIndex_v2(self, index, handle):  # noqa: N802
        handle._obj.value = 77
        return self.fails.get("handle", 0)

    def nvmlDeviceGetUtilizationRates(self, handle, rates):  # noqa: N802
        assert handle.value == 77
        rates._obj.gpu = 75
        return self.fails.get("rates", 0)

    def nvmlDeviceGetMemoryInfo(self, handle, memory):  # noqa: N802
        assert handle.value == 77
        memory._obj.used = 3 * 2**30
        return self.fails.get("memory", 0)


def test_the_gpu_is_sampled(monkeypatch, family):
    monkeypatch.setattr(watch.ctypes, "CDLL", lambda name: Nvml())
    gpu = Gpu.find()
    assert gpu is not None
    assert gpu.sample() == (0.75, 3072)
    with watching(family.pid, gpu) as usage:
        until(lambda: usage.gpu_memory_mib)
    assert usage.gpu_share == 0.75
    assert usage.gpu_memory_mib == 3072


def test_no_library_no_driver_and_no_answer_are_no_gpu(monkeypatch):
    def missing(name):
        raise OSError(name)

    monkeypatch.setattr(watch.ctypes, "CDLL", missing)
    assert Gpu.find() is None
    for step in ("init", "handle"):
        monkeypatch.setattr(watch.ctypes, "CDLL", lambda name, step=step: Nvml(**{step: 3}))
        assert Gpu.find() is None
    for step in ("rates", "memory"):
        monkeypatch.setattr(watch.ctypes, "CDLL", lambda name, step=step: Nvml(**{step: 3}))
        found = Gpu.find()
        assert found is not None
        assert found.sample() is None
