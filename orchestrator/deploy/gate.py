"""The gate: a server proves itself before it gets anybody's requests.

Readiness says that models were loaded. The gate asks for what users ask for: the transcript of a recording
of which it is known what is said, from every recogniser, over the gateway, and as a live stream, each within
bounds of errors and time. It looks at memory and at the log as well. Every check is made, so that one run
names all that is wrong.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Final

import psutil

from orchestrator.client import Completed, ModelCard, SpeechClient
from orchestrator.contract import Task
from orchestrator.deploy.gateway_probe import GatewayProbe
from orchestrator.deploy.recording import KnownRecording
from orchestrator.errors import SpeechError
from orchestrator.progress import ProgressReporter, SilentProgress
from orchestrator.transcript.wording import spoken_words, word_error_rate

MEBIBYTE: Final = 2**20
MAX_WER: Final = 0.4
"""Of the packaged dialogue. The small Parakeet hears it with 0% errors, the smallest Moonshine, to
which synthetic voices are strange, with 32%, a broken one with 80% and more. Other recordings allow less."""
MAX_LATENCY_S: Final = 30.0
"""For 23 s of audio: two busy cores take 0.2 to 3 s."""
MEMORY_FLOOR_MIB: Final = 8192
"""On unified memory (GB10) running out can freeze the machine: this much is to stay available."""
_LINES: Final = 5
"""Lines of the log that a finding shows."""


class Outcome(StrEnum):
    """How a check went."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a server must keep to.

    Attributes:
        max_wer: errors for each word of the recording.
        max_latency_s: from the request to the transcript, and for a whole stream that is sent at once.
        memory_floor_mib: the kernel's MemAvailable, in MiB.
    """

    max_wer: float = MAX_WER
    max_latency_s: float = MAX_LATENCY_S
    memory_floor_mib: int = MEMORY_FLOOR_MIB


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: what was looked at, how it went, and the figures where there are any."""

    name: str
    outcome: Outcome
    message: str
    wer: float | None = None
    seconds: float | None = None
    fix: str | None = None

    @property
    def failed(self) -> bool:
        """Whether it keeps the server from passing."""
        return self.outcome is Outcome.FAILED

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class GateReport:
    """All findings, in the order of the checks."""

    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing failed."""
        return not any(finding.failed for finding in self.findings)

    @property
    def summary(self) -> str:
        """One line: what failed, or what was heard how well and how soon."""
        if not self.passed:
            return "; ".join(f"{one.name}: {one.message}" for one in self.findings if one.failed)
        heard = [one for one in self.findings if one.wer is not None]
        return "passed: " + ", ".join(
            f"{one.name} {100 * (one.wer or 0):.0f}% errors in {one.seconds or 0:.1f} s" for one in heard
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "passed": self.passed,
            "summary": self.summary,
            "findings": [finding.to_dict() for finding in self.findings],
        }


def judge_transcript(name: str, known: KnownRecording, text: str, seconds: float, bounds: Bounds) -> Finding:
    """A transcript against the bounds. The words themselves stay out of it: reports are logged."""
    wer = word_error_rate(known.text, text)
    wrong = []
    if wer > bounds.max_wer:
        heard = len(spoken_words(text))
        wrong.append(
            f"{100 * wer:.0f}% of the words are wrong, at most {100 * bounds.max_wer:.0f}% may be "
            f"({heard} words heard, {len(spoken_words(known.text))} said)"
        )
    if seconds > bounds.max_latency_s:
        wrong.append(f"it took {seconds:.1f} s, at most {bounds.max_latency_s:g} s are allowed")
    outcome = Outcome.FAILED if wrong else Outcome.PASSED
    message = "; ".join(wrong) or f"{100 * wer:.0f}% errors, {seconds:.1f} s"
    fix = "compare with the release before: spark-speech transcribe --engine MODEL FILE" if wrong else None
    return Finding(name, outcome, message, round(wer, 4), round(seconds, 3), fix)


def judge_models(cards: Sequence[ModelCard], expected: Sequence[str]) -> Finding:
    """Whether all models are ready, those of the release among them."""
    wrong = [
        f"{card.name} is {card.state.lower()}" + (f": {card.reason}" if card.reason else "")
        for card in cards
        if not card.ready
    ]
    wrong += [f"{name} is missing" for name in sorted(set(expected).difference(card.name for card in cards))]
    if not cards and not wrong:
        wrong = ["the server has no model"]
    if wrong:
        return Finding("models", Outcome.FAILED, "; ".join(wrong), fix="the server's log has the reason")
    return Finding("models", Outcome.PASSED, f"ready: {', '.join(card.name for card in cards)}")


def judge_memory(available_bytes: int, bounds: Bounds) -> Finding:
    """Whether enough memory is left."""
    available = available_bytes // MEBIBYTE
    if available >= bounds.memory_floor_mib:
        return Finding("memory", Outcome.PASSED, f"{available} MiB available")
    return Finding(
        "memory",
        Outcome.FAILED,
        f"{available} MiB available, {bounds.memory_floor_mib} MiB must be left",
        fix="serve fewer models, lower streaming.max_streams, or deploy in place instead of side by side",
    )


def judge_log(name: str, errors: Sequence[str]) -> Finding:
    """Whether a log tells of no error."""
    if not errors:
        return Finding(name, Outcome.PASSED, "no error")
    more = f" (and {len(errors) - _LINES} more)" if len(errors) > _LINES else ""
    shown = " | ".join(line[:300] for line in errors[:_LINES])
    return Finding(name, Outcome.FAILED, f"{shown}{more}", fix="read the whole log: spark-speech logs")


@dataclass(frozen=True, slots=True)
class Gate:
    """What is asked of one server.

    Attributes:
        client: of the server's Triton.
        known: the recording.
        bounds: what must be kept to.
        gateway: the server's gateway, where there is one.
        model: the one recogniser to ask; None asks all that know the recording's language.
        expected: the models of the release.
        logs: the errors of each log, by the log's name.
    """

    client: SpeechClient
    known: KnownRecording
    bounds: Bounds = Bounds()
    gateway: GatewayProbe | None = None
    model: str | None = None
    expected: tuple[str, ...] = ()
    logs: tuple[tuple[str, tuple[str, ...]], ...] = ()

    def run(self, progress: ProgressReporter | None = None) -> GateReport:
        """Make every check; what fails is a finding, never an exception."""
        task = (progress or SilentProgress()).task("Gate")
        findings = []
        for finding in self._checks():
            findings.append(finding)
            task.update(description=f"Gate: {finding.name} {finding.outcome}")
        report = GateReport(tuple(findings))
        task.finish("Gate: passed" if report.passed else "Gate: failed")
        return report

    def _checks(self) -> Iterator[Finding]:
        try:
            cards = self.client.models()
        except SpeechError as error:
            yield _failure("models", error)
        else:
            yield judge_models(cards, self.expected)
            yield from self._recognisers([card for card in cards if card.ready])
        if self.gateway is not None:
            yield self._over_gateway(self.gateway)
        yield judge_memory(psutil.virtual_memory().available, self.bounds)
        for name, errors in self.logs:
            yield judge_log(name, errors)

    def _recognisers(self, ready: Sequence[ModelCard]) -> Iterator[Finding]:
        able = [card for card in ready if card.task is Task.RECOGNIZE and self.model in (None, card.name)]
        for card in able:
            yield self._heard(card, f"transcript by {card.name}", self._transcribe)
        if not any(self._knows(card) for card in able):
            wanted = self.model or f"recogniser of {self.known.language}"
            yield Finding(
                "transcript",
                Outcome.FAILED,
                f"the server has no {wanted} that is ready",
                fix="give the gate a recording that a model of the release can hear (--recording)",
            )
        for card in ready:
            if card.task is Task.STREAM:
                yield self._heard(card, f"live stream by {card.name}", self._stream)
        if any(card.task is Task.DIARIZE for card in ready) and any(self._knows(card) for card in able):
            yield self._speakers()

    def _heard(self, card: ModelCard, name: str, hear: Callable[[ModelCard], str]) -> Finding:
        if not self._knows(card):
            message = f"it does not know {self.known.language}"
            return Finding(name, Outcome.SKIPPED, message, fix="give the gate a recording in its language")
        began = time.monotonic()
        try:
            text = hear(card)
        except SpeechError as error:
            return _failure(name, error)
        return judge_transcript(name, self.known, text, time.monotonic() - began, self.bounds)

    def _knows(self, card: ModelCard) -> bool:
        return not card.languages or self.known.language in card.languages

    def _transcribe(self, card: ModelCard) -> str:
        return self.client.transcribe(
            self.known.path, engine=card.name, language=self.known.language, diarize=False
        ).text

    def _stream(self, card: ModelCard) -> str:
        events = self.client.stream(
            str(self.known.path), engine=card.name, language=self.known.language, pace="fast", diarize=False
        )
        done = [event.transcript.text for event in events if isinstance(event, Completed)]
        return done[-1] if done else ""

    def _speakers(self) -> Finding:
        name = "speakers"
        began = time.monotonic()
        try:
            transcript = self.client.transcribe(
                self.known.path, engine=self.model or "auto", language=self.known.language
            )
        except SpeechError as error:
            return _failure(name, error)
        seconds = time.monotonic() - began
        found = {segment.speaker for segment in transcript.segments} - {None}
        if found and seconds <= self.bounds.max_latency_s:
            return Finding(name, Outcome.PASSED, f"{len(found)} found, {seconds:.1f} s")
        message = (
            f"it took {seconds:.1f} s, at most {self.bounds.max_latency_s:g} s are allowed"
            if found
            else "the diarizer finds nobody in the recording"
        )
        return Finding(name, Outcome.FAILED, message, fix="see the server's log")

    def _over_gateway(self, gateway: GatewayProbe) -> Finding:
        name = "transcript over the gateway"
        try:
            gateway.check_ready()
            began = time.monotonic()
            text = gateway.transcribe(
                self.known.path, model=self.model or "auto", language=self.known.language
            )
        except SpeechError as error:
            return _failure(name, error)
        return judge_transcript(name, self.known, text, time.monotonic() - began, self.bounds)


def _failure(name: str, error: SpeechError) -> Finding:
    return Finding(name, Outcome.FAILED, error.message, fix=error.fix)
