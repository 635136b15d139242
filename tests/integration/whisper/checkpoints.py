"""Small random Whisper checkpoints, with an end token that is sometimes likely."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from orchestrator.bench import synthetic_whisper
from orchestrator.engines.whisper_native.checkpoint import WEIGHTS, WhisperShape

SHAPE = WhisperShape(
    mels=80,
    width=32,
    encoder_layers=2,
    encoder_heads=2,
    encoder_inner=64,
    encoder_positions=100,
    decoder_layers=2,
    decoder_heads=4,
    decoder_inner=64,
    decoder_positions=64,
    vocabulary=2_200,
)


def random_checkpoint(folder: Path, seed: int, *, talkative: bool = True) -> Path:
    """Write one; ``talkative``: it hardly ever ends by itself."""
    synthetic_whisper.write(folder, shape=SHAPE, precision="float32", seed=seed)
    if not talkative:
        weights: dict[str, Any] = load_file(folder / WEIGHTS)
        end = synthetic_whisper.vocabulary(SHAPE.vocabulary)["<|endoftext|>"]
        weights["model.decoder.embed_tokens.weight"][end] *= 3.0
        save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    return folder
