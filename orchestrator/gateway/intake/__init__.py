"""Audio of a live stream: bytes as they come, in any cut, to 16 kHz mono.

`Intake` knows the encoding or finds it out from the first bytes (`sniff`); one decoder each for raw PCM
(`pcm`), WAV (`wav`), FLAC (`flac`) and Ogg Opus (`opus`) works on whatever part of the stream is there.
"""

from orchestrator.gateway.intake.intake import PIECE_BYTES, Intake
from orchestrator.gateway.intake.sniff import AudioSpec, Encoding

__all__ = ["PIECE_BYTES", "AudioSpec", "Encoding", "Intake"]
