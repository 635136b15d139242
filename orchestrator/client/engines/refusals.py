"""What engines outside Triton say to requests that their service has no answer for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from orchestrator.engines.alignment.base import Alignment, AlignmentOptions
from orchestrator.engines.base import Samples
from orchestrator.errors import InvalidRequestError


class OutsideEngine:
    """The part of a `SpeechTransport` that no engine outside Triton offers."""

    engine: ClassVar[str]
    """Its name in the registry."""
    host: str

    async def align(
        self,
        model: str,
        samples: Samples,
        words: Sequence[str],
        options: AlignmentOptions,
        *,
        pcm16: bool = False,
    ) -> Alignment:
        """Not offered.

        Raises:
            InvalidRequestError: always.
        """
        raise self._cannot("time words that are known")

    def _cannot(self, what: str) -> InvalidRequestError:
        return InvalidRequestError(
            f"The engine {self.engine} cannot {what}.",
            fix="use another engine for this.",
            host=self.host,
            model=self.engine,
        )
