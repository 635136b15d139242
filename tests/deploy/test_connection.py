from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.deploy import connection
from orchestrator.deploy.connection import command_on, host_program
from orchestrator.deploy.inventory import Host
from orchestrator.errors import HostUnreachableError

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="others go through sudo, which may ask for a password")
LOCAL = Host("here", {"ansible_connection": "local"})


def ask(command: list[str], timeout_s: float = 60.0, host: Host = LOCAL) -> connection.Answer:
    return asyncio.run(connection.ask(host, command, timeout_s=timeout_s, connect_timeout_s=1))


def test_ssh_gets_what_the_inventory_says() -> None:
    host = Host(
        "spark",
        {
            "ansible_host": "10.0.0.1",
            "ansible_port": 2222,
            "ansible_user": "nvidia",
            "ansible_ssh_private_key_file": "/k",
            "ansible_ssh_common_args": "-o ProxyJump='a b' -o ConnectTimeout=99",
        },
    )
    command = command_on(host, ["true"], connect_timeout_s=7)
    assert command[:5] == ["ssh", "-o", "ProxyJump=a b", "-o", "ConnectTimeout=99"]
    assert command.index("ConnectTimeout=99") < command.index("ConnectTimeout=7")  # SSH takes the first
    assert {"Port=2222", "User=nvidia", "BatchMode=yes", "/k"} <= set(command)
    assert command[-3:-1] == ["--", "10.0.0.1"]


def test_a_name_that_looks_like_an_option_is_none() -> None:
    command = command_on(Host("-oProxyCommand=evil"), ["true"], connect_timeout_s=1)
    assert command[-3] == "--"


def test_a_local_host_needs_no_ssh() -> None:
    assert command_on(LOCAL, ["true"], connect_timeout_s=1)[0] == "sh"
    assert command_on(Host("localhost"), ["true"], connect_timeout_s=1)[0] == "sh"


@as_root
def test_arguments_arrive_as_they_are() -> None:
    words = ["two words", "$HOME", "a'b\"c", "; false", "", "*", "line\nbreak"]
    answer = ask([sys.executable, "-c", "import json, sys; print(json.dumps(sys.argv[1:]))", *words])
    assert json.loads(answer.stdout) == words


def test_a_password_never_becomes_an_argument() -> None:
    host = Host("h", {"ansible_become_password": "hunter2"})
    command = command_on(host, ["true"], connect_timeout_s=1)
    assert "hunter2" not in " ".join(command)
    assert "sudo -S" in command[-1]


@pytest.mark.parametrize("value", ["{{ vault_key }}", {"__ansible_vault": "$ANSIBLE_VAULT;1.1"}])
def test_a_variable_that_only_ansible_can_resolve_is_refused(value: object) -> None:
    with pytest.raises(HostUnreachableError) as caught:
        command_on(Host("h", {"ansible_host": value}), ["true"], connect_timeout_s=1)
    assert caught.value.fix


def test_another_kind_of_connection_is_refused() -> None:
    with pytest.raises(HostUnreachableError, match="winrm"):
        command_on(Host("h", {"ansible_connection": "winrm"}), ["true"], connect_timeout_s=1)


def test_the_host_program_runs_with_the_hosts_python_and_home() -> None:
    host = Host("h", {"ansible_python_interpreter": "/usr/bin/python3.11", "spark_speech_home": "/srv"})
    command = ["/usr/bin/python3.11", "/usr/local/lib/spark-speech/host.pyz", "--home", "/srv", "status"]
    assert host_program(host, "status") == command
    assert host_program(Host("h", {"ansible_python_interpreter": "auto_silent"}))[0] == "python3"


@as_root
def test_an_answer_has_all_three_parts() -> None:
    answer = ask(["sh", "-c", "echo out; echo err >&2; exit 3"])
    assert (answer.rc, answer.stdout, answer.stderr) == (3, "out\n", "err\n")


@as_root
def test_no_answer_in_time_is_an_error_and_leaves_no_process(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    with pytest.raises(HostUnreachableError, match="no answer within"):
        ask(
            [
                sys.executable,
                "-c",
                f"import os, time; open({str(note)!r}, 'w').write(str(os.getpid())); time.sleep(1000)",
            ],
            1.5,
        )
    if note.exists() and (pid := note.read_text()):  # it may have ended before it had written
        assert not Path(f"/proc/{pid}").exists()


def test_a_refused_connection_is_unreachable_with_a_fix() -> None:
    if subprocess.run(["sh", "-c", "command -v ssh"], capture_output=True, check=False).returncode != 0:
        pytest.skip("OpenSSH's client is not installed")
    host = Host("gone", {"ansible_host": "127.0.0.1", "ansible_port": 9})
    with pytest.raises(HostUnreachableError) as caught:
        ask(["true"], host=host)
    assert caught.value.host == "gone"
    assert "sshd" in str(caught.value.fix)
