from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator import engines
from orchestrator.engines import EngineSource
from orchestrator.errors import ConfigurationError, MissingDependencyError


def test_names_are_sorted_and_every_one_has_a_spec() -> None:
    assert {"moonshine", "parakeet", "whisper_cpp", "whisper_ct2"} <= set(engines.names())
    assert list(engines.names()) == sorted(engines.names())
    assert engines.streaming_names() == ("parakeet_streaming",)
    for name in engines.names() + engines.streaming_names():
        spec = engines.spec(name)
        assert spec.name == name
        assert spec.artifacts or spec.inspector, "something must say what a folder has to hold"
        assert spec.distributions
        for module in filter(None, (spec.module, spec.inspector)):
            assert importlib.util.find_spec(module), module


@pytest.mark.parametrize(("typo", "nearest"), [("moonshin", "moonshine"), ("Parakeet", "parakeet")])
def test_an_unknown_engine_names_the_nearest(typo: str, nearest: str) -> None:
    with pytest.raises(ConfigurationError, match=f"did you mean '{nearest}'"):
        engines.spec(typo)


def test_an_unknown_engine_far_from_any_lists_them_all(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="the engines are moonshine, parakeet") as caught:
        engines.load("zzz", EngineSource(tmp_path))
    assert caught.value.fix == f"use one of {', '.join(engines.names())}."


def test_each_kind_of_engine_has_its_own_loader(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no engine 'parakeet_streaming'"):
        engines.load("parakeet_streaming", EngineSource(tmp_path))
    with pytest.raises(ConfigurationError, match="no engine 'moonshine'"):
        engines.load_streaming("moonshine", EngineSource(tmp_path))


def test_a_missing_extra_gives_the_install_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    state = engines.availability("parakeet")
    assert not state.ready
    assert state.missing == ("safetensors", "torch")
    assert state.install == "pip install 'spark-speech[serve]'"
    with pytest.raises(MissingDependencyError, match=r"pip install 'spark-speech\[serve\]'"):
        engines.load("parakeet", EngineSource(tmp_path))


def test_an_engine_whose_import_fails_is_a_missing_dependency(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def broken(name: str) -> object:
        raise OSError("libgomp.so.1: cannot open shared object file")

    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.raises(MissingDependencyError, match=r"libgomp\.so\.1"):
        engines.load("moonshine", EngineSource(tmp_path))


def test_asking_about_engines_imports_none_of_their_libraries() -> None:
    code = (
        "import sys; from orchestrator import engines\n"
        "[(engines.spec(n), engines.availability(n)) for n in engines.names()]\n"
        "heavy = {'torch', 'nemo', 'moonshine_voice'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
