"""Which model does a job: pure choice among the cards of a server, with the reason said."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from orchestrator.client.catalog import ModelCard
from orchestrator.contract import Task
from orchestrator.errors import ModelNotFoundError, ModelNotReadyError, SpeechError, UnsupportedLanguageError

AUTO: Final = "auto"
"""The engine name that leaves the choice to the router."""


@dataclass(frozen=True, slots=True)
class Route:
    """The model that was chosen, and why, for people."""

    card: ModelCard
    reason: str


def primary_tag(language: str) -> str:
    """``en`` of ``en-US`` or ``EN_us`` (BCP-47, RFC 5646: the primary subtag comes first)."""
    return language.strip().replace("_", "-").partition("-")[0].lower()


def choose(
    cards: Sequence[ModelCard],
    *,
    host: str,
    language: str | None = None,
    engine: str = AUTO,
    duration_s: float = 0.0,
    task: Task = Task.RECOGNIZE,
) -> Route:
    """The recogniser for a recording, or for a live stream.

    Among the ready models of the wanted engine that know the language, the lowest rank is taken; equal
    ranks: the one that takes ``duration_s`` seconds in one piece, then the first by name.

    Args:
        cards: everything the server has.
        host: ``host:port``, for messages.
        language: BCP-47 tag; None: any.
        engine: `AUTO`, or the name of an engine or of a model.
        duration_s: the recording's length in seconds.
        task: `Task.RECOGNIZE` or `Task.STREAM`.

    Raises:
        ModelNotFoundError: there is no such engine, or no recogniser at all.
        ModelNotReadyError: what could do it is not loaded.
        UnsupportedLanguageError: no ready recogniser of the wanted engine knows the language.
    """
    named = [card for card in cards if engine in (AUTO, card.engine, card.name)]
    ready = [card for card in named if card.ready and card.task is task]
    if not ready:
        raise _nothing_ready(cards, named, engine, host, task)
    tag = None if language is None else primary_tag(language)
    able = [card for card in ready if tag is None or tag in map(primary_tag, card.languages)]
    if not able:
        raise _no_language(cards, ready, str(language), engine, host)
    best = min(able, key=lambda card: (card.rank, duration_s > card.max_window_s, card.name))
    why = [f"rank {best.rank} is the lowest of {len(able)}" if len(able) > 1 else "the only one"]
    why.append("that can do it" if tag is None else f"that knows {tag}")
    return Route(best, f"{best.name} ({best.engine}): {' '.join(why)}")


def choose_diarizer(cards: Sequence[ModelCard], *, host: str) -> Route:
    """The diarizer with the lowest rank.

    Raises:
        ModelNotFoundError: the server has none.
    """
    able = [card for card in cards if card.ready and card.task is Task.DIARIZE]
    if not able:
        asleep = [card for card in cards if not card.ready and "diariz" in card.name]
        if asleep:
            raise _not_ready(asleep[0], host)
        raise ModelNotFoundError(
            f"{host} has no diarizer; it has {_listed(cards)}.",
            fix="ask without speakers (diarize=False, --no-diarize), or build a release with the diarizer.",
            host=host,
        )
    best = min(able, key=lambda card: (card.rank, card.name))
    return Route(best, f"{best.name}: rank {best.rank}")


def _nothing_ready(
    cards: Sequence[ModelCard], named: Sequence[ModelCard], engine: str, host: str, task: Task
) -> SpeechError:
    kind = "streaming recogniser" if task is Task.STREAM else "recogniser"
    asleep = [card for card in named if not card.ready and card.task in (None, task)]
    if engine != AUTO and asleep:
        return _not_ready(asleep[0], host)
    recognisers = [card for card in cards if card.ready and card.task is task]
    if engine == AUTO or not recognisers:
        return ModelNotFoundError(
            f"{host} has no {kind} that is ready; it has {_listed(cards)}.",
            fix=f"build and start a release with a {kind}: `spark-speech build`, `spark-speech up`.",
            host=host,
        )
    names = sorted({name for card in recognisers for name in (card.engine, card.name)})
    near = difflib.get_close_matches(engine, names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return ModelNotFoundError(
        f"{host} has no {kind} {engine!r}; it has {', '.join(names)}.{hint}",
        fix=f"use engine={AUTO!r} or one of: {', '.join(names)}.",
        host=host,
        model=engine,
    )


def _not_ready(card: ModelCard, host: str) -> ModelNotReadyError:
    reason = f": {card.reason}" if card.reason else ""
    return ModelNotReadyError(
        f"The model {card.name} on {host} is not loaded (state {card.state}){reason}",
        fix="load it (`spark-speech up`), or see why it failed in the server's log.",
        host=host,
        model=card.name,
    )


def _no_language(
    cards: Sequence[ModelCard], ready: Sequence[ModelCard], language: str, engine: str, host: str
) -> UnsupportedLanguageError:
    offered = sorted({tag for card in ready for tag in card.languages})
    others = sorted(
        card.engine
        for card in cards
        if card not in ready and card.ready and primary_tag(language) in map(primary_tag, card.languages)
    )
    who = f"The engine {engine} on {host}" if engine != AUTO else f"No engine on {host}"
    verb = "does not know" if engine != AUTO else "knows"
    other = f"use engine={others[0]!r}, which knows it, or " if others else ""
    return UnsupportedLanguageError(
        f"{who} {verb} the language {language!r}; offered: {', '.join(offered) or 'none'}.",
        fix=f"{other}choose one of the offered languages.",
        host=host,
        model=None if engine == AUTO else engine,
    )


def _listed(cards: Sequence[ModelCard]) -> str:
    return ", ".join(f"{card.name} ({card.state.lower()})" for card in cards) or "no models at all"
