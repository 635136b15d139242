from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.cli.app import main


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return int(ended.value.code or 0)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)


def test_help_loads_no_server() -> None:
    code = (
        "import sys\nfrom orchestrator.cli.app import main\n"
        "try:\n    main(['gateway', '--help'])\n"
        "except SystemExit: pass\n"
        "print([name for name in ('fastapi', 'uvicorn', 'grpc', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "OpenAI's audio endpoints" in done.stdout
    assert done.stdout.strip().endswith("[]")


NO_RIVA = ("--set", "gateway.grpc_port=")
"""Its default port may be in use."""
NEEDED = [
    "fastapi",
    "prometheus_client",
    "riva",
    "grpc_health",
    "grpc_reflection",
    "glin_profanity",
    "text_to_num",
]


WITHOUT_EACH = """
import contextlib, io, json, sys
from orchestrator.cli.app import main

for name in sys.argv[1:]:
    for loaded in list(sys.modules):
        if loaded.partition(".")[0] == name or loaded.startswith("orchestrator.gateway"):
            del sys.modules[loaded]
    sys.modules[name] = None
    out = io.StringIO()
    try:
        with contextlib.redirect_stdout(out):
            main(["gateway", "--json"])
    except SystemExit as ended:
        print(json.dumps([name, ended.code, json.loads(out.getvalue())]))
    del sys.modules[name]
"""


def test_a_missing_extra_is_named() -> None:
    command = [sys.executable, "-c", WITHOUT_EACH, *NEEDED]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [name for name, *_ in found] == NEEDED
    for name, code, told in found:
        assert (code, told["error"]) == (2, "MissingDependencyError")
        assert name in told["message"]
        assert "pip install 'spark-speech[gateway]'" in told["fix"]


def test_a_port_that_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert run("--set", f"gateway.http_port={port}", "gateway", "--json") == 1
    told = json.loads(capsys.readouterr().out)
    assert told["error"] == "PortInUseError"
    assert "gateway.http_port" in told["message"]


def test_tls_files_that_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.pem").write_text("nonsense")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    for name in ("a.pem", "missing.pem"):
        tls = ["--set", f"gateway.tls_certfile={name}", "--set", "gateway.tls_keyfile=a.pem"]
        assert run("--set", f"gateway.http_port={port}", *NO_RIVA, *tls, "gateway", "--json") == 2
        told = json.loads(capsys.readouterr().out)
        assert told["error"] == "ConfigurationError"
        assert "TLS files" in told["message"]


def test_a_wrong_upstream(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert run("--set", f"gateway.http_port={port}", *NO_RIVA, "gateway", "--url", "nowhere", "--json") == 2
    assert "not an address" in json.loads(capsys.readouterr().out)["message"]
