"""How much audio the streams of `parakeet_streaming` hear at once, and its other options: no torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field

Preset = Literal["low_latency", "balanced", "throughput"]


@dataclass(frozen=True, slots=True)
class Contexts:
    """Chunk, left and right context in milliseconds."""

    chunk_ms: int
    left_ms: int
    right_ms: int


PRESETS: Final[dict[Preset, Contexts]] = {
    "low_latency": Contexts(chunk_ms=160, left_ms=1440, right_ms=960),
    "balanced": Contexts(chunk_ms=560, left_ms=3360, right_ms=1040),
    "throughput": Contexts(chunk_ms=960, left_ms=1920, right_ms=960),
}
"""What a step costs a second of audio is (left + chunk + right) / chunk encoder seconds: 16, 8.9 and 4."""


class ParakeetStreamingOptions(BaseModel):
    """What `EngineSource.options` may hold for this engine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    preset: Preset = "balanced"
    """Lengths of chunk, left and right context together; the three options below change one each."""
    chunk_ms: int | None = Field(default=None, ge=80, multiple_of=80)
    """Audio that each step makes words of."""
    left_ms: int | None = Field(default=None, ge=0, multiple_of=80)
    """Audio before the chunk that the encoder hears again."""
    right_ms: int | None = Field(default=None, ge=0, multiple_of=80)
    """Audio after the chunk that the encoder waits for."""
    max_streams: int = Field(default=64, ge=1)
    """The most streams at once; all memory for them is taken when the engine loads."""
    max_batch: int | None = Field(default=None, ge=1)
    """The most streams in one pass of the network; None: by the length of the window."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the matrix products; ``auto``: float32 on a CPU, elsewhere what the build chose, or bfloat16."""
    cuda_graphs: bool = True
    """Replay captured graphs where the device is CUDA."""
    head: Literal["transducer", "ctc"] = "transducer"
    """Which head of a hybrid decodes."""
    languages: tuple[str, ...] = ()
    """BCP-47 primary tags of the weights; a checkpoint that names its own comes first, ``("en",)`` last."""

    @property
    def contexts(self) -> Contexts:
        """The preset with what was changed of it."""
        preset = PRESETS[self.preset]
        return Contexts(
            chunk_ms=preset.chunk_ms if self.chunk_ms is None else self.chunk_ms,
            left_ms=preset.left_ms if self.left_ms is None else self.left_ms,
            right_ms=preset.right_ms if self.right_ms is None else self.right_ms,
        )
