"""From a window's sound to its words, whatever computes the network."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from orchestrator.contract import SAMPLE_RATE_HZ
from orchestrator.engines.base import RecognizedWord, Samples
from orchestrator.engines.spread import spread_over
from orchestrator.engines.whisper.languages import ENGLISH_ONLY, UNSPACED
from orchestrator.engines.whisper.quality import Decoding, Effort
from orchestrator.engines.whisper.recognizer import WhisperRecognizer
from orchestrator.engines.whisper.words import TimedToken, grouped
from orchestrator.engines.whisper_native.alignment import FRAME_MS, token_starts_ms
from orchestrator.engines.whisper_native.decoding import (
    Hypothesis,
    Rules,
    beams,
    drawn,
    likeliest,
    read_prompt,
)
from orchestrator.engines.whisper_native.features import Features
from orchestrator.engines.whisper_native.runtime import Audio, Runtime, rows_of
from orchestrator.engines.whisper_native.tokens import WhisperTokens

_NO_REPEAT_TOKENS = 3
"""Where repeats are forbidden, three tokens in a row are written once."""


@dataclass(frozen=True, slots=True)
class DecodingSetup:
    """How windows are decoded.

    Attributes:
        windows: most at once.
        beams: transcripts under way for each window; 1 takes the likeliest token each time.
        max_tokens: most tokens of a window.
        temperatures: see `quality.ladder`. What is drawn is the same at every call.
    """

    windows: int
    beams: int = 1
    max_tokens: int = 224
    temperatures: tuple[float, ...] = ()


class NativeWhisper(WhisperRecognizer):
    """A Whisper network in a `Runtime`. Calls from several threads take turns on the network."""

    def __init__(
        self,
        engine: str,
        runtime: Runtime,
        tokens: WhisperTokens,
        device: torch.device,
        setup: DecodingSetup,
    ) -> None:
        super().__init__(
            engine,
            tuple(tokens.languages) or ENGLISH_ONLY,
            batch_size=setup.windows,
            temperatures=setup.temperatures,
        )
        self._runtime = runtime
        self._tokens = tokens
        self._setup = setup
        self._device = device
        self._lock = threading.Lock()
        shape = runtime.shape
        self._features = Features(shape.mels, shape.frames, device)
        self._rules = Rules(
            end=tokens.end,
            suppressed=tokens.suppress(shape.vocabulary),
            suppressed_first=tokens.suppressed_first,
            max_tokens=min(setup.max_tokens, shape.decoder_positions - len(tokens.prompt(None))),
        )
        self._timed = bool(tokens.alignment_heads)
        self._heard: tuple[list[Samples], Audio] | None = None
        if not self._timed:
            self.info = replace(self.info, times_estimated=True)

    def close(self) -> None:
        """See `Recognizer.close`."""
        with self._lock:
            self._heard = None
            self._runtime.close()

    def _detect(self, windows: Sequence[Samples]) -> Sequence[Mapping[str, float]]:
        with self._lock, torch.inference_mode():
            audio = self._audio(windows)
            start = torch.full((len(windows),), self._tokens.start, device=self._device)
            logits = self._runtime.begin(audio)(start)
            places = torch.tensor(list(self._tokens.languages.values()), device=logits.device)
            table = logits[:, places].softmax(1).tolist()
        return [dict(zip(self._tokens.languages, row, strict=True)) for row in table]

    def _decode(self, windows: Sequence[Samples], code: str, effort: Effort) -> Sequence[Decoding]:
        with self._lock, torch.inference_mode():
            audio = self._audio(windows)
            found, silences = self._hypotheses(windows, audio, code, effort)
            starts = self._starts(windows, audio, code, found) if self._timed else [None] * len(windows)
        return [
            Decoding(
                self._said(samples, code, hypothesis, times),
                hypothesis.mean_log_probability,
                silence,
            )
            for samples, hypothesis, times, silence in zip(windows, found, starts, silences, strict=True)
        ]

    def _audio(self, windows: Sequence[Samples]) -> Audio:
        """The encoded windows: those of the last call are kept, as a window is often asked for again."""
        if self._heard is not None:
            known, audio = self._heard
            places = {id(samples): row for row, samples in enumerate(known)}
            rows = [places.get(id(samples)) for samples in windows]
            if rows == list(range(len(known))):
                return audio
            if None not in rows:
                return rows_of(audio, torch.tensor(rows, device=audio[0][0].device))
        audio = self._runtime.encode(self._features(windows))
        self._heard = (list(windows), audio)
        return audio

    def _hypotheses(
        self, windows: Sequence[Samples], audio: Audio, code: str, effort: Effort
    ) -> tuple[list[Hypothesis], list[float]]:
        """What is written for each window, and how likely it is silence."""
        width = self._setup.beams if effort.temperature == 0 else 1
        rules = replace(self._rules, no_repeat=_NO_REPEAT_TOKENS if effort.no_repeats else 0)
        if width > 1:
            rows = torch.arange(len(windows), device=audio[0][0].device).repeat_interleave(width)
            audio = rows_of(audio, rows)
        steps = self._runtime.begin(audio)
        first, last = read_prompt(steps, self._prompts(len(windows) * width, code))
        silences = [0.0] * len(windows)
        if self._tokens.no_speech is not None:
            silences = first[::width].softmax(1)[:, self._tokens.no_speech].tolist()
        if effort.temperature > 0:
            seeds = [zlib.crc32(np.ascontiguousarray(samples).tobytes()) for samples in windows]
            return drawn(steps, last, rules, effort.temperature, seeds), silences
        if width > 1:
            return beams(steps, last, rules, width), silences
        return likeliest(steps, last, rules), silences

    def _starts(
        self, windows: Sequence[Samples], audio: Audio, code: str, found: Sequence[Hypothesis]
    ) -> list[list[int] | None]:
        """When each token and the end begin, for each window."""
        prompt = self._tokens.prompt(code if self._tokens.languages else None)
        longest = max(len(one.tokens) for one in found)
        if not longest:
            return [None] * len(windows)
        end = self._tokens.end
        table = torch.tensor([[*prompt, *one.tokens, *[end] * (longest - len(one.tokens))] for one in found])
        looks = self._runtime.attention(table.to(self._device), audio)
        starts: list[list[int] | None] = []
        for samples, one, look in zip(windows, found, looks, strict=True):
            # While a token is read the next is thought of: the prompt's last row is about the first token.
            first, last = len(prompt) - 1, len(prompt) + len(one.tokens)
            frames = max(1, -(-samples.size * 1000 // (SAMPLE_RATE_HZ * FRAME_MS)))
            starts.append(token_starts_ms(look[:, first:last, :frames].float().cpu().numpy()))
        return starts

    def _said(
        self, samples: Samples, code: str, found: Hypothesis, starts: Sequence[int] | None
    ) -> tuple[RecognizedWord, ...]:
        edges = starts or [0] * (len(found.tokens) + 1)
        timed = [
            TimedToken(self._tokens.pieces[token], edges[place], edges[place + 1], chance)
            for place, (token, chance) in enumerate(zip(found.tokens, found.probabilities, strict=True))
        ]
        words = tuple(grouped(timed, spaced=code not in UNSPACED))
        if self._timed or not words:
            return words
        texts = [word for word in words if word.text]
        spread = spread_over([word.text for word in texts], samples)
        return tuple(
            replace(times, confidence=word.confidence) for word, times in zip(texts, spread, strict=True)
        )

    def _prompts(self, rows: int, code: str) -> Tensor:
        prompt = self._tokens.prompt(code if self._tokens.languages else None)
        return torch.tensor(prompt, device=self._device).expand(rows, -1)
