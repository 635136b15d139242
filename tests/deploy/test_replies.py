from __future__ import annotations

import pytest

from orchestrator.deploy.replies import fix_for, reason_of, reply_of


def test_a_program_of_ours_speaks_for_itself() -> None:
    result = {"stdout": '{"message": "the host is locked", "fix": "wait"}', "msg": "non-zero return code"}
    assert reason_of(result) == ("the host is locked", "wait")


def test_a_message_with_a_fix_is_taken_apart() -> None:
    assert reason_of({"msg": "disk: 1 GiB free. Fix: free some."}) == ("disk: 1 GiB free.", "free some.")


def test_a_loop_fails_for_its_failed_item() -> None:
    result = {
        "msg": "One or more items failed",
        "results": [{"msg": "fine"}, {"failed": True, "msg": "worse"}],
    }
    assert reason_of(result) == ("worse", None)


def test_a_command_fails_with_what_it_printed_last() -> None:
    result = {
        "cmd": ["rsync", "-a"],
        "rc": 11,
        "msg": "non-zero return code",
        "stderr": "a\nNo space left on device\n",
    }
    reason, fix = reason_of(result)
    assert reason == "rsync -a: exit code 11: a\nNo space left on device"
    assert fix is not None
    assert "free space" in fix


def test_a_module_that_crashed_shows_its_last_lines() -> None:
    reason, _ = reason_of(
        {"msg": "MODULE FAILURE\nSee stdout/stderr", "module_stderr": "x\n" * 50 + "ImportError: y"}
    )
    assert reason.endswith("ImportError: y")
    assert reason.count("x") == 4


def test_ansibles_prefixes_go() -> None:
    assert reason_of({"msg": "Task failed: Module failed: no such user"}) == ("no such user", None)


def test_hidden_output_is_said_to_be_hidden() -> None:
    reason, _ = reason_of({"censored": "the output has been hidden", "stdout": '{"message": "hunter2"}'})
    assert "hidden" in reason
    assert "hunter2" not in reason


def test_a_long_reason_is_shortened() -> None:
    assert len(reason_of({"msg": "x" * 9000})[0]) < 2000


def test_nothing_said_is_still_a_reason() -> None:
    assert reason_of({})[0]
    assert reason_of({}, unreachable=True)[0]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("root@h: Permission denied (publickey,password).", "ssh-copy-id"),
        ("Host key verification failed.", "known_hosts"),
        ("ssh: Could not resolve hostname spark: Name or service not known", "ansible_host"),
        ("connect to host 10.0.0.1 port 22: Connection refused", "sshd"),
        ("Connection timed out during banner exchange", "network"),
        ("Shared connection to h closed. client_loop: send disconnect: Broken pipe", "network"),
        ("Missing sudo password", "ansible_become_password"),
        ("sudo: a password is required", "ansible_become_password"),
        ("bob is not in the sudoers file", "sudo"),
        ("OSError: [Errno 28] No space left on device", "free space"),
        ("Attempting to decrypt but no vault secrets found", "vault"),
        ("/bin/sh: 1: python3: not found", "python3"),
        ("'spark_speech_wheel' is undefined", "variable"),
    ],
)
def test_known_texts_have_a_fix(text: str, part: str) -> None:
    assert part in str(fix_for(text))


def test_an_unknown_text_has_none() -> None:
    assert fix_for("the moon is in the wrong place") is None


@pytest.mark.parametrize("output", [None, 7, "", "hello", "[1]", "{broken", "{} trailing"])
def test_what_is_no_json_object_is_no_reply(output: object) -> None:
    assert reply_of(output) is None
