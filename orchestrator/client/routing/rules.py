"""Which engines do a job, and in which order: a pure choice among cards, by the rules of the settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.client.catalog import ModelCard
from orchestrator.client.routing import refusals
from orchestrator.client.routing.job import AUTO, Conditions, RouteJob
from orchestrator.contract import Task
from orchestrator.engines.checks import primary_tag
from orchestrator.settings_engines import ANY_LANGUAGE, UNKNOWN_LANGUAGE, RouteRule, RoutingSettings
from orchestrator.transcript.routing import Considered, RoutingRecord

MANY_LANGUAGES = "mul"
"""Among a card's languages: it takes any (ISO 639-2: multiple languages)."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model that can do the job, and why it stands where it does."""

    card: ModelCard
    why: str


@dataclass(frozen=True, slots=True)
class Decision:
    """Who does a job.

    Attributes:
        job: what was asked.
        rule: which rule counted, for people.
        candidates: at least one; the first does the job, and the next where that fails.
        left_out: engines that a rule names or that are there, and why they cannot do it.
    """

    job: RouteJob
    rule: str
    candidates: tuple[Candidate, ...]
    left_out: tuple[Considered, ...] = ()

    @property
    def cards(self) -> tuple[ModelCard, ...]:
        """The candidates' cards."""
        return tuple(candidate.card for candidate in self.candidates)

    def record(self) -> RoutingRecord:
        """The decision as a transcript keeps it; the first candidate has the job."""
        first = self.candidates[0]
        return RoutingRecord(
            task=str(self.job.task),
            language=self.job.language,
            language_confidence=self.job.confidence,
            rule=self.rule,
            engine=first.card.engine,
            model=first.card.name,
            considered=(
                *(Considered(engine=one.card.engine, why=one.why) for one in self.candidates),
                *self.left_out,
            ),
        )


def answers_to(name: str, card: ModelCard) -> bool:
    """Whether ``name`` means the model: its own name, its engine's, or that of the engine's family."""
    return name in (card.name, card.engine) or card.engine.startswith(f"{name}_")


def knows(card: ModelCard, language: str | None) -> bool:
    """Whether the model recognises the language; any where none is asked for."""
    known = [primary_tag(tag) for tag in card.languages]
    return language is None or primary_tag(language) in known or MANY_LANGUAGES in known


def rule_for(job: RouteJob, rules: Sequence[RouteRule]) -> RouteRule | None:
    """The first rule that is for the job."""
    return next((rule for rule in rules if _is_for(rule, job)), None)


def decide(
    cards: Sequence[ModelCard],
    job: RouteJob,
    settings: RoutingSettings,
    conditions: Conditions | None = None,
    *,
    host: str,
) -> Decision:
    """The models for a job, the best first.

    A rule's engines come in its order, the others, where the settings allow them, by rank; equal ranks: what
    takes the recording in one piece, then by name. Engines whose breaker is open come last, since somebody
    must do the work.

    Args:
        cards: everything there is, ready or not.
        job: what is wanted.
        settings: the rules.
        conditions: how the engines are.
        host: ``host:port``, for messages.

    Raises:
        ModelNotFoundError: there is no such engine, or no recogniser at all.
        ModelNotReadyError: what could do it is not loaded.
        UnsupportedLanguageError: no ready recogniser of the wanted engine knows the language.
    """
    now = conditions or Conditions()
    named = [card for card in cards if job.engine == AUTO or answers_to(job.engine, card)]
    ready = [card for card in named if card.ready and card.task is job.task]
    ready.sort(key=lambda card: (card.rank, (job.duration_s or 0.0) > card.max_window_s, card.name))
    rule = rule_for(job, settings.rules) if job.engine == AUTO else None
    choice = _Choice(job, settings, now)
    if rule is not None:
        choice.by_rule(rule, cards, ready)
    if job.engine != AUTO:
        choice.named(ready)
    elif rule is None or settings.otherwise == "any":
        choice.the_others(ready)
    found = choice.decision(rule)
    if found is not None:
        return found
    if not ready:
        raise refusals.nothing_ready(cards, named, job, host)
    if not any(knows(card, job.language) for card in ready):
        raise refusals.no_language(cards, ready, job, host)
    reasons = [f"{one.engine}: {one.why}" for one in choice.left_out]
    raise refusals.nobody_left("routing.rules" if rule is None else told(rule), reasons, host)


def diarizers(cards: Sequence[ModelCard], *, host: str) -> tuple[ModelCard, ...]:
    """What can name speakers, the lowest rank first; at least one.

    Raises:
        ModelNotFoundError: there is nothing.
        ModelNotReadyError: there is, but not loaded.
    """
    able = [card for card in cards if card.ready and card.task is Task.DIARIZE]
    if not able:
        raise refusals.no_diarizer(cards, host)
    return tuple(sorted(able, key=lambda card: (card.rank, card.name)))


