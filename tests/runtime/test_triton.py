"""Finding and unpacking a tritonserver."""

from __future__ import annotations

import os
import sys
import zipfile
from pathlib import Path

import pytest

from orchestrator.errors import TritonNotFoundError
from orchestrator.repository import wheels
from orchestrator.runtime import triton
from orchestrator.runtime.numpy2 import HOOK

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
ROOT = "pytriton/tritonserver/"
WHEEL_MEMBERS = {
    f"{ROOT}bin/tritonserver": b"server",
    f"{ROOT}backends/python/libtriton_python.so": b"backend",
    f"{ROOT}backends/python/triton_python_backend_utils.py": b"",
    f"{ROOT}python_backend_stubs/{PYTHON}/triton_python_backend_stub": f"libpython{PYTHON}.so.1.0".encode(),
    f"{ROOT}python_backend_stubs/3.8/triton_python_backend_stub": b"libpython3.8.so.1.0",
    "nvidia_pytriton.libs/libfoo.so": b"library",
    "pytriton/__init__.py": b"",
}


def fake_server(prefix: Path, python: str = PYTHON, *, old_numpy: bool = False) -> Path:
    backend = prefix / "backends" / "python"
    backend.mkdir(parents=True)
    (prefix / "bin").mkdir()
    (prefix / "bin" / "tritonserver").write_bytes(b"server")
    (backend / "libtriton_python.so").write_bytes(b"backend")
    names = b"" if old_numpy else b"numpy._core"
    (backend / "triton_python_backend_stub").write_bytes(f"\0libpython{python}.so.1.0\0".encode() + names)
    (backend / "triton_python_backend_utils.py").write_text(HOOK)
    return prefix


@pytest.fixture
def nothing(tmp_path: Path) -> Path:
    return tmp_path / "no-system-server"


def test_nothing_found_says_where_it_looked(tmp_path: Path, nothing: Path) -> None:
    with pytest.raises(TritonNotFoundError) as caught:
        triton.find(tmp_path, system=nothing)
    assert str(nothing) in caught.value.message
    assert str(triton.wheel_prefix(tmp_path)) in caught.value.message


def test_the_system_server_comes_first(tmp_path: Path) -> None:
    system = fake_server(tmp_path / "opt")
    (system / "TRITON_VERSION").write_text("2.63.0\n")
    fake_server(triton.wheel_prefix(tmp_path))
    found = triton.find(tmp_path, system=system)
    assert (found.source, found.version, found.prefix) == ("system", "2.63.0", system)


def test_a_system_server_for_another_python_is_passed_over(tmp_path: Path) -> None:
    system = fake_server(tmp_path / "opt", python="3.8")
    with pytest.raises(TritonNotFoundError, match=r"for Python 3\.8, this is"):
        triton.find(tmp_path, system=system)
    bundled = fake_server(triton.wheel_prefix(tmp_path))
    assert triton.find(tmp_path, system=system).prefix == bundled


def test_a_system_server_that_cannot_read_our_arrays_is_passed_over(tmp_path: Path) -> None:
    system = fake_server(tmp_path / "opt", old_numpy=True)
    with pytest.raises(TritonNotFoundError, match="predates NumPy 2"):
        triton.find(tmp_path, system=system)


def test_a_missing_libpython_names_the_debian_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_server(triton.wheel_prefix(tmp_path))
    monkeypatch.setattr(triton, "libpython_name", lambda: "libpython9.99.so.1.0")
    with pytest.raises(TritonNotFoundError) as caught:
        triton.find(tmp_path)
    assert f"apt-get install libpython{PYTHON}" in (caught.value.fix or "")


