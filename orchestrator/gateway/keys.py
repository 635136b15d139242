"""API keys: who is asking, and how much of the gateway that key may take; only hashes are known here."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from orchestrator.gateway.admission import Admission
from orchestrator.settings import GatewaySettings, KeySettings


class Caller:
    """Somebody who may use the service, and what is in work for all who show the same key."""

    def __init__(
        self, name: str = "", max_requests: int | None = None, max_streams: int | None = None
    ) -> None:
        """Give a key's limits; None: there is none but the gateway's."""
        self.name = name
        whose = f"of the key {name!r}"
        self._requests = None if max_requests is None else Admission(max_requests, f"requests {whose}")
        self._streams = None if max_streams is None else Admission(max_streams, f"streams {whose}")

    @contextmanager
    def request(self) -> Iterator[None]:
        """Hold one of the key's places for a transcription for the duration of the block.

        Raises:
            OverloadedError: there is none.
        """
        with _admitted(self._requests):
            yield

    @contextmanager
    def stream(self) -> Iterator[None]:
        """Hold one of the key's places for a live stream, likewise."""
        with _admitted(self._streams):
            yield


ANYBODY = Caller()
"""Who asks where no key is needed, or shows one without limits."""


class ApiKeys:
    """The keys that may use the service; with none configured, everybody may."""

    def __init__(self, hashes: Sequence[str], keys: Mapping[str, KeySettings] | None = None) -> None:
        """Take the keys; one object serves all protocols, as it counts what each key has in work.

        Args:
            hashes: lower-case hex sha256 of keys without limits.
            keys: those with limits, by name.
        """
        self._callers = [(value, ANYBODY) for value in hashes]
        for name, key in (keys or {}).items():
            self._callers.append((key.sha256, Caller(name, key.max_requests, key.max_streams)))

    @classmethod
    def of(cls, settings: GatewaySettings) -> ApiKeys:
        """The keys in the settings."""
        return cls(settings.api_key_hashes, settings.keys)

    @property
    def required(self) -> bool:
        """Whether a caller must show a key."""
        return bool(self._callers)

    def caller(self, key: bytes | None) -> Caller | None:
        """Who shows ``key``; None for a wrong one or none where one is needed.

        Takes as long for a wrong key as for a right one, whichever of them it is.
        """
        if not self.required:
            return ANYBODY
        shown = hashlib.sha256(key or b"").hexdigest()
        # All are compared: an early end would tell how far down the list the right one is.
        found = [caller for known, caller in self._callers if hmac.compare_digest(shown, known)]
        return found[0] if found and key else None

    def named(self, name: str) -> Caller | None:
        """The caller of that name, for what was given to somebody who had shown the key; ANYBODY has none."""
        return next((caller for _, caller in self._callers if caller.name == name), None)


@contextmanager
def _admitted(admission: Admission | None) -> Iterator[None]:
    if admission is None:
        yield
        return
    with admission.admit():
        yield
