"""What tells one Python environment from another."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.deploy.host.fingerprint import fingerprint
from orchestrator.errors import RepositoryError


def environment(folder: Path, packages: dict[str, str]) -> Path:
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "spark-speech").touch()
    (folder / "pyvenv.cfg").write_text("version = 3.12.3\n", encoding="utf-8")
    for name, record in packages.items():
        info = folder / "lib" / "python3.12" / "site-packages" / f"{name}.dist-info"
        info.mkdir(parents=True)
        (info / "RECORD").write_text(record, encoding="utf-8")
    return folder


def test_the_same_environment_gives_the_same_digest(tmp_path: Path) -> None:
    made = environment(tmp_path / "a", {"numpy-2.0": "x", "torch-2.11": "y"})
    assert fingerprint(made) == fingerprint(made)


def test_packages_their_files_python_and_place_count(tmp_path: Path) -> None:
    digests = {
        fingerprint(environment(tmp_path / "a", {"numpy-2.0": "x"})),
        fingerprint(environment(tmp_path / "b", {"numpy-2.0": "x"})),
        fingerprint(environment(tmp_path / "c", {"numpy-2.1": "x"})),
    }
    (tmp_path / "a" / "lib/python3.12/site-packages/numpy-2.0.dist-info/RECORD").write_text("z")
    digests.add(fingerprint(tmp_path / "a"))
    (tmp_path / "a" / "pyvenv.cfg").write_text("version = 3.12.4\n")
    digests.add(fingerprint(tmp_path / "a"))
    assert len(digests) == 5


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match="bin/spark-speech"):
        fingerprint(tmp_path)
