"""Preloaded libraries that answer for the driver."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from orchestrator.coldstart.claims import preload_notes
from tests.coldstart.fatbins import BINARIES


@pytest.fixture(scope="module")
def spoof(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library that says that every GPU is a 9.0."""
    if shutil.which("cc") is None:
        pytest.skip("no C compiler to make a library with")
    folder = tmp_path_factory.mktemp("spoof")
    source = folder / "spoof.c"
    source.write_text(
        "int cuDeviceGetAttribute(int *value, int which, int device)"
        " { *value = which == 75 ? 9 : 0; return 0; }\n"
    )
    library = folder / "spoof.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    return library


def test_a_library_that_answers_for_the_driver_is_named(spoof: Path) -> None:
    (note,) = preload_notes({"LD_PRELOAD": f"/nowhere.so:{spoof}"})
    assert str(spoof) in note
    assert "cuDeviceGetAttribute" in note
    assert "no effect on which code is loaded" in note


def test_other_libraries_are_not() -> None:
    damaged = BINARIES / "sm_90.fatbin"
    assert preload_notes({"LD_PRELOAD": f"{BINARIES / 'linked.so'} {damaged} relative.so"}) == []
    assert preload_notes({}) == []
