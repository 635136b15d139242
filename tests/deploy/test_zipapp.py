from __future__ import annotations

import ast
import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

from orchestrator.deploy import zipapp


def test_the_same_sources_give_the_same_bytes(tmp_path: Path) -> None:
    first = zipapp.build(tmp_path / "host.pyz")
    os.utime(Path(zipapp.__file__).parent / "host" / "cli.py")
    again = zipapp.build(tmp_path / "host.pyz")
    assert (first["changed"], again["changed"]) == (True, False)
    assert first["sha256"] == again["sha256"]
    (tmp_path / "host.pyz").write_bytes(b"old")
    assert zipapp.build(tmp_path / "host.pyz")["changed"] is True


def test_it_imports_nothing_but_the_standard_library_and_itself() -> None:
    archive = zipfile.ZipFile(io.BytesIO(zipapp.content()))
    held = {
        name.removesuffix("/__init__.py").removesuffix(".py").replace("/", ".") for name in archive.namelist()
    }
    for name in archive.namelist():
        for node in ast.walk(ast.parse(archive.read(name))):
            if isinstance(node, ast.Import):
                wanted = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module is not None:
                wanted = [node.module]
            else:
                continue
            for module in wanted:
                own = module.startswith("orchestrator")
                assert (module in held) if own else (module.split(".")[0] in sys.stdlib_module_names), name


def test_it_runs_without_any_package(tmp_path: Path) -> None:
    program = tmp_path / "host.pyz"
    zipapp.build(program)
    command = [sys.executable, "-I", "-S", str(program), "--home", str(tmp_path / "home"), "lock", "acquire"]
    done = subprocess.run([*command, "--run", "r1"], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert json.loads(done.stdout)["lock"]["run"] == "r1"
    refused = subprocess.run([*command, "--run", "r2"], capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert json.loads(refused.stdout)["error"] == "HostLockedError"
    assert refused.stderr == ""
