"""How `orchestrator.engines.parakeet_streaming` is set up: its options, its window, its memory."""

from __future__ import annotations

from typing import Final

import torch

from orchestrator.engines.fastconformer.causal import CausalEncoder
from orchestrator.engines.fastconformer.compute import Compute, Precision
from orchestrator.engines.fastconformer.network import FastConformer
from orchestrator.engines.fastconformer.rounds import Geometry
from orchestrator.engines.fastconformer.streaming import CachedPool, StreamPool
from orchestrator.engines.fastconformer.tokens import Tokens
from orchestrator.engines.nemo_words import Vocabulary
from orchestrator.engines.streaming_presets import Contexts, ParakeetStreamingOptions
from orchestrator.errors import ConfigurationError

NAME: Final = "parakeet_streaming"

_SIGNS: Final = ("<EOU>", "<EOB>")
"""Tokens of parakeet_realtime_eou that tell of ends and add nothing to the text."""
_PASS_S: Final = {"cuda": 1920.0, "cpu": 240.0}
"""The most audio in one pass of the network."""


def vocabulary_of(tokens: Tokens) -> Vocabulary:
    """The text of the tokens; signs that are not speech have none."""
    signs = (token for token, piece in enumerate(tokens.pieces) if piece in _SIGNS)
    return Vocabulary(
        tokens.pieces, marks=tokens.marks, unknown=tokens.unknown, control=(*tokens.control, *signs)
    )


def contexts_of(network: FastConformer, options: ParakeetStreamingOptions) -> Contexts:
    """The preset's, or those that a cache-aware encoder was trained for.

    Raises:
        ConfigurationError: the options ask for a chunk that a cache-aware encoder does not take.
    """
    config = network.config
    if not config.encoder.causal:
        return options.contexts
    frame_ms = round(config.frame_ms)
    chunk_ms = (config.encoder.right + 1) * frame_ms
    if options.chunk_ms not in (None, chunk_ms):
        raise ConfigurationError(
            f"This checkpoint takes chunks of {chunk_ms} ms, not of {options.chunk_ms} ms.",
            fix=f"set chunk_ms to {chunk_ms}.",
            model=NAME,
        )
    return Contexts(chunk_ms=chunk_ms, left_ms=config.encoder.left * frame_ms, right_ms=0)


def pool_of(
    network: FastConformer,
    device: torch.device,
    precision: Precision,
    options: ParakeetStreamingOptions,
    contexts: Contexts,
) -> StreamPool:
    """Places for the streams on ``device``.

    Raises:
        RuntimeError: the device has no room.
    """
    config, places = network.config, options.max_streams
    hop, graphs = config.features.hop, options.cuda_graphs
    window_s = (contexts.left_ms + contexts.chunk_ms + contexts.right_ms) / 1000
    fits = options.max_batch or int(_PASS_S.get(device.type, _PASS_S["cpu"]) / window_s)
    max_batch = max(1, min(fits, places))
    if isinstance(network.encoder, CausalEncoder):
        compute = Compute(network, device, precision=precision, cuda_graphs=graphs)
        return CachedPool(compute, network.encoder, hop, places, max_batch)
    frame_ms = round(config.frame_ms)
    left, chunk, right = (
        -(-length // frame_ms) for length in (contexts.left_ms, contexts.chunk_ms, contexts.right_ms)
    )
    geometry = Geometry(left, chunk, right, hop, config.encoder.subsampling)
    window = geometry.window * geometry.block
    compute = Compute(network, device, precision=precision, cuda_graphs=graphs, window_samples=window)
    return StreamPool(compute, geometry, places, max_batch)
