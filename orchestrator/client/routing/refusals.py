"""What to say where no model can do a job: which ones there are, what they lack, and what to do about it."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Final

from orchestrator.client.catalog import ModelCard
from orchestrator.client.routing.job import AUTO, RouteJob
from orchestrator.contract import Task
from orchestrator.engines.checks import primary_tag
from orchestrator.errors import ModelNotFoundError, ModelNotReadyError, SpeechError, UnsupportedLanguageError

SETUP: Final = {"riva": "set riva.url", "sarvam": "set sarvam.api_key"}
"""What an engine that is not there needs, where it is not a model of a release."""


def nothing_ready(
    cards: Sequence[ModelCard], named: Sequence[ModelCard], job: RouteJob, host: str
) -> SpeechError:
    """No model of the wanted kind and name takes requests; ``named`` are those of the name, of any kind."""
    kind = "streaming recogniser" if job.task is Task.STREAM else "recogniser"
    asleep = [card for card in named if not card.ready and card.task in (None, job.task)]
    if job.engine != AUTO and asleep:
        return not_ready(asleep[0], host)
    recognisers = [card for card in cards if card.ready and card.task is job.task]
    if job.engine in SETUP:
        return ModelNotFoundError(
            f"The engine {job.engine} is not set up as a {kind}.",
            fix=f"{SETUP[job.engine]}; see docs/engines.md.",
            host=host,
            model=job.engine,
        )
    if job.engine == AUTO or not recognisers:
        return ModelNotFoundError(
            f"{host} has no {kind} that is ready; it has {_listed(cards)}.",
            fix=f"build and start a release with a {kind}: `spark-speech build`, `spark-speech up`.",
            host=host,
        )
    names = sorted({name for card in recognisers for name in (card.engine, card.name)})
    near = difflib.get_close_matches(job.engine, names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return ModelNotFoundError(
        f"{host} has no {kind} {job.engine!r}; it has {', '.join(names)}.{hint}",
        fix=f"use engine={AUTO!r} or one of: {', '.join(names)}.",
        host=host,
        model=job.engine,
    )


def not_ready(card: ModelCard, host: str) -> ModelNotReadyError:
    """The server has the model, but it takes no requests."""
    reason = f": {card.reason}" if card.reason else ""
    return ModelNotReadyError(
        f"The model {card.name} on {host} is not loaded (state {card.state}){reason}",
        fix="load it (`spark-speech up`), or see why it failed in the server's log.",
        host=host,
        model=card.name,
    )


def no_language(
    cards: Sequence[ModelCard], ready: Sequence[ModelCard], job: RouteJob, host: str
) -> UnsupportedLanguageError:
    """None of ``ready``, the models of the wanted name, knows the language."""
    language = str(job.language)
    offered = sorted({tag for card in ready for tag in card.languages})
    others = sorted(
        card.engine
        for card in cards
        if card not in ready and card.ready and primary_tag(language) in map(primary_tag, card.languages)
    )
    chosen = job.engine != AUTO
    who = f"The engine {job.engine} on {host}" if chosen else f"No engine on {host}"
    verb = "does not know" if chosen else "knows"
    other = f"use engine={others[0]!r}, which knows it, or " if others else ""
    return UnsupportedLanguageError(
        f"{who} {verb} the language {language!r}; offered: {', '.join(offered) or 'none'}.",
        fix=f"{other}choose one of the offered languages.",
        host=host,
        model=job.engine if chosen else None,
    )


def nobody_left(rule: str, reasons: Sequence[str], host: str) -> ModelNotFoundError:
    """A rule's engines cannot do the job, and ``routing.otherwise`` allows no others."""
    return ModelNotFoundError(
        f"No engine is left for this by {rule}: {'; '.join(reasons) or 'none is named'}.",
        fix="change routing.rules, set routing.otherwise to any, or name an engine.",
        host=host,
    )


def no_diarizer(cards: Sequence[ModelCard], host: str) -> SpeechError:
    """Nothing there names speakers."""
    asleep = [card for card in cards if not card.ready and "diariz" in card.name]
    if asleep:
        return not_ready(asleep[0], host)
    return ModelNotFoundError(
        f"{host} has no diarizer; it has {_listed(cards)}.",
        fix="ask without speakers (diarize=False, --no-diarize), or build a release with the diarizer.",
        host=host,
    )


def _listed(cards: Sequence[ModelCard]) -> str:
    return ", ".join(f"{card.name} ({card.state.lower()})" for card in cards) or "no models at all"
