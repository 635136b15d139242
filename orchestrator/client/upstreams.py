"""Which of several servers gets the next piece of work: pure, told the time.

Least outstanding: of the servers that have the model, the one with the fewest requests and streams of that
model in work. A server that keeps failing answers fastest and would draw all work to itself, so that one
that failed is left alone for a while, longer each time, as long as another can do the work.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from orchestrator.errors import ConfigurationError

_FIRST_PAUSE_S: Final = 1.0
_LONGEST_PAUSE_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Place:
    """One request or one stream of a model at a server."""

    upstream: str
    model: str


@dataclass(slots=True)
class _Upstream:
    """What is known of one server.

    Attributes:
        there: whether it answered when it was last asked; None before that.
        models: the ones that are ready.
        held: requests and streams in work, by model.
        failures: in a row.
        paused_until: it is left alone until then, in seconds.
        chosen: number of the last choice that fell on it.
    """

    there: bool | None = None
    models: frozenset[str] = frozenset()
    held: Counter[str] = field(default_factory=Counter)
    failures: int = 0
    paused_until: float = 0.0
    chosen: int = 0

    def rank(self, model: str, now: float) -> int:
        """How well it can do work of ``model``: 0 is best, 4 worst."""
        if self.there is False:
            return 4
        if self.there is None or model not in self.models:
            return 3 if self.there is None else 2
        return 1 if now < self.paused_until else 0


class Upstreams:
    """Servers that have the same models, and what each has in work."""

    def __init__(self, names: Sequence[str]) -> None:
        """Take the servers' names, ``host:port``.

        Raises:
            ConfigurationError: there is none, or one is named twice.
        """
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice or not names:
            raise ConfigurationError(
                f"the upstream {twice[0]} is named twice." if twice else "no upstream is named.",
                fix="name each server once, as host:port.",
                host=twice[0] if twice else None,
            )
        self._known = {name: _Upstream() for name in names}
        self._choices = 0

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def there(self, name: str) -> bool:
        """Whether the server answered when it was last asked."""
        return self._known[name].there is True

    def outstanding(self, name: str) -> int:
        """Requests and streams that the server has in work."""
        return self._known[name].held.total()

    def take(self, model: str, now: float, avoid: Collection[str] = ()) -> Place | None:
        """Choose a server for a request or a stream of ``model``; whoever takes a place gives it back.

        Servers that are away or do not have the model are chosen only where no better one is left: what is
        known of them may be old, and their own answer says best what is wrong.

        Args:
            model: its name.
            now: in seconds, of any clock that the other calls use too.
            avoid: servers that were tried before.

        Returns:
            None where all are to be avoided.
        """
        able = [name for name in self._known if name not in avoid]
        if not able:
            return None

        def cost(name: str) -> tuple[int, int, int, int]:
            upstream = self._known[name]
            held = upstream.held
            return upstream.rank(model, now), held[model], held.total(), upstream.chosen

        name = min(able, key=cost)
        self._choices += 1
        self._known[name].chosen = self._choices
        self._known[name].held[model] += 1
        return Place(name, model)

    def give_back(self, place: Place) -> None:
        """The request was answered or failed, or the stream has ended."""
        held = self._known[place.upstream].held
        held[place.model] -= 1
        if held[place.model] <= 0:
            del held[place.model]

    def checked(self, name: str, models: Collection[str]) -> None:
        """The server was asked and answered; ``models`` are ready."""
        upstream = self._known[name]
        upstream.there, upstream.models = True, frozenset(models)

    def away(self, name: str) -> None:
        """The server does not answer."""
        self._known[name].there = False

    def failed(self, name: str, now: float) -> None:
        """The server answered a request late, or with a failure of its own."""
        upstream = self._known[name]
        pause_s = min(_FIRST_PAUSE_S * 2.0**upstream.failures, _LONGEST_PAUSE_S)
        upstream.failures = min(upstream.failures + 1, 16)
        upstream.paused_until = now + pause_s

    def worked(self, name: str) -> None:
        """The server did what it was asked."""
        upstream = self._known[name]
        upstream.failures, upstream.paused_until = 0, 0.0
