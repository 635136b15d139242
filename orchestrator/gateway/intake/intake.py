"""One stream's audio: bytes in, 16 kHz mono out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from orchestrator.audio import PcmEncoding, PcmFormat
from orchestrator.contract import SAMPLE_RATE_HZ
from orchestrator.errors import AudioValueError
from orchestrator.gateway.intake.decoder import Block, Decoder
from orchestrator.gateway.intake.flac import FlacDecoder
from orchestrator.gateway.intake.opus import OggDecoder
from orchestrator.gateway.intake.pcm import PcmDecoder
from orchestrator.gateway.intake.sniff import MAGIC_BYTES, AudioSpec, Container, Encoding, container_of
from orchestrator.gateway.intake.wav import WavDecoder

PIECE_BYTES: Final = 16_384

_RAW: Final[dict[Encoding, PcmEncoding]] = {
    Encoding.PCM16: "s16le",
    Encoding.MULAW: "ulaw",
    Encoding.ALAW: "alaw",
}
_DECODERS: Final[dict[Container, Callable[[], Decoder]]] = {
    Container.WAV: WavDecoder,
    Container.FLAC: FlacDecoder,
    Container.OGG: OggDecoder,
}


class Intake:
    """Decodes, mixes to one channel (the mean of all) and resamples a stream as it comes."""

    def __init__(self, spec: AudioSpec) -> None:
        self._spec = spec
        self._head: bytes | None = b""
        self._decoder: Decoder | None = None
        self._checked = False
        self._resampler: _Resampler | None = None

    def feed(self, data: bytes) -> NDArray[np.float32]:
        """The samples ``[n]`` that ``data`` completes; n may be 0.

        Pieces of up to `PIECE_BYTES` are decoded in milliseconds; larger ones may hold more than is taken.

        Raises:
            AudioTooLongError: ``data`` holds too much sound for one piece.
            AudioDecodeError: the audio is not what the caller or its header says, or damaged.
            AudioValueError: what the caller says is missing, or contradicts the header.
        """
        if self._head is not None:
            self._head += data
            if len(self._head) < MAGIC_BYTES:
                return _NONE
            data = self._begin(self._head)
        return self._convert(self._decoded(data))

    def end(self) -> NDArray[np.float32]:
        """What was held back; the stream is over. Errors as of `feed`."""
        blocks: list[Block] = []
        if self._head is not None:
            if not self._head:
                return _NONE
            blocks += self._decoded(self._begin(self._head))
        if self._decoder is not None:
            blocks += self._decoder.end()
            self._check(self._decoder)
        samples = self._convert(blocks)
        return samples if self._resampler is None else np.concatenate([samples, self._resampler.end()])

    def _begin(self, head: bytes) -> bytes:
        container = container_of(head, self._spec.encoding)
        self._head = None
        if container is Container.NONE:
            self._decoder = PcmDecoder(raw_format(self._spec))
        else:
            self._decoder = _DECODERS[container]()
        return head

    def _decoded(self, data: bytes) -> list[Block]:
        if self._decoder is None:
            return []
        blocks = self._decoder.feed(data)
        self._check(self._decoder)
        return blocks

    def _check(self, decoder: Decoder) -> None:
        if self._checked or decoder.rate_hz is None or decoder.channels is None:
            return
        check_header(self._spec, decoder.rate_hz, decoder.channels, opus=isinstance(decoder, OggDecoder))
        self._checked = True
        if decoder.rate_hz != SAMPLE_RATE_HZ:
            self._resampler = _Resampler(decoder.rate_hz)

    def _convert(self, blocks: list[Block]) -> NDArray[np.float32]:
        mono = [block.mean(axis=0, dtype=np.float32) for block in blocks if block.shape[1]]
        if not mono:
            return _NONE
        samples = np.concatenate(mono)
        return samples if self._resampler is None else self._resampler(samples)


class _Resampler:
    """soxr's streaming resampler to 16 kHz."""

    def __init__(self, rate_hz: int) -> None:
        import soxr

        self._stream = soxr.ResampleStream(rate_hz, SAMPLE_RATE_HZ, 1, dtype="float32", quality="HQ")

    def __call__(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(self._stream.resample_chunk(samples), dtype=np.float32)

    def end(self) -> NDArray[np.float32]:
        """What the resampler still held back."""
        return np.asarray(self._stream.resample_chunk(_NONE, last=True), dtype=np.float32)


def raw_format(spec: AudioSpec) -> PcmFormat:
    """What the samples are where there is no header.

    Raises:
        AudioValueError: the caller did not say the rate.
    """
    if spec.sample_rate_hz is None:
        raise AudioValueError(
            f"{spec.encoding.value} without a header needs a sample rate.", fix="say sample_rate_hertz."
        )
    return PcmFormat(spec.sample_rate_hz, spec.channels or 1, _RAW[spec.encoding])


def check_header(spec: AudioSpec, rate_hz: int, channels: int, *, opus: bool) -> None:
    """Compare what the caller said with the header; Opus has no sample rate of its own.

    Raises:
        AudioValueError: they differ.
    """
    if not opus and spec.sample_rate_hz not in (None, rate_hz):
        raise AudioValueError(
            f"sample_rate_hertz is {spec.sample_rate_hz}, and the audio's header says {rate_hz}.",
            fix="leave it 0, and the header counts.",
        )
    if spec.channels not in (None, channels):
        raise AudioValueError(
            f"audio_channel_count is {spec.channels}, and the audio's header says {channels}.",
            fix="leave it 0, and the header counts.",
        )


_NONE: Final = np.zeros(0, np.float32)
