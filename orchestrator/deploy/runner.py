"""Running a playbook with ansible-runner: what it is given, what it writes, and how it is stopped.

Secrets reach Ansible through its vault and the environment alone. Nothing of the environment is written down,
and the variables that are written are the run's own, which hold none.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psutil

from orchestrator.deploy.workspace import unwritten, workspace
from orchestrator.errors import DeployError, MissingDependencyError
from orchestrator.runtime.process import tied

if TYPE_CHECKING:
    from ansible_runner import Runner

Event = Mapping[str, Any]
"""One event of ansible-runner: ``event``, ``event_data``, ``stdout`` and more."""

_POLL_S: Final = 0.25
"""How often a run that prints nothing is asked whether it should stop."""
_GRACE_S: Final = 10.0
"""What Ansible gets to end its workers before it is killed."""


@dataclass(frozen=True, slots=True)
class Play:
    """One playbook to be run.

    Attributes:
        playbook: the file.
        inventory: file or folder.
        variables: extra variables, which are stronger than the inventory's; never a secret.
        limit: host pattern, None for all.
        check: change nothing, and show what would change.
        vault_password_file: None leaves it to ``ANSIBLE_VAULT_PASSWORD_FILE``.
        forks: hosts at once.
        connect_timeout_s: for a connection.
    """

    playbook: Path
    inventory: Path
    variables: Mapping[str, Any] = field(default_factory=dict)
    limit: str | None = None
    check: bool = False
    vault_password_file: Path | None = None
    forks: int = 20
    connect_timeout_s: int = 10

    def options(self, folder: Path) -> list[str]:
        """The options of ansible-playbook that ansible-runner has no parameter for."""
        options = ["--extra-vars", f"@{folder / 'variables.json'}"]
        if self.check:
            options += ["--check", "--diff"]
        if self.vault_password_file is not None:
            options += ["--vault-password-file", str(self.vault_password_file)]
        return options


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended: Ansible's exit code, and whether it was stopped from here."""

    rc: int
    stopped: bool = False

    @property
    def ok(self) -> bool:
        """Whether every host did every task."""
        return self.rc == 0 and not self.stopped


def run(
    play: Play,
    on_event: Callable[[Event], None],
    should_stop: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Run a playbook to its end; blocks.

    Args:
        play: what to run.
        on_event: hears every event, in this thread.
        should_stop: asked a few times a second; once it says True, Ansible is ended, and killed if it does
            not end in 10 s. What a host is doing at that moment it may finish.

    Raises:
        MissingDependencyError: Ansible is not installed.
        DeployError: ansible-runner fails itself.
    """
    try:
        import ansible_runner
        from ansible_runner.exceptions import AnsibleRunnerException
    except ImportError as error:
        raise _no_ansible() from error
    program = ansible_program("ansible-playbook")
    stop = _Stop(should_stop)
    with workspace(forks=play.forks, connect_timeout_s=play.connect_timeout_s) as folder:
        (folder / "variables.json").write_text(json.dumps(dict(play.variables)), encoding="utf-8")
        try:
            runner = ansible_runner.interface.init_runner(
                private_data_dir=str(folder),
                playbook=str(play.playbook),
                inventory=str(play.inventory),
                limit=play.limit,
                cmdline=shlex.join(play.options(folder)),
                envvars=ansible_environment(folder, os.environ),
                suppress_env_files=True,
                fact_cache_type="memory",
                quiet=True,
                event_handler=_handler(on_event),
                cancel_callback=stop,
            )
            _adjust(runner, program)
            with unwritten(Path(runner.config.artifact_dir) / "command"):
                runner.run()
        except (AnsibleRunnerException, OSError) as error:
            raise DeployError(
                f"ansible-runner failed: {error}", path=play.playbook, fix="see the message; try again"
            ) from error
        finally:
            stop.kill()
    return Outcome(rc=254 if runner.rc is None else int(runner.rc), stopped=stop.asked)


def ansible_program(name: str) -> str:
    """The path of one of Ansible's programs, from this Python's environment before any other.

    Raises:
        MissingDependencyError: it is not there.
    """
    own = str(Path(sys.executable).parent)
    found = shutil.which(name, path=os.pathsep.join((own, os.environ.get("PATH", os.defpath))))
    if found is None:
        raise _no_ansible()
    return str(Path(found).absolute())


def ansible_environment(folder: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """What Ansible's environment has beyond this process's own: ``ANSIBLE_*`` that are set there hold."""
    return {
        "ANSIBLE_CONFIG": str(folder / "ansible.cfg"),
        # ansible-runner would turn the check off.
        "ANSIBLE_HOST_KEY_CHECKING": environ.get("ANSIBLE_HOST_KEY_CHECKING", "True"),
        "ANSIBLE_FORCE_COLOR": "0",
        "PATH": os.pathsep.join((str(Path(sys.executable).parent), environ.get("PATH", os.defpath))),
    }


def _no_ansible() -> MissingDependencyError:
    return MissingDependencyError(
        "Ansible is not installed in this environment", fix="pip install 'spark-speech[deploy]'"
    )


def _handler(on_event: Callable[[Event], None]) -> Callable[[dict[str, Any]], bool]:
    def handle(event: dict[str, Any]) -> bool:
        on_event(event)
        return False  # not to be written to a file

    return handle


def _adjust(runner: Runner, program: str) -> None:
    """What ansible-runner takes from files alone, or not at all."""
    config = runner.config
    # Ansible ends with this process, even if that is killed.
    config.command = tied([program, *config.command[1:]])
    # Relative paths in the inventory, of keys say, start where the operator stands, as with ansible-playbook.
    config.cwd = str(Path.cwd())
    config.pexpect_timeout = _POLL_S
    config.suppress_output_file = True


class _Stop:
    """ansible-runner's question whether to kill Ansible; Ansible is asked to end first."""

    def __init__(self, should_stop: Callable[[], bool]) -> None:
        self._should_stop = should_stop
        self._since: float | None = None
        self._before = {process.pid for process in psutil.Process().children()}

    @property
    def asked(self) -> bool:
        """Whether the run was stopped from here."""
        return self._since is not None

    def __call__(self) -> bool:
        if self._since is None:
            if not self._should_stop():
                return False
            self._since = time.monotonic()
            for process in self._started():
                _signal(process, signal.SIGTERM)  # it hands it on to its workers
        return time.monotonic() - self._since > _GRACE_S

    def kill(self) -> None:
        """Leave nothing running, whatever ended the run."""
        for process in self._started():
            for one in (*_descendants(process), process):
                _signal(one, signal.SIGKILL)

    def _started(self) -> list[psutil.Process]:
        return [one for one in psutil.Process().children() if one.pid not in self._before and _ours(one)]


def _ours(process: psutil.Process) -> bool:
    try:
        return "ansible-playbook" in " ".join(process.cmdline())
    except psutil.Error:
        return False


def _descendants(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.Error:
        return []


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    with suppress(psutil.Error):
        process.send_signal(number)
