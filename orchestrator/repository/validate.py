"""Whether a release is good: its configuration, its tensor contract, this machine, and a real server.

Each check gives a `Check`; all that fail are told together.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from orchestrator.contract import CONTRACTS, Parameter, Task, outputs_of
from orchestrator.errors import ConfigurationError, ReleaseInvalidError, RuntimeFailure
from orchestrator.repository.catalog import MODEL_VERSION
from orchestrator.repository.config import FILE_NAME, Device, ModelConfig, SequenceBatching, parse
from orchestrator.repository.manifest import Manifest
from orchestrator.repository.release import REPOSITORY

Outcome = Literal["passed", "failed", "skipped"]
LoadCheck = Callable[[Path, Sequence[str]], None]
"""Loads the named models of a model repository in a real server; raises `RuntimeFailure` where it cannot."""
_MODEL_FILE: Final = "model.py"


@dataclass(frozen=True, slots=True)
class Check:
    """One check: what, how it went, and why."""

    name: str
    outcome: Outcome
    detail: str = ""


def gpu_count(devices: Path = Path("/dev")) -> int:
    """How many NVIDIA GPUs this machine (or container) may use, from their device nodes."""
    return sum(path.name[6:].isdigit() for path in devices.glob("nvidia*"))


def device_named(wanted: str) -> Device:
    """``cpu`` or ``cuda``; ``auto`` is cuda where this machine has a GPU.

    Raises:
        ConfigurationError: there is no such device.
    """
    if wanted == "auto":
        return "cuda" if gpu_count() else "cpu"
    if wanted not in ("cpu", "cuda"):
        raise ConfigurationError(f"there is no device {wanted!r}", fix="use --device auto, cpu or cuda")
    return "cuda" if wanted == "cuda" else "cpu"


def machine() -> str:
    """This machine's processor, as `Manifest.target` names it."""
    return "aarch64" if platform.machine() in {"aarch64", "arm64"} else platform.machine()


def validate(
    folder: Path,
    manifest: Manifest,
    *,
    load: LoadCheck | None = None,
    skip_machine: str | None = None,
    gpus: Callable[[], int] = gpu_count,
) -> tuple[Check, ...]:
    """Check the release in ``folder``.

    Args:
        folder: the release's folder, published or staged.
        manifest: its manifest.
        load: how to load it in a server; None skips that.
        skip_machine: why this machine need not be able to serve it; None checks that it can.
        gpus: counts the GPUs here.

    Returns:
        The checks, none of which failed.

    Raises:
        ReleaseInvalidError: names every check that failed.
    """
    repository = folder / REPOSITORY
    checks: list[Check] = []
    configs: list[ModelConfig] = []
    for model in manifest.models:
        try:
            config = parse(
                (repository / model.name / FILE_NAME).read_text(encoding="utf-8"),
                Path(model.name) / FILE_NAME,
            )
        except (OSError, UnicodeDecodeError) as error:
            checks.append(Check(f"{model.name}: schema", "failed", f"no readable {FILE_NAME}: {error}"))
            continue
        except ReleaseInvalidError as error:
            checks.append(Check(f"{model.name}: schema", "failed", error.message))
            continue
        configs.append(config)
        checks.append(_result(f"{model.name}: schema", _schema_faults(config, model.name, repository)))
        checks.append(_result(f"{model.name}: tensor contract", _contract_faults(config)))
    checks.append(_machine_check(configs, manifest, skip_machine, gpus))
    _raise_failed(checks, manifest)
    checks.append(_load_check(repository, manifest, load, skip_machine))
    _raise_failed(checks, manifest)
    return tuple(checks)


def outcomes(checks: Sequence[Check]) -> dict[str, str]:
    """Check names and outcomes, as `Release.checks` keeps them."""
    return {check.name: check.outcome for check in checks}


