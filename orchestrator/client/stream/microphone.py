"""A microphone as the source of a live stream, through PortAudio (extra ``mic``)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any, Final

from orchestrator.contract import SAMPLE_RATE_HZ
from orchestrator.errors import AudioError, MissingDependencyError, OverloadedError
from orchestrator.settings import ClientSettings

logger = logging.getLogger(__name__)

_BLOCK_MS: Final = 20
_SAMPLE_BYTES: Final = 2


class Microphone:
    """What a microphone hears, from the moment the stream begins, as 16-bit PCM.

    ::

        async for event in client.stream(Microphone()): ...

    A microphone cannot wait. While the server is away or behind, its audio is kept, up to ``buffer_s``
    seconds; beyond that the stream ends with `OverloadedError`, rather than with words missing.

    Attributes:
        name: the device's name.
        sample_rate_hz: 16,000 where the device can record at that rate, else its own.
    """

    def __init__(
        self, device: int | str | None = None, *, buffer_s: float = ClientSettings().stream_backlog_s
    ) -> None:
        """Choose a device; it is opened when the stream begins.

        Args:
            device: its number or (part of) its name; None for the system's default.
            buffer_s: seconds of audio to keep while nobody takes it.

        Raises:
            MissingDependencyError: sounddevice or the PortAudio library is not installed.
            AudioError: there is no such device, or none that can record.
        """
        self._sounddevice = _sounddevice()
        self._device = device
        self._buffer_s = buffer_s
        label = "default microphone" if device is None else f"microphone {device!r}"
        try:
            about = self._sounddevice.query_devices(device, "input")
        except (self._sounddevice.PortAudioError, ValueError) as error:
            raise AudioError(
                f"There is no {label}: {error}",
                fix="connect one, or name another: `python -m sounddevice` lists what there is.",
            ) from error
        self.name: str = str(about["name"])
        self.sample_rate_hz = self._rate(about)

    def _rate(self, about: Any) -> int:
        try:
            self._sounddevice.check_input_settings(
                device=self._device, channels=1, dtype="int16", samplerate=SAMPLE_RATE_HZ
            )
        except self._sounddevice.PortAudioError:
            return int(about["default_samplerate"])
        return SAMPLE_RATE_HZ

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Open the device and give what it hears; it is closed with the iterator.

        Raises:
            AudioError: the device cannot be opened.
            OverloadedError: nobody took the audio for ``buffer_s`` seconds.
        """
        loop = asyncio.get_running_loop()
        blocks: asyncio.Queue[bytes] = asyncio.Queue(max(1, int(self._buffer_s * 1000 / _BLOCK_MS)))
        full = asyncio.Event()

        def put(block: bytes) -> None:
            if blocks.full():
                full.set()
            else:
                blocks.put_nowait(block)

        def heard(data: Any, frames: int, time: object, status: Any) -> None:  # on PortAudio's thread
            if status:
                logger.warning("%s: %s", self.name, status)
            loop.call_soon_threadsafe(put, bytes(data))

        try:
            stream = self._sounddevice.RawInputStream(
                samplerate=self.sample_rate_hz,
                blocksize=self.sample_rate_hz * _BLOCK_MS // 1000,
                device=self._device,
                channels=1,
                dtype="int16",
                callback=heard,
            )
        except self._sounddevice.PortAudioError as error:
            raise self._failed(error) from error
        try:
            stream.start()
            while True:
                yield await blocks.get()
                if full.is_set():
                    raise OverloadedError(
                        f"{self.name} is {self._buffer_s:g} s ahead of the recogniser; audio would be lost.",
                        fix="use a faster server, or raise client.stream_backlog_s.",
                    )
        except self._sounddevice.PortAudioError as error:
            raise self._failed(error) from error
        finally:
            stream.close()

    def _failed(self, error: Exception) -> AudioError:
        return AudioError(
            f"{self.name} cannot be opened: {error}",
            fix="close other programs that use it, or name another device.",
        )


def _sounddevice() -> Any:
    try:
        import sounddevice
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"a microphone needs {error.name}, which is not installed", fix="pip install 'spark-speech[mic]'"
        ) from error
    except OSError as error:  # the package is there, the library that it loads is not
        raise MissingDependencyError(
            "a microphone needs the PortAudio library, which is not installed",
            fix="apt-get install libportaudio2",
        ) from error
    return sounddevice
