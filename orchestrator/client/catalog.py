"""What a server offers: one card a model, read from Triton's repository index and the models' parameters."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from orchestrator.contract import PCM16, Parameter, Task

_DEFAULT_RANK: Final = 1000
"""Models that state no rank come last."""
_DEFAULT_IN_FLIGHT: Final = 8
"""For models whose batches are not known."""


@dataclass(frozen=True, slots=True)
class ServedConfig:
    """What the client reads in a loaded model's configuration.

    Attributes:
        parameters: keys of `contract.Parameter` and their text.
        inputs: the names of its inputs.
        max_batch_size: requests in one batch; 0 where requests are not batched.
        instances: how many batches are in work at once.
    """

    parameters: Mapping[str, str]
    inputs: frozenset[str] = frozenset()
    max_batch_size: int = 0
    instances: int = 1


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """One line of Triton's repository index; version and state are empty for a model never loaded."""

    name: str
    version: str
    state: str
    reason: str


@dataclass(frozen=True, slots=True)
class ModelCard:
    """One model of a server.

    Attributes:
        name: the model's name on the server.
        ready: whether it takes requests.
        versions: the versions that are ready.
        state: Triton's word for it (``READY``, ``UNAVAILABLE``, ``LOADING``...), or ``UNLOADED``.
        reason: why it is not ready, one line, where the server says so.
        task: what it does; None for a model that is not ready (its parameters cannot be read then) or not
            one of this project's.
        engine: the engine behind it.
        languages: BCP-47 primary tags it can recognise; empty for a model that needs none.
        times_estimated: True where word times are spread, not measured.
        max_window_s: the longest audio of one request, in seconds; infinite where it is not bounded.
        rank: the lowest is preferred.
        chunk_ms: a streaming model's step; 0 for others.
        max_streams: how many streams it takes at once; 0 for others.
        takes_pcm16: it takes 16-bit audio as well.
        max_in_flight: as many requests as can be of use at once: a full batch for each of its instances, and
            one that waits.
        third_party: it sends audio to somebody else's service, and is taken only where a rule or the caller
            names it.
        detects_language: it can say what language is spoken, and how sure it is.
        embeds: a diarizer that gives its speakers' embeddings, which live streams need.
    """

    name: str
    ready: bool
    versions: tuple[str, ...] = ()
    state: str = "READY"
    reason: str = ""
    task: Task | None = None
    engine: str = ""
    languages: tuple[str, ...] = ()
    times_estimated: bool = False
    max_window_s: float = math.inf
    rank: int = _DEFAULT_RANK
    chunk_ms: int = 0
    max_streams: int = 0
    takes_pcm16: bool = False
    max_in_flight: int = _DEFAULT_IN_FLIGHT
    third_party: bool = False
    detects_language: bool = False
    embeds: bool = True

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data; an unbounded window is None."""
        data = asdict(self)
        data["max_window_s"] = None if math.isinf(self.max_window_s) else self.max_window_s
        return data


def card(name: str, entries: Iterable[IndexEntry], config: ServedConfig | None) -> ModelCard:
    """The card of one model from its index entries and, where it is ready, its configuration.

    Parameters that are missing or not understood leave their defaults: a server may hold models of others.
    """
    entries = list(entries)
    versions = tuple(entry.version for entry in entries if entry.state == "READY")
    state = "READY" if versions else next((entry.state for entry in entries if entry.state), "UNLOADED")
    reason = "" if versions else next((entry.reason for entry in entries if entry.reason), "")
    base = ModelCard(name, bool(versions), versions, state, reason.partition("\n")[0])
    if config is None:
        return base
    given = {key: config.parameters.get(key, "") for key in Parameter}
    task = given[Parameter.TASK]
    return ModelCard(
        name=name,
        ready=base.ready,
        versions=versions,
        state=state,
        reason=base.reason,
        task=Task(task) if task in set(Task) else None,
        engine=given[Parameter.ENGINE] or name,
        languages=tuple(tag.strip() for tag in given[Parameter.LANGUAGES].split(",") if tag.strip()),
        times_estimated=given[Parameter.WORD_TIMES] == "estimated",
        max_window_s=_positive(given[Parameter.MAX_WINDOW_S], math.inf),
        rank=int(given[Parameter.RANK]) if given[Parameter.RANK].lstrip("-").isdigit() else _DEFAULT_RANK,
        chunk_ms=_count(given[Parameter.CHUNK_MS]),
        max_streams=_count(given[Parameter.MAX_STREAMS]),
        takes_pcm16=PCM16.name in config.inputs,
        max_in_flight=config.max_batch_size * (config.instances + 1) or _DEFAULT_IN_FLIGHT,
        detects_language=given[Parameter.DETECTS_LANGUAGE] == "true",
    )


def merged(servers: Sequence[Sequence[ModelCard]]) -> tuple[ModelCard, ...]:
    """One card for each model of several servers that serve the same release.

    A model is ready where it is on one of them; what the servers can hold adds up, and where they differ a
    request must suit all of them.
    """
    found: dict[str, list[ModelCard]] = {}
    for cards in servers:
        for one in cards:
            found.setdefault(one.name, []).append(one)
    return tuple(_merged(found[name]) for name in sorted(found))


def _merged(cards: Sequence[ModelCard]) -> ModelCard:
    able = [one for one in cards if one.ready]
    if not able:
        return cards[0]
    return replace(
        able[0],
        max_window_s=min(one.max_window_s for one in able),
        max_streams=sum(one.max_streams for one in able),
        takes_pcm16=all(one.takes_pcm16 for one in able),
        detects_language=all(one.detects_language for one in able),
        max_in_flight=sum(one.max_in_flight for one in able),
    )


def _count(text: str) -> int:
    return int(text) if text.isdecimal() else 0


def _positive(text: str, default: float) -> float:
    try:
        value = float(text)
    except ValueError:
        return default
    return value if value > 0 else default
