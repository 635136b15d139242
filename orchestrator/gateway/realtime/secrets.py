"""Short-lived secrets that stand for an API key where a browser can send no header.

They are signed, not kept, so whichever worker of a gateway gave one out, another knows it.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from typing import Any, Final

_LIFE_S: Final = 60
_PREFIX: Final = "ek_"


class ClientSecrets:
    """Gives out secrets, and knows them again."""

    def __init__(self, signing_key: str | None = None, life_s: int = _LIFE_S) -> None:
        """Sign with ``signing_key``, which several processes may share; a secret lives ``life_s`` seconds."""
        self._key = (signing_key or secrets.token_hex(32)).encode()
        self._life_s = life_s

    def mint(self, caller: str) -> dict[str, Any]:
        """A new one for ``caller``: ``value``, and ``expires_at`` in seconds since 1970."""
        expires = int(time.time()) + self._life_s
        claim = f"{expires}.{caller.encode().hex()}.{secrets.token_hex(8)}"
        return {"value": f"{_PREFIX}{claim}.{self._signed(claim)}", "expires_at": expires}

    def caller(self, value: str) -> str | None:
        """Whom it was given to; None where it was not given out here, or is too old."""
        claim, _, signature = value.removeprefix(_PREFIX).rpartition(".")
        if not hmac.compare_digest(self._signed(claim).encode(), signature.encode("utf-8", "replace")):
            return None
        expires, name, _ = claim.split(".")  # signed, so it is as `mint` wrote it
        return bytes.fromhex(name).decode() if int(expires) >= time.time() else None

    def _signed(self, claim: str) -> str:
        return hmac.new(self._key, claim.encode("utf-8", "replace"), hashlib.sha256).hexdigest()
