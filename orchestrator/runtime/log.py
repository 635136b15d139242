"""Reading tritonserver's log: how far each model is, and why one failed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from orchestrator.backend.faults import decode

_LOADING = re.compile(r'"loading: (?P<model>[^":]+):\d+"')
_READY = re.compile(r"\"successfully loaded '(?P<model>[^']+)'")
_FAILED = re.compile(r"\"failed to load '(?P<model>[^']+)' version \d+: (?P<reason>.*?)\"?$")
_UNKNOWN = re.compile(r"\"failed to poll model '(?P<model>[^']+)': (?P<reason>.*?)\"?$")
_STATUS = re.compile(r"^(?:Internal|Invalid argument|Unavailable|Not found|Unsupported|Unknown): ")
_UNHEALTHY = "is not healthy"
_HARMLESS = ("CudaDriverHelper has not been initialized", "Failed to initialize NVML")
"""Printed on every machine without a GPU."""
_PYTHON_ERROR = re.compile(r"^(?:[A-Za-z_][\w.]*\.)?[A-Z]\w*(?:Error|Exception|Interrupt|Exit)(?::|$)")
_PROSE_ERROR = re.compile(
    r"error while loading shared libraries|cannot open shared object|^error: ", re.IGNORECASE
)
_SERVER_ERROR = re.compile(r"^E\d{4} \S+ \d+ [\w.]+:\d+\] \"?(?P<text>.*?)\"?$")
_CONTAINER = re.compile(r"^[\w.-]+-\d+\s+\| ")
_LEVEL = re.compile(
    r"^(?:\S+ ){0,3}\W?(?:ERROR|CRITICAL|FATAL)\b"
    r'|"level": ?"(?:error|critical|fatal)"'
    r"|^Traceback "
)
"""A logger's level in the first words of a line or in one of JSON; a stack trace."""


class ModelPhase(StrEnum):
    """How far a model is."""

    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class LogFacts:
    """What a log says: each model's phase, and each failed model's reason."""

    phases: dict[str, ModelPhase]
    reasons: dict[str, str]


def facts(text: str) -> LogFacts:
    """Read the log so far."""
    phases: dict[str, ModelPhase] = {}
    reasons: dict[str, str] = {}
    for line in text.splitlines():
        if match := _LOADING.search(line):
            phases[match["model"]] = ModelPhase.LOADING
        elif match := _READY.search(line):
            phases[match["model"]] = ModelPhase.READY
        elif match := _FAILED.search(line) or _UNKNOWN.search(line):
            phases[match["model"]] = ModelPhase.FAILED
            reasons[match["model"]] = explain(match["reason"], text)
    return LogFacts(phases, reasons)


def explain(reason: str, log: str = "") -> str:
    """Why a model failed, in one line: Triton's wrapping and the call stack taken off.

    Args:
        reason: what Triton says, as in its log or its repository index.
        log: the log so far; asked where Triton only says that the model's process died.
    """
    plain = _STATUS.sub("", reason.replace("\\n", "\n").strip())
    if (known := decode(plain)) is not None:
        return known.message if known.fix is None else f"{known.message}. {known.fix}"
    if _UNHEALTHY in plain:
        cause = last_error(log)
        died = "the model's process died"
        return died if cause is None or _UNHEALTHY in cause else f"{died}: {cause}"
    head, _, stack = plain.partition("\n\nAt:\n")
    where = next((line.strip() for line in stack.splitlines() if "<frozen" not in line), None)
    first = " ".join(head.split())
    return first if where is None else f"{first} [{where}]"


def error_lines(log: str) -> list[str]:
    """Every line that tells an error, each once, in order: of Triton, of Python, or of a logger's level.

    Lines that docker compose prefixed with a container's name are read like others.
    """
    found: dict[str, None] = {}
    for line in log.splitlines():
        text = _CONTAINER.sub("", line.strip())
        if any(known in text for known in _HARMLESS):
            continue
        if any(form.search(text) for form in (_SERVER_ERROR, _PYTHON_ERROR, _PROSE_ERROR, _LEVEL)):
            found[text] = None
    return list(found)


def last_error(log: str) -> str | None:
    """The last line that tells an error: a Python exception, a missing library, or Triton's own."""
    own: str | None = None
    for line in reversed(log.splitlines()):
        text = line.strip()
        if any(known in text for known in _HARMLESS):
            continue
        if _PYTHON_ERROR.match(text) or _PROSE_ERROR.search(text):
            return text
        match = _SERVER_ERROR.match(text)
        if own is None and match:
            own = explain(match["text"])
    return own


def tail(path: Path, max_bytes: int = 256 * 1024) -> str:
    """The end of a log, empty where there is none."""
    try:
        with path.open("rb") as source:
            source.seek(0, 2)
            source.seek(max(0, source.tell() - max_bytes))
            return source.read().decode("utf-8", errors="replace")
    except OSError:
        return ""
