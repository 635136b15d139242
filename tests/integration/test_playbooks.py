"""The playbooks through Ansible's own eyes: syntax, lint, and what their templates become."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from orchestrator import settings

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
PLAYBOOKS = ROOT / "playbooks"
INVENTORIES = sorted((PLAYBOOKS / "inventories").glob("*.yml"))
BIN = Path(sys.executable).parent


def ansible(program: str, *arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "ANSIBLE_HOME": str(home),
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_LOCALHOST_WARNING": "false",
    }
    return subprocess.run(
        [str(BIN / program), *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
        check=False,
    )


@pytest.mark.parametrize("inventory", INVENTORIES, ids=lambda path: path.stem)
def test_every_playbook_is_understood(inventory: Path, tmp_path: Path) -> None:
    books = [str(path) for path in sorted(PLAYBOOKS.glob("*.yml"))]
    done = ansible("ansible-playbook", "--syntax-check", "-i", str(inventory), *books, home=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.timeout(900)  # it runs Ansible once for each playbook and role
def test_lint_in_the_production_profile(tmp_path: Path) -> None:
    done = ansible(
        "ansible-lint", "--offline", "--profile=production", "--nocolor", "playbooks", home=tmp_path
    )
    assert done.returncode == 0, done.stdout + done.stderr


def render(template: str, variables: dict[str, Any], folder: Path) -> str:
    """A template as the role slot renders it for slot blue."""
    play = [
        {
            "hosts": "localhost",
            "connection": "local",
            "gather_facts": False,
            "vars": {
                "ansible_python_interpreter": sys.executable,
                "preflight_release": "0" * 64,
                "preflight_report": {
                    "facts": {"runtime": "systemd", "environment_digest": "e" * 64, "ptxas": "", "gpus": []}
                },
                "slot_begin": {"stdout": json.dumps({"changed": True, "slot": "blue"})},
                **variables,
            },
            "roles": ["spark_speech"],
            "tasks": [
                {"ansible.builtin.include_vars": {"file": str(PLAYBOOKS / "roles/slot/defaults/main.yml")}},
                {
                    "ansible.builtin.template": {
                        "src": str(PLAYBOOKS / "roles/slot/templates" / f"{template}.j2"),
                        "dest": str(folder / template),
                        "mode": "0600",
                    }
                },
            ],
        }
    ]
    (folder / "play.yml").write_text(json.dumps(play), encoding="utf-8")
    (folder / "roles").symlink_to(PLAYBOOKS / "roles")
    done = ansible("ansible-playbook", "-i", "localhost,", str(folder / "play.yml"), home=folder / "ansible")
    assert done.returncode == 0, done.stdout + done.stderr
    return (folder / template).read_text(encoding="utf-8")


def test_a_slots_settings_are_read_as_they_were_meant(tmp_path: Path) -> None:
    wanted = {
        "gateway": {
            "max_streams": 5,
            "cors_origins": ["https://example.org"],
            "keys": {"Zoë's laptop": {"sha256": "a" * 64, "max_requests": 2}},
        },
        "client": {"encoding": "float32"},
        "streaming": {"chunk_ms": None},
    }
    render("spark-speech.toml", {"spark_speech_settings": wanted}, tmp_path)
    found = settings.load(tmp_path / "spark-speech.toml", environ={})
    assert found.paths.home == Path("/var/lib/spark-speech/slots/blue")
    assert (found.server.http_port, found.server.grpc_port, found.server.metrics_port) == (
        18000,
        18001,
        18002,
    )
    assert found.gateway.upstreams == ("127.0.0.1:18001",)
    assert (found.gateway.http_port, found.gateway.grpc_port) == (19000, 15051)
    assert found.gateway.max_streams == 5
    assert found.gateway.keys["Zoë's laptop"].max_requests == 2
    assert found.gateway.cors_origins == ("https://example.org",)
    assert found.client.encoding == "float32"
    assert found.streaming.chunk_ms is None


def test_a_slots_environment_names_its_release(tmp_path: Path) -> None:
    lines = render("slot.env", {}, tmp_path).splitlines()
    assert f"SPARK_SPEECH_RELEASE={'0' * 64}" in lines
    assert "CUDA_FORCE_PTX_JIT=0" in lines
    assert not any(line.startswith("TRITON_PTXAS_PATH") for line in lines)
