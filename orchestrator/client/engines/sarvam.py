"""The engine `sarvam`: Sarvam's speech-to-text over HTTP, for Kannada and other Indian languages.

One request carries less than 30 seconds, so the client cuts recordings into windows as for any engine
(`SarvamSettings.max_request_s`). Requests keep to the account's rate, and a ``Retry-After`` holds all of them
back. The service is asked for nothing but transcripts: whether it is there shows when it is needed.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final
from urllib.parse import urlsplit

import anyio
import httpx

from orchestrator.audio.encode import wav_bytes
from orchestrator.client.catalog import ModelCard
from orchestrator.client.engines import sarvam_failures as failures
from orchestrator.client.engines import sarvam_messages as messages
from orchestrator.client.engines.pace import Pace
from orchestrator.client.engines.refusals import OutsideEngine
from orchestrator.client.engines.sarvam_failures import Failure
from orchestrator.client.retry import RetryPolicy
from orchestrator.client.stream.codec import WireChunk
from orchestrator.client.triton import ServerStatus, closed_error
from orchestrator.contract import SAMPLE_RATE_HZ, Task
from orchestrator.diarization.base import Diarization, DiarizationOptions
from orchestrator.engines import registry
from orchestrator.engines.base import LanguageGuess, Recognition, RecognitionOptions, Samples
from orchestrator.engines.checks import primary_tag
from orchestrator.engines.streaming import StreamUpdate
from orchestrator.errors import ConfigurationError, MessageTooLargeError
from orchestrator.settings_engines import SarvamSettings

logger = logging.getLogger(__name__)

_RANK: Final = 2000
"""After every other, wherever it is named together with them."""
_MAX_ANSWER_BYTES: Final = 4 * 1024**2
"""An answer says at most half a minute."""
_SHORTEST: Final = SAMPLE_RATE_HZ // 10
"""Samples; less audio than that holds no word, and is not sent."""


class SarvamTransport(OutsideEngine):
    """`SpeechTransport` to Sarvam's service. Use it on one event loop."""

    engine = messages.ENGINE

    def __init__(
        self,
        settings: SarvamSettings,
        *,
        retry: RetryPolicy | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Prepare; the first request connects.

        Args:
            settings: with a key.
            retry: how soon a failed request is sent again where the service does not say.
            clock: the time of day, for a ``Retry-After`` that is a date.

        Raises:
            ConfigurationError: there is no key, or the proxy is no address.
        """
        if settings.api_key is None or not settings.api_key.get_secret_value().strip():
            raise ConfigurationError(
                "The engine sarvam has no key.",
                fix="set sarvam.api_key, best as SPARK_SPEECH__SARVAM__API_KEY.",
                model=messages.ENGINE,
            )
        key = settings.api_key.get_secret_value().strip()
        if not (key.isascii() and key.isprintable()):  # else it would be shown in the error of a header
            raise ConfigurationError(
                "sarvam.api_key holds characters that no key has.",
                fix="copy it from Sarvam's dashboard again.",
                model=messages.ENGINE,
            )
        self.host = urlsplit(settings.url).netloc
        self._settings = settings
        self._retry = retry or RetryPolicy(settings.retries, random=random.Random())
        self._clock = clock
        self._pace = Pace(settings.requests_per_minute)
        self._limiter: anyio.CapacityLimiter | None = None
        self._closed = False
        try:
            self._client = httpx.AsyncClient(
                headers={messages.KEY_HEADER: key},
                timeout=httpx.Timeout(settings.timeout_s),
                proxy=settings.proxy,
                trust_env=False,
                follow_redirects=False,  # the key goes to no other host
            )
        except (ValueError, httpx.InvalidURL) as error:
            raise ConfigurationError(
                "sarvam.proxy is not the address of a proxy.",
                fix="write it as http://host:port, or leave it empty.",
                model=messages.ENGINE,
            ) from error

    async def close(self) -> None:
        """Close all connections; calls in flight fail. Safe to call again."""
        self._closed = True
        await self._client.aclose()

    async def status(self) -> ServerStatus:
        """What is known without asking: a question would cost as much as a request."""
        return ServerStatus(self.host, True, True, messages.ENGINE, self._settings.model)

    async def cards(self) -> tuple[ModelCard, ...]:
        """The one card of the service."""
        spec = registry.spec(messages.ENGINE)
        card = ModelCard(
            name=messages.ENGINE,
            ready=True,
            versions=(self._settings.model,),
            task=Task.RECOGNIZE,
            engine=messages.ENGINE,
            languages=spec.languages,
            times_estimated=spec.times_estimated,
            max_window_s=self._settings.max_request_s,
            rank=_RANK,
            takes_pcm16=True,
            max_in_flight=self._settings.max_concurrency,
            third_party=True,
            detects_language=spec.detects_language,
        )
        return (card,)

    async def recognize(
        self,
        model: str,
        samples: Samples,
        options: RecognitionOptions,
        *,
        version: str = "",
        pcm16: bool = False,
    ) -> Recognition:
        """Recognise one recording of at most ``max_request_s``; 16-bit samples are sent in any case.

        Raises:
            UnsupportedLanguageError: the service does not know the language.
            ServiceError: the subclass says what happened; `sarvam_failures` lists them.
        """
        if len(samples) < _SHORTEST:
            return Recognition((), primary_tag(options.language or ""), times_estimated=True)
        answer = await self._ask(samples, options.language)
        return messages.recognition(answer, samples, options.language)

    async def detect_language(self, model: str, samples: Samples) -> LanguageGuess:
        """Find out what is spoken, from the first seconds that one request takes; raises as `recognize`."""
        longest = int(self._settings.max_request_s * SAMPLE_RATE_HZ)
        return messages.guess(await self._ask(samples[:longest], None))

    async def diarize(
        self, model: str, samples: Samples, options: DiarizationOptions, *, version: str = ""
    ) -> Diarization:
        """Not offered by the service's REST interface.

        Raises:
            InvalidRequestError: always.
        """
        raise self._cannot("tell speakers apart")

    async def stream_chunk(
        self, model: str, chunk: WireChunk, *, version: str = "", timeout_s: float
    ) -> StreamUpdate:
        """Not offered by the service's REST interface.

        Raises:
            InvalidRequestError: always.
        """
        raise self._cannot("take live streams")

    async def _ask(self, samples: Samples, language: str | None) -> messages.Answer:
        fields = messages.form(self._settings, language)
        seconds = len(samples) / SAMPLE_RATE_HZ
        if seconds > self._settings.max_request_s + 0.01:
            raise MessageTooLargeError(
                f"{seconds:.1f} s of audio for sarvam are more than the {self._settings.max_request_s:g} s "
                "of one request.",
                fix="send shorter pieces; the client library cuts recordings by itself.",
                host=self.host,
                model=messages.ENGINE,
            )
        wav = wav_bytes(samples)
        attempt = 0
        if self._limiter is None:
            self._limiter = anyio.CapacityLimiter(self._settings.max_concurrency)
        async with self._limiter:
            while True:
                await self._turn()
                outcome = await self._attempt(wav, fields)
                if not isinstance(outcome, Failure):
                    return outcome
                wait_s = self._wait_s(outcome, attempt)
                if wait_s is None:
                    raise outcome.error
                logger.info("%s: next try in %.2f s: %s", self.host, wait_s, outcome.error.message)
                attempt += 1
                await anyio.sleep(wait_s)

    def _wait_s(self, failure: Failure, attempt: int) -> float | None:
        """How long to wait until the next attempt; None: give up."""
        wait_s = self._retry.wait_s(attempt) if failure.transient else None
        if failure.after_s is not None:
            if failure.after_s > self._settings.longest_wait_s:
                wait_s = None
            else:
                self._pace.close(anyio.current_time() + failure.after_s)
                wait_s = wait_s if wait_s is None else max(wait_s, failure.after_s)
        if wait_s is None or anyio.current_time() + wait_s > anyio.current_effective_deadline():
            return None
        return wait_s

    async def _turn(self) -> None:
        """Wait until the account's rate allows one more request."""
        wait_s = self._pace.take(anyio.current_time())
        try:
            await anyio.sleep(wait_s)
        except BaseException:
            self._pace.give_back()
            raise

    async def _attempt(self, wav: bytes, fields: dict[str, str]) -> messages.Answer | Failure:
        limit_s = self._settings.timeout_s
        if self._closed:
            raise closed_error(self.host)
        try:
            with anyio.fail_after(limit_s):
                status, headers, body = await self._post(wav, fields)
        except (TimeoutError, httpx.TimeoutException):
            return failures.timed_out(self.host, limit_s)
        except httpx.DecodingError as error:
            return failures.half_answer(self.host, f"its encoding is broken: {error}")
        except httpx.HTTPError as error:
            return failures.broken(self.host, error)
        except RuntimeError as error:  # httpx: the client was closed under the call
            if self._closed:
                raise closed_error(self.host) from error
            raise
        if status != httpx.codes.OK:
            return failures.from_response(status, headers, body, self.host, self._clock())
        try:
            return messages.parse(body)
        except ValueError as error:
            return failures.half_answer(self.host, str(error))

    async def _post(self, wav: bytes, fields: dict[str, str]) -> tuple[int, httpx.Headers, bytes]:
        request = self._client.build_request(
            "POST",
            f"{self._settings.url}{messages.PATH}",
            data=fields,
            files={"file": ("audio.wav", wav, "audio/wav")},
        )
        response = await self._client.send(request, stream=True)
        try:
            body = bytearray()
            async for part in response.aiter_bytes():
                body += part
                if len(body) > _MAX_ANSWER_BYTES:
                    raise httpx.DecodingError(f"it is longer than {_MAX_ANSWER_BYTES} bytes")
            return response.status_code, response.headers, bytes(body)
        finally:
            await response.aclose()
