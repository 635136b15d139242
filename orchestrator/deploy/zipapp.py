"""The host program as one file: ``python -m orchestrator.deploy.zipapp host.pyz``.

The same sources give the same bytes anywhere, so a host whose copy has the same digest is left alone. It
holds the host program and the modules it imports, no more; package files other than these are empty in it.
"""

from __future__ import annotations

import hashlib
import io
import json
import sys
import zipfile
from pathlib import Path
from typing import Final

from orchestrator.repository.storage import write_atomic

INTERPRETER: Final = b"#!/usr/bin/env python3\n"
SHARED: Final = (
    "errors.py",
    "coldstart/cuda_cache.py",
    "repository/integrity.py",
    "repository/storage.py",
)
"""Modules outside of the host program that it imports; all of the standard library only."""
_PACKAGES: Final = ("", "coldstart/", "deploy/", "repository/")
_MAIN: Final = """\
import sys

if sys.version_info < (3, 10):
    print('{"changed": false, "error": "HostError", "message": "Python on the host is %d.%d", '
          '"fix": "install Python 3.10 or newer on the host"}' % sys.version_info[:2])
    sys.exit(1)

from orchestrator.deploy.host.cli import main

sys.exit(main(sys.argv[1:]))
"""
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)
"""The first moment a zip file can name."""


def content() -> bytes:
    """The zip file's bytes."""
    package = Path(__file__).parents[1]
    files = {f"orchestrator/{folder}__init__.py": b"" for folder in _PACKAGES}
    files["__main__.py"] = _MAIN.encode("ascii")
    sources = [package / name for name in SHARED] + sorted((package / "deploy" / "host").glob("*.py"))
    for path in sources:
        files[f"orchestrator/{path.relative_to(package).as_posix()}"] = path.read_bytes()
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as archive:  # stored: zlib's output differs
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.create_system = 3  # Unix, wherever it is built
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, files[name])
    return INTERPRETER + sink.getvalue()


def build(target: Path) -> dict[str, object]:
    """Write the program to ``target``, unless it is there already: ``changed``, ``path``, ``sha256``.

    Raises:
        DiskFullError, RepositoryError: it cannot be written.
    """
    data = content()
    changed = not target.is_file() or target.read_bytes() != data
    if changed:
        write_atomic(target, data)
    return {"changed": changed, "path": str(target), "sha256": hashlib.sha256(data).hexdigest()}


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m orchestrator.deploy.zipapp FILE")
    sys.stdout.write(json.dumps(build(Path(sys.argv[1]))) + "\n")
