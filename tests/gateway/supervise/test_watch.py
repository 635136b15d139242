from __future__ import annotations

import os
from pathlib import Path

import pytest

from orchestrator.errors import ConfigurationError
from orchestrator.gateway.supervise.watch import SourceWatch, changed, check_syntax


@pytest.fixture
def package(tmp_path: Path) -> Path:
    folder = tmp_path / "package"
    (folder / "inner" / "__pycache__").mkdir(parents=True)
    (folder / "one.py").write_text("a = 1\n")
    (folder / "inner" / "two.py").write_text("b = 2\n")
    (folder / "inner" / "page.html").write_text("<p>")
    (folder / "inner" / "weights.bin").write_bytes(b"1")
    return folder


def test_what_is_new_gone_or_different_has_changed(package: Path) -> None:
    settings = package.parent / "settings.toml"
    watch = SourceWatch(package, [settings])
    before = watch.state()
    assert changed(before, watch.state()) == []
    (package / "one.py").write_text("a = 2\n")
    os.utime(package / "one.py", ns=(1, 1))
    (package / "inner" / "two.py").unlink()
    (package / "inner" / "page.html").write_text("<p>new")
    (package / "three.py").write_text("")
    settings.write_text("")
    found = changed(before, watch.state())
    assert [watch.shown(path) for path in found] == [
        "inner/page.html",
        "inner/two.py",
        "one.py",
        "three.py",
        str(settings),
    ]


def test_what_python_and_models_write_is_not_source(package: Path) -> None:
    watch = SourceWatch(package)
    before = watch.state()
    (package / "inner" / "__pycache__" / "two.cpython-311.py").write_text("")
    (package / "inner" / "weights.bin").write_bytes(b"22")
    assert changed(before, watch.state()) == []


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("def f(:\n    pass\n", "line 1: invalid syntax"),
        ("x = 1\ny = '\n", "line 2: unterminated"),
        ("\0", "null"),
    ],
)
def test_errors_name_the_file_and_the_line(package: Path, source: str, said: str) -> None:
    path = package / "one.py"
    path.write_text(source)
    with pytest.raises(ConfigurationError, match=said) as raised:
        check_syntax([package / "inner" / "page.html", package / "gone.py", path])
    assert raised.value.path == str(path)


def test_the_whole_package_is_looked_at_in_no_time_to_speak_of() -> None:
    import orchestrator

    folder = Path(orchestrator.__file__).parent
    state = SourceWatch(folder).state()
    assert folder / "gateway" / "server.py" in state
    check_syntax(list(state))
