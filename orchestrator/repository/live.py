"""How a model of live streams is set up: pure, from settings to its configuration."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Final

from orchestrator.contract import Parameter
from orchestrator.engines.streaming_presets import PRESETS
from orchestrator.errors import ConfigurationError
from orchestrator.repository.config import InstanceGroup, ModelConfig, SequenceBatching
from orchestrator.settings import StreamingSettings

REFUSED_CANDIDATES: Final = 64
"""A stream that is refused holds a place in Triton until it ends or is idle for too long. While there are
such places the model answers at once; without, Triton would let newcomers wait for one."""
_IDLE_MARGIN_S: Final = 10.0
"""The model forgets an idle stream before Triton does, so that its client reads the model's own message."""
_DELAY_SHARE: Final = 32


def stream_config(config: ModelConfig, settings: StreamingSettings) -> ModelConfig:
    """``config`` with sequences in place of dynamic batching, and with the parameters of a stream.

    ``config.max_batch_size`` is taken as the most streams where ``settings`` names no number. One batch can
    hold a chunk of every stream.

    Raises:
        ConfigurationError: fewer streams than instances.
    """
    chunk_ms = settings.chunk_ms or PRESETS[settings.preset].chunk_ms
    max_streams = settings.max_streams or config.max_batch_size
    if max_streams < settings.instances:
        raise ConfigurationError(
            f"{config.name}: {max_streams} streams cannot be shared among {settings.instances} instances",
            fix="raise streaming.max_streams, or lower streaming.instances",
        )
    # Triton gives a new sequence the lowest free place of all instances, so they fill evenly.
    streams_each = math.ceil(max_streams / settings.instances)
    delay_ms = chunk_ms / _DELAY_SHARE if settings.queue_delay_ms is None else settings.queue_delay_ms
    lengths = {
        "chunk_ms": settings.chunk_ms,
        "left_ms": settings.left_ms,
        "right_ms": settings.right_ms,
    }
    engine_options = {
        **json.loads(config.parameters[Parameter.ENGINE_OPTIONS]),
        "preset": settings.preset,
        **{key: value for key, value in lengths.items() if value is not None},
        "max_streams": streams_each,
    }
    return replace(
        config,
        instances=tuple(InstanceGroup(group.device, settings.instances) for group in config.instances),
        max_batch_size=streams_each,
        ragged=True,
        queue_delay_us=None,
        sequences=SequenceBatching(
            candidates=streams_each + max(REFUSED_CANDIDATES, streams_each),
            idle_us=round((settings.idle_timeout_s + _IDLE_MARGIN_S) * 1e6),
            queue_delay_us=round(delay_ms * 1000),
        ),
        parameters={
            **config.parameters,
            str(Parameter.ENGINE_OPTIONS): json.dumps(engine_options),
            str(Parameter.CHUNK_MS): str(chunk_ms),
            str(Parameter.MAX_STREAMS): str(streams_each * settings.instances),
            str(Parameter.IDLE_TIMEOUT_S): f"{settings.idle_timeout_s:g}",
        },
    )
