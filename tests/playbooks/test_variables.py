"""What the playbooks say about themselves, read as text: no Ansible runs here."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from orchestrator.coldstart.cuda_cache import cuda_environment

PLAYBOOKS = Path(__file__).parents[2] / "playbooks"
DEFAULTS = PLAYBOOKS / "roles" / "spark_speech" / "defaults" / "main.yml"
GIVEN = {
    # Of the inventory or of one run; the playbooks say `default(...)`.
    "spark_speech_address",
    "spark_speech_canary",
    "spark_speech_serial",
}

SECRETS = {"host_secrets_path": "secrets.env", "spark_speech_tls_pem": "front.pem"}
"""Where the paths of files stand that nobody is shown."""


def test_every_variable_has_a_comment_and_every_section_a_title() -> None:
    documented, _, derived = DEFAULTS.read_text(encoding="utf-8").partition("# --- Derived")
    assert derived
    previous = ""
    for line in documented.splitlines():
        # A comment may speak of two that belong together, such as a certificate and its key.
        if re.match(r"spark_speech_\w+:", line) and not re.match(r"spark_speech_\w+: \S", previous):
            assert previous.startswith("#"), f"{line} has no comment"
            assert not previous.startswith("# ---"), f"{line} has only a title"
        previous = line


def test_every_variable_that_is_used_is_known() -> None:
    known = set(yaml.safe_load(DEFAULTS.read_text(encoding="utf-8"))) | GIVEN
    unknown = {}
    for path in sorted(PLAYBOOKS.rglob("*")):
        if path.suffix not in (".yml", ".j2"):
            continue
        text = path.read_text(encoding="utf-8")
        # What is looked up with a default may be unknown; a name of a file or a metric is none of a variable.
        for name in re.findall(r"(?<![\w/.-])(spark_speech_[a-z_]+)\b(?!\.prom|\s*\|\s*default|\{)", text):
            if not name.endswith("_") and name not in known and f"{name} | default" not in text:
                unknown.setdefault(name, path.relative_to(PLAYBOOKS).as_posix())
    metrics = {"spark_speech_release_info"}
    assert {name: where for name, where in unknown.items() if name not in metrics} == {}


def test_the_slots_environment_keeps_compiled_gpu_code() -> None:
    template = (PLAYBOOKS / "roles/slot/templates/slot.env.j2").read_text(encoding="utf-8")
    cache = "{{ spark_speech_slot_dir }}/cache/gpu"
    lines = template.splitlines()
    for name, value in cuda_environment(Path(cache)).items():
        assert f"{name}={value}" in lines


@pytest.mark.parametrize("name", SECRETS.values())
def test_secrets_are_never_shown(name: str) -> None:
    for path in PLAYBOOKS.rglob("tasks/*.yml"):
        for task in yaml.safe_load(path.read_text(encoding="utf-8")) or []:
            for step in [task, *task.get("block", [])]:
                copied = step.get("ansible.builtin.copy", {})
                shown = f"{copied.get('dest', '')}"
                for variable, file in SECRETS.items():
                    shown = shown.replace(f"{{{{ {variable} }}}}", file)
                if shown.endswith(name):
                    assert step.get("no_log") is True
                    assert step.get("diff") is False
                    return
    pytest.fail(f"no task writes {name}")
