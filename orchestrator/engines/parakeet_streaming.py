"""NVIDIA Parakeet on live streams: the weights of `parakeet`, with chunks in and words out."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Preset = Literal["low_latency", "balanced", "throughput"]


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
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the weights and the matrix products; ``auto``: bfloat16 on CUDA, float32 elsewhere."""
    cuda_graphs: bool = True
    """Replay captured graphs where the device is CUDA."""
    languages: tuple[str, ...] = ()
    """BCP-47 primary tags of the weights; a checkpoint that names its own comes first, ``("en",)`` last."""
