from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import canonicalize_name, parse_wheel_filename

CHECKOUT = Path(__file__).resolve().parents[2]
NAME = "spark-speech"
# Published as source only: the first and the last are plain Python, meeteval needs a C++ compiler.
SOURCE_ONLY = {"antlr4-python3-runtime", "meeteval", "srt"}
GLIBC_2 = 35  # Ubuntu 22.04 and Debian 12 have at least 2.35
PYTHONS = [(3, 11), (3, 12)]
MACHINES = ["x86_64", "aarch64"]

Entry = tuple[str, frozenset[str], str, str | None]


@pytest.fixture(scope="module")
def lock() -> dict[str, Any]:
    return tomllib.loads((CHECKOUT / "uv.lock").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    project: dict[str, Any] = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))
    return project["project"]  # type: ignore[no-any-return]


def entry(text: str, extra: str | None) -> Entry:
    wanted = Requirement(text)
    return canonicalize_name(wanted.name), frozenset(wanted.extras), str(wanted.specifier), extra


def test_the_lock_was_made_from_this_project_file(lock: dict[str, Any], project: dict[str, Any]) -> None:
    declared = {entry(text, None) for text in project["dependencies"]}
    for extra, texts in project["optional-dependencies"].items():
        declared |= {entry(text, extra) for text in texts}
    package = next(package for package in lock["package"] if package["name"] == NAME)
    locked = set()
    for wanted in package["metadata"]["requires-dist"]:
        marker = wanted.get("marker")
        extra = None if marker is None else marker.removeprefix("extra == '").removesuffix("'")
        extras = ",".join(wanted.get("extras", []))
        locked.add(entry(f"{wanted['name']}[{extras}]{wanted.get('specifier', '')}", extra))
    assert locked == declared
    assert lock["requires-python"].replace(" ", "") == project["requires-python"]


def supported(python: tuple[int, int], machine: str) -> set[Tag]:
    platforms = [f"manylinux_2_{minor}_{machine}" for minor in range(GLIBC_2, 4, -1)]
    platforms += [f"{name}_{machine}" for name in ("manylinux2014", "manylinux2010", "manylinux1", "linux")]
    tags = set(cpython_tags(python, platforms=platforms))
    return tags | set(compatible_tags(python, f"cp{python[0]}{python[1]}", platforms))


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("python", PYTHONS)
def test_every_locked_package_installs(lock: dict[str, Any], python: tuple[int, int], machine: str) -> None:
    environment = {
        "sys_platform": "linux",
        "platform_machine": machine,
        "python_full_version": f"{python[0]}.{python[1]}.9",
    }
    tags = supported(python, machine)
    missing = set()
    for package in lock["package"]:
        markers = package.get("resolution-markers", [])
        if package["name"] == NAME or (
            markers and not any(Marker(marker).evaluate(environment) for marker in markers)
        ):
            continue
        names = [wheel["url"].rpartition("/")[2].replace("%2B", "+") for wheel in package.get("wheels", [])]
        if all(parse_wheel_filename(name)[3].isdisjoint(tags) for name in names):
            missing.add(package["name"])
    assert missing == SOURCE_ONLY


def test_both_pythons_get_the_same_versions(lock: dict[str, Any]) -> None:
    names = [package["name"] for package in lock["package"]]
    assert sorted(set(names)) == sorted(names)
