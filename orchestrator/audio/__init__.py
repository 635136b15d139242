"""Recordings in, 16 kHz float32 out.

`decode` takes a path, bytes, an open file or an array and gives an `Audio`, or raises one `AudioError` that
names the recording, what is wrong with it and what to do. Formats: WAV, FLAC, Ogg (Vorbis, Opus), MP3,
M4A/MP4, WebM/Matroska, AAC, AIFF, CAF, AU and what else libsndfile and libav read; raw PCM with a
`PcmFormat`. Any rate, any number of channels, integer, float, mu-law and A-law.
"""

from orchestrator.audio.decode import ChannelMode, Source, decode
from orchestrator.audio.encode import to_pcm16, wav_bytes, write_wav
from orchestrator.audio.models import Audio, PcmEncoding, PcmFormat

__all__ = [
    "Audio",
    "ChannelMode",
    "PcmEncoding",
    "PcmFormat",
    "Source",
    "decode",
    "to_pcm16",
    "wav_bytes",
    "write_wav",
]
