"""The version of the NVIDIA driver of this machine."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from orchestrator.coldstart.gpu_target import Version

VERSION_FILE: Final = Path("/proc/driver/nvidia/version")
_VERSION: Final = re.compile(r"Kernel Module.*?\s(\d{3,4})\.(\d{1,4})(?:\.\d+)?\s")


def installed_driver(file: Path = VERSION_FILE) -> Version | None:
    """Branch and minor of the loaded kernel module, (580, 95); None where none is loaded."""
    try:
        found = _VERSION.search(file.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return None
    return None if found is None else (int(found[1]), int(found[2]))
