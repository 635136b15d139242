from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import pytest

import orchestrator

HEAVY = ("torch", "nemo", "grpc", "tritonclient", "pyannote", "numpy", "pydantic", "typer")


def loaded_after(statement: str) -> set[str]:
    code = f"{statement}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_the_package_imports_nothing_heavy() -> None:
    assert loaded_after("import orchestrator").isdisjoint(HEAVY)


def test_data_types_need_no_engine_and_no_network() -> None:
    heavy = {"torch", "nemo", "grpc", "tritonclient", "pyannote"}
    assert loaded_after("from orchestrator import Transcript, Word, SpeechError").isdisjoint(heavy)


def test_the_client_needs_no_engine() -> None:
    assert loaded_after("from orchestrator import SpeechClient").isdisjoint({"torch", "nemo", "pyannote"})


@pytest.mark.parametrize("name", orchestrator.__all__)
def test_every_public_name_is_there(name: str) -> None:
    value = getattr(orchestrator, name)
    if name != "__version__":
        assert value.__name__ == name
    assert name in dir(orchestrator)


def test_the_version_is_the_distributions() -> None:
    assert orchestrator.__version__ == version("spark-speech")


def test_other_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Transcripts'"):
        _ = orchestrator.Transcripts