def _schema_faults(config: ModelConfig, name: str, repository: Path) -> list[str]:
    faults = []
    if config.name != name:
        faults.append(f"it names the model {config.name!r}")
    if config.max_batch_size < 1:
        faults.append("max_batch_size is below 1, so requests would lack their leading dimension")
    if not config.instances:
        faults.append("it has no instance group")
    if not (repository / name / MODEL_VERSION / _MODEL_FILE).is_file():
        faults.append(f"{MODEL_VERSION}/{_MODEL_FILE} is missing")
    needed = {Parameter.TASK, Parameter.ENGINE, Parameter.MAX_WINDOW_S}
    live = config.parameters.get(Parameter.TASK) == Task.STREAM
    if live:
        needed |= {Parameter.CHUNK_MS, Parameter.MAX_STREAMS, Parameter.IDLE_TIMEOUT_S}
    lacking = sorted(str(key) for key in needed if not config.parameters.get(key))
    if lacking:
        faults.append(f"parameters are missing: {', '.join(lacking)}")
    if live != (config.sequences is not None):
        faults.append("live streams, and they alone, need sequence_batching")
    elif config.sequences is not None:
        faults += _sequence_faults(config, config.sequences)
    return faults


def _sequence_faults(config: ModelConfig, sequences: SequenceBatching) -> list[str]:
    try:
        most = int(config.parameters.get(Parameter.MAX_STREAMS, "0"))
        idle_s = float(config.parameters.get(Parameter.IDLE_TIMEOUT_S, "0"))
    except ValueError as error:
        return [f"a parameter is no number: {error}"]
    faults = []
    if sequences.candidates * sum(group.count for group in config.instances) <= most:
        faults.append(f"{sequences.candidates} candidates leave newcomers over {most} streams waiting")
    if sequences.idle_us <= idle_s * 1e6:
        faults.append("Triton would forget idle streams before the model does")
    return faults


def _contract_faults(config: ModelConfig) -> list[str]:
    try:
        task = Task(config.parameters.get(Parameter.TASK, ""))
    except ValueError:
        return [f"its task is none of {', '.join(Task)}"]
    detects = config.parameters.get(Parameter.DETECTS_LANGUAGE) == "true"
    faults = []
    for kind, have, want in (
        ("input", config.inputs, CONTRACTS[task].inputs),
        ("output", config.outputs, outputs_of(task, detects_language=detects)),
    ):
        known, given = {spec.name: spec for spec in want}, {spec.name: spec for spec in have}
        faults += [f"{kind} {name} is missing" for name in known.keys() - given.keys()]
        faults += [f"{kind} {name} is not in the contract" for name in given.keys() - known.keys()]
        faults += [
            f"{kind} {name} is {given[name].datatype}{list(given[name].dims)}, the contract has "
            f"{known[name].datatype}{list(known[name].dims)}"
            for name in known.keys() & given.keys()
            if given[name] != known[name]
        ]
    return sorted(faults)


def _machine_check(
    configs: Sequence[ModelConfig], manifest: Manifest, skip: str | None, gpus: Callable[[], int]
) -> Check:
    name = "instance groups against this machine"
    if skip is not None:
        return Check(name, "skipped", skip)
    faults = []
    if manifest.target != machine():
        faults.append(f"it is for {manifest.target}, this machine is {machine()}")
    wants_gpu = sorted(
        config.name for config in configs if any(group.device == "cuda" for group in config.instances)
    )
    if wants_gpu and gpus() == 0:
        faults.append(f"{', '.join(wants_gpu)} want a GPU and there is none here (build with --device cpu)")
    return _result(name, faults)


def _load_check(repository: Path, manifest: Manifest, load: LoadCheck | None, skip: str | None) -> Check:
    name = "load in tritonserver"
    if load is None:
        return Check(name, "skipped", skip or "no server to try it in")
    try:
        load(repository, [model.name for model in manifest.models])
    except RuntimeFailure as error:
        log = "" if error.path is None else f" (log: {error.path})"
        return Check(name, "failed", f"{error.message}{log}")
    return Check(name, "passed")


def _result(name: str, faults: list[str]) -> Check:
    return Check(name, "failed" if faults else "passed", "; ".join(faults))


def _raise_failed(checks: Sequence[Check], manifest: Manifest) -> None:
    failed = [check for check in checks if check.outcome == "failed"]
    if failed:
        raise ReleaseInvalidError(
            f"release {manifest.id[:16]} is not good: "
            + "; ".join(f"{check.name}: {check.detail}" for check in failed),
            fix="correct what is named and build again",
        )
