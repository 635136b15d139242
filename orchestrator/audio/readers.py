"""Choose the decoder for an open file.

libav names the container. libsndfile decodes the formats it is sure of, and libav the rest: MP3 too, as
libsndfile loses more than half of a variable-rate MP3 without a length header, and writes warnings on
standard error.
"""

from __future__ import annotations

from typing import Final

from orchestrator.audio.av_reader import open_av, open_container
from orchestrator.audio.soundfile_reader import open_soundfile
from orchestrator.audio.source import Opened
from orchestrator.audio.stream import Stream, not_audio

_SOUNDFILE_FIRST: Final = frozenset({"wav", "w64", "flac", "ogg", "aiff", "au", "caf", "nistsphere"})
"""libav's names of the containers that libsndfile is asked first for."""


def open_stream(opened: Opened) -> Stream:
    """Find the decoder for ``opened``.

    Raises:
        AudioDecodeError: no decoder knows it, or it holds no sound. Reading blocks raises it for damage.
    """
    container = open_container(opened)
    if container is not None and container.format.name in _SOUNDFILE_FIRST:
        container.close()
        stream = open_soundfile(opened)
        if stream is not None:
            return stream
        container = open_container(opened)
    if container is None:
        raise not_audio(opened, "it is not audio, or its beginning is damaged")
    return open_av(opened, container)