def test_the_environment_leads_the_stub_to_this_interpreters_packages(tmp_path: Path, nothing: Path) -> None:
    fake_server(triton.wheel_prefix(tmp_path))
    found = triton.find(tmp_path, system=nothing)
    environment = found.environment(
        {"PATH": "/usr/bin", "PYTHONHOME": "/wrong", "LD_LIBRARY_PATH": "/usr/cuda"}
    )
    assert environment["PATH"].split(os.pathsep)[0] == str(Path(sys.executable).parent)
    assert environment["PATH"].split(os.pathsep)[-1] == "/usr/bin"
    libraries = environment["LD_LIBRARY_PATH"].split(os.pathsep)
    assert libraries[0] == str(found.prefix / "lib")
    assert libraries[-1] == "/usr/cuda"
    folders = [Path(folder) for folder in environment["PYTHONPATH"].split(os.pathsep)]
    assert any((folder / "orchestrator" / "errors.py").is_file() for folder in folders)
    assert any((folder / "tritonclient").is_dir() for folder in folders)
    assert "PYTHONHOME" not in environment


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheel shaped like nvidia-pytriton's, as what `fetch` answers."""
    path = tmp_path / "nvidia_pytriton.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in WHEEL_MEMBERS.items():
            archive.writestr(name, data)
    monkeypatch.setattr(wheels, "fetch", lambda *_, **__: path)
    monkeypatch.setattr(triton, "SYSTEM_PREFIX", tmp_path / "no-system-server")
    monkeypatch.setattr(triton.find, "__kwdefaults__", {"system": tmp_path / "no-system-server"})
    return path


def test_install_unpacks_only_what_this_interpreter_needs(tmp_path: Path, wheel: Path) -> None:
    found = triton.install(tmp_path, tmp_path / "cache")
    assert found.prefix == triton.wheel_prefix(tmp_path)
    files = {str(path.relative_to(found.prefix)) for path in found.prefix.rglob("*") if path.is_file()}
    assert files == {
        "bin/tritonserver",
        "backends/python/libtriton_python.so",
        "backends/python/triton_python_backend_utils.py",
        "backends/python/triton_python_backend_stub",
        "lib/libfoo.so",
    }
    stub = found.backend_directory / "python" / "triton_python_backend_stub"
    assert os.access(found.executable, os.X_OK)
    assert os.access(stub, os.X_OK)
    assert PYTHON.encode() in stub.read_bytes()
    assert [path.name for path in found.prefix.parent.iterdir()] == [found.prefix.name]


def test_install_twice_fetches_once(tmp_path: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = triton.install(tmp_path, tmp_path / "cache")
    monkeypatch.setattr(wheels, "fetch", lambda *_, **__: pytest.fail("fetched again"))
    assert triton.install(tmp_path, tmp_path / "cache") == first


def test_the_backend_learns_numpy_2(tmp_path: Path, wheel: Path) -> None:
    found = triton.install(tmp_path, tmp_path / "cache")
    utilities = found.backend_directory / "python" / "triton_python_backend_utils.py"
    assert utilities.read_text() == HOOK


def test_a_server_that_an_older_version_unpacked_is_replaced(tmp_path: Path, wheel: Path) -> None:
    old = fake_server(triton.wheel_prefix(tmp_path))
    (old / "backends" / "python" / "triton_python_backend_utils.py").write_text("")
    with pytest.raises(TritonNotFoundError, match="another version"):
        triton.find(tmp_path, system=tmp_path / "no-system-server")
    assert triton.install(tmp_path, tmp_path / "cache").prefix == old


def test_half_an_installation_is_replaced(tmp_path: Path, wheel: Path) -> None:
    half = triton.wheel_prefix(tmp_path)
    (half / "bin").mkdir(parents=True)
    (half / "leftover").write_text("x")
    found = triton.install(tmp_path, tmp_path / "cache")
    assert found.executable.read_bytes() == b"server"
    assert not (half / "leftover").exists()


def test_a_wheel_that_cannot_be_unpacked_leaves_nothing(tmp_path: Path, wheel: Path) -> None:
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"{ROOT}bin/tritonserver", b"server")
    with pytest.raises(Exception, match="backends/python"):
        triton.install(tmp_path, tmp_path / "cache")
    assert list((tmp_path / "triton").iterdir()) == []
