"""``/v1/status``: what the page shows of the server, in one answer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from fastapi import APIRouter, Request
from prometheus_client import CollectorRegistry
from pydantic import BaseModel

from orchestrator import __version__
from orchestrator.client import ModelCard
from orchestrator.contract import Task
from orchestrator.errors import SpeechError
from orchestrator.gateway.admission import stopping
from orchestrator.gateway.http import openapi
from orchestrator.gateway.http.state import Shared, shared_of

router: Final = APIRouter()
_RESPONSE: Final = "spark_speech_gateway_stream_response_seconds"


class ModelStatus(BaseModel):
    """One model of the upstream, ready or not; ``reason`` says why not."""

    name: str
    task: str | None
    engine: str
    languages: list[str]
    ready: bool
    state: str
    reason: str


class Load(BaseModel):
    """How many are in work, and the most there may be."""

    running: int
    limit: int


class Latency(BaseModel):
    """Since the gateway started; None where nothing was measured yet.

    ``stream_*_s`` are the seconds from a piece of live audio to the answer that holds its words, interpolated
    in the buckets of the metric; ``speed`` is audio over the time to recognise it, the mean.
    """

    stream_median_s: float | None
    stream_p95_s: float | None
    speed: float | None
    audio_s: float


class Limits(BaseModel):
    """The largest recording."""

    max_upload_bytes: int
    max_duration_s: float


class Status(BaseModel):
    """The server at a glance; ``speakers``: whether they can be named."""

    version: str
    ready: bool
    reason: str | None
    speakers: bool
    models: list[ModelStatus]
    requests: Load
    streams: Load
    latency: Latency
    limits: Limits


@router.get("/v1/status", responses=openapi.errors(401))
async def status(request: Request) -> Status:
    """Models, load and latency; 200 also where the upstream is not ready."""
    shared = shared_of(request)
    reason, cards = await _state(shared)
    settings, metrics = shared.settings, shared.metrics.registry
    return Status(
        version=__version__,
        ready=reason is None,
        reason=reason,
        speakers=any(card.ready and card.task is Task.DIARIZE for card in cards),
        models=[_model(card) for card in cards],
        requests=Load(
            running=int(_value(metrics, "spark_speech_gateway_in_flight")), limit=settings.max_requests
        ),
        streams=Load(
            running=int(_value(metrics, "spark_speech_gateway_streams")), limit=settings.max_streams
        ),
        latency=_latency(metrics),
        limits=Limits(max_upload_bytes=settings.max_upload_bytes, max_duration_s=settings.max_duration_s),
    )


async def _state(shared: Shared) -> tuple[str | None, tuple[ModelCard, ...]]:
    cards: tuple[ModelCard, ...] = ()
    try:
        if shared.admission.draining:
            raise stopping()
        cards = await shared.service.models()
        await shared.service.check_ready()
    except SpeechError as error:
        return f"{error.message} {_sentence(error.fix)}".strip(), cards
    return None, cards


def _sentence(fix: str | None) -> str:
    return "" if not fix else fix[0].upper() + fix[1:].removesuffix(".") + "."


def _model(card: ModelCard) -> ModelStatus:
    return ModelStatus(
        name=card.name,
        task=card.task,
        engine=card.engine,
        languages=list(card.languages),
        ready=card.ready,
        state=card.state,
        reason=card.reason,
    )


def _latency(metrics: CollectorRegistry) -> Latency:
    factor = "spark_speech_gateway_real_time_factor"
    count, total = _value(metrics, f"{factor}_count"), _value(metrics, f"{factor}_sum")
    buckets = _buckets(metrics)
    return Latency(
        stream_median_s=quantile(buckets, 0.5),
        stream_p95_s=quantile(buckets, 0.95),
        speed=count / total if count and total else None,
        audio_s=_value(metrics, "spark_speech_gateway_audio_seconds_total"),
    )


def _value(metrics: CollectorRegistry, name: str) -> float:
    return metrics.get_sample_value(name) or 0.0


def _buckets(metrics: CollectorRegistry) -> dict[float, float]:
    return {
        float(sample.labels["le"]): sample.value
        for family in metrics.collect()
        for sample in family.samples
        if sample.name == f"{_RESPONSE}_bucket"
    }


def quantile(buckets: Mapping[float, float], wanted: float) -> float | None:
    """The ``wanted`` quantile of a histogram, interpolated inside its bucket as Prometheus does.

    Args:
        buckets: upper bounds, the last of them infinite, and how many values are at most that.
        wanted: in 0..1.

    Returns:
        None where there are no values; the last finite bound for what lies over it.
    """
    bounds = sorted(buckets)
    rank = wanted * buckets[bounds[-1]] if bounds else 0.0
    lower, below = 0.0, 0.0
    for bound in bounds:
        if rank and buckets[bound] >= rank:
            if math.isinf(bound):
                return lower
            return lower + (bound - lower) * (rank - below) / (buckets[bound] - below)
        lower, below = bound, buckets[bound]
    return None
