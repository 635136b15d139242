"""API keys: only their hashes are known here."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence


class ApiKeys:
    """The keys that may use the service; with none configured, everybody may."""

    def __init__(self, hashes: Sequence[str]) -> None:
        """Take the lower-case hex sha256 of each key."""
        self._hashes = tuple(hashes)

    @property
    def required(self) -> bool:
        """Whether a caller must show a key."""
        return bool(self._hashes)

    def accepts(self, key: bytes) -> bool:
        """Whether ``key`` is one of them; takes as long for a wrong key as for a right one."""
        shown = hashlib.sha256(key).hexdigest()
        # A sum, which has no early end: time must not tell which of the keys matched.
        return sum(hmac.compare_digest(shown, known) for known in self._hashes) > 0