def told(rule: RouteRule) -> str:
    """A rule for people: ``en, streaming -> parakeet, moonshine``."""
    parts = [rule.language]
    if rule.task != "any":
        parts.append(rule.task)
    if rule.min_duration_s:
        parts.append(f"from {rule.min_duration_s:g} s")
    if rule.max_duration_s is not None:
        parts.append(f"up to {rule.max_duration_s:g} s")
    by = "" if rule.order == "listed" else f" by {rule.order}"
    return f"{', '.join(parts)} -> {', '.join(rule.engines)}{by}"


def _is_for(rule: RouteRule, job: RouteJob) -> bool:
    if rule.task == "diarize" and not job.diarize:
        return False
    if rule.task in ("offline", "streaming") and (rule.task == "streaming") != (job.task is Task.STREAM):
        return False
    bounded = rule.min_duration_s > 0 or rule.max_duration_s is not None
    if bounded and job.duration_s is None:
        return False
    if not rule.min_duration_s <= (job.duration_s or 0.0) <= (rule.max_duration_s or float("inf")):
        return False
    if job.language is None:
        return rule.language == UNKNOWN_LANGUAGE
    if rule.language == ANY_LANGUAGE:
        return True
    return _covers(rule.language, job.language)


def _covers(tag: str, language: str) -> bool:
    """Whether all subtags that both have are the same: ``en`` covers ``en-US``, ``kn-IN`` covers ``kn``."""
    wanted, given = (text.strip().replace("_", "-").lower().split("-") for text in (tag, language))
    return all(one == other for one, other in zip(wanted, given, strict=False))


class _Choice:
    """Gathers candidates in order, each model once."""

    def __init__(self, job: RouteJob, settings: RoutingSettings, now: Conditions) -> None:
        self._job = job
        self._settings = settings
        self._now = now
        self._found: list[Candidate] = []
        self.left_out: list[Considered] = []

    def by_rule(self, rule: RouteRule, cards: Sequence[ModelCard], ready: Sequence[ModelCard]) -> None:
        """The engines of ``rule``, in its order."""
        wanted: list[ModelCard] = []
        for name in rule.engines:
            meant = [card for card in ready if answers_to(name, card)]
            wanted += [card for card in meant if card not in wanted]
            if not meant:
                self.left_out.append(Considered(engine=name, why=self._absent(name, cards)))
        if rule.order == "cost":
            wanted.sort(key=lambda card: self._cost(card))
        elif rule.order == "load":
            wanted.sort(key=lambda card: self._now.load.get(card.engine, 0.0))
        place = {"listed": "of", "cost": "by cost of", "load": "by load of"}[rule.order]
        for number, card in enumerate(wanted, start=1):
            self._add(card, f"number {number} {place} the rule {told(rule)}")

    def the_others(self, ready: Sequence[ModelCard]) -> None:
        """Everything else, by rank, that keeps the audio in the house."""
        for card in ready:
            if card.third_party:
                if not any(one.card is card for one in self._found):
                    self._leave_out(card, "sends audio to a service of others, and no rule names it for this")
            else:
                self._add(card, f"rank {card.rank}")

    def named(self, ready: Sequence[ModelCard]) -> None:
        """What the caller named, by rank."""
        for card in ready:
            self._add(card, f"named by the caller, rank {card.rank}")

    def decision(self, rule: RouteRule | None) -> Decision | None:
        """What was found, those whose breaker is open last; None: nothing."""
        if not self._found:
            return None
        found = [one for one in self._found if one.card.engine not in self._now.blocked]
        for one in self._found:
            if one.card.engine in self._now.blocked:
                probe_s = self._now.blocked[one.card.engine]
                found.append(Candidate(one.card, f"fails at the moment, next probe in {probe_s:.0f} s"))
        if self._job.engine != AUTO:
            name = f"the caller's engine {self._job.engine}"
        else:
            name = "the models' ranks" if rule is None else told(rule)
        return Decision(self._job, name, tuple(found), tuple(self.left_out))

    def _add(self, card: ModelCard, why: str) -> None:
        if any(one.card is card for one in self._found):
            return
        if not knows(card, self._job.language):
            self._leave_out(card, f"does not know {self._job.language}")
        elif self._settings.max_cost is not None and self._cost(card) > self._settings.max_cost:
            self._leave_out(card, f"costs {self._cost(card):g}, more than {self._settings.max_cost:g}")
        else:
            self._found.append(Candidate(card, why))

    def _leave_out(self, card: ModelCard, why: str) -> None:
        if not any(one.engine == card.engine for one in self.left_out):
            self.left_out.append(Considered(engine=card.engine, why=why))

    def _cost(self, card: ModelCard) -> float:
        costs = self._settings.costs
        return costs.get(card.engine, costs.get(card.name, 0.0))

    def _absent(self, name: str, cards: Sequence[ModelCard]) -> str:
        asleep = [card for card in cards if answers_to(name, card)]
        if any(card.ready for card in asleep):
            return "does not do this" if self._job.task is Task.RECOGNIZE else "does not stream"
        if asleep:
            return f"is not loaded ({asleep[0].state.lower()})"
        if name in self._now.away:
            return f"is away: {self._now.away[name]}"
        return f"is not set up: {refusals.SETUP[name]}" if name in refusals.SETUP else "is not there"
