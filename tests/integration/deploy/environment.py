"""A Python environment for the hosts: the package as it is now, over the packages of the tests' environment.

It stands for the environment that a host builds from the wheel, which takes minutes and a package index. It
is a copy, as an installed package is: what the checkout does afterwards does not reach it.
"""

from __future__ import annotations

import shutil
import sysconfig
import venv
from pathlib import Path

import orchestrator
from orchestrator import resources

SCRIPT = """#!{python}
import sys
from orchestrator.cli import main
sys.exit(main())
"""


def make(folder: Path) -> Path:
    """Make the environment in ``folder``, which every user can read."""
    venv.create(folder, symlinks=True, with_pip=False)
    folder.chmod(0o755)
    packages = next(folder.glob("lib/python*/site-packages"))
    ignored = shutil.ignore_patterns("__pycache__", "_data")
    shutil.copytree(Path(orchestrator.__file__).parent, packages / "orchestrator", ignore=ignored)
    data = packages / "orchestrator" / "_data"
    for source in (resources.model_repository(), resources.playbooks(), resources.compose()):
        shutil.copytree(source, data / source.name, ignore=ignored)
    (data / "docs").mkdir()
    shutil.copy(resources.example_config(), data / "docs")
    (packages / "tests.pth").write_text(f"{sysconfig.get_path('purelib')}\n", encoding="utf-8")
    program = folder / "bin" / "spark-speech"
    program.write_text(SCRIPT.format(python=folder / "bin" / "python"), encoding="utf-8")
    program.chmod(0o755)
    return folder
