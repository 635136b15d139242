"""What is served, how it is, and since when: models, health, version, metadata, metrics."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel

from orchestrator import __version__
from orchestrator.client import ModelCard
from orchestrator.client.routing import AUTO
from orchestrator.gateway.admission import stopping
from orchestrator.gateway.http import openapi
from orchestrator.gateway.http.errors import ApiError
from orchestrator.gateway.http.state import Shared, shared_of
from orchestrator.gateway.metrics import CONTENT_TYPE
from orchestrator.gateway.service import recognisers

router: Final = APIRouter()
API_VERSION: Final = "1"
_OWNER: Final = "spark-speech"


class Model(BaseModel):
    """A model as OpenAI lists it, with what it can do; ``created`` is not known and 0."""

    id: str
    object: str = "model"
    created: int = 0
    owned_by: str = _OWNER
    engine: str
    languages: list[str]


class ModelList(BaseModel):
    """All models."""

    object: str = "list"
    data: list[Model]


class Health(BaseModel):
    """``live`` or ``ready``."""

    status: str


class Version(BaseModel):
    """The release of this package, and of the HTTP interface."""

    release: str
    api: str


class ModelInfo(BaseModel):
    """One model of the upstream, ready or not."""

    shortName: str  # noqa: N815 - the name in NIM's answer
    state: str
    task: str | None
    engine: str
    languages: list[str]


class Metadata(BaseModel):
    """What this service is made of."""

    version: str
    modelInfo: list[ModelInfo]  # noqa: N815


@router.get("/v1/models", responses=openapi.errors(401, 503, 504))
async def models(request: Request) -> ModelList:
    """The recognisers that are ready, the preferred one first, after ``auto``."""
    return ModelList(data=await _offered(shared_of(request)))


@router.get("/v1/models/{model}", responses=openapi.errors(401, 404, 503, 504))
async def model(request: Request, model: str) -> Model:
    """One of them."""
    for offered in await _offered(shared_of(request)):
        if offered.id == model:
            return offered
    raise ApiError("There is no such model.", status=404, param="model", code="model_not_found")


@router.get("/v1/health/live")
async def live() -> Health:
    """The gateway runs, whatever the models do."""
    return Health(status="live")


@router.get("/v1/health/ready", responses=openapi.errors(503, 504))
async def ready(request: Request) -> Health:
    """A recording sent now can be recognised."""
    shared = shared_of(request)
    if shared.admission.draining:
        raise stopping()
    await shared.service.check_ready()
    return Health(status="ready")


@router.get("/v1/version", responses=openapi.errors(401))
async def version() -> Version:
    """Which version runs."""
    return Version(release=__version__, api=API_VERSION)


@router.get("/v1/metadata", responses=openapi.errors(401, 503, 504))
async def metadata(request: Request) -> Metadata:
    """Every model of the upstream."""
    cards = await shared_of(request).service.models()
    return Metadata(version=__version__, modelInfo=[_info(card) for card in cards])


_METRICS: Final = {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **openapi.errors(401)}


@router.get("/metrics", response_class=Response, responses=_METRICS)
@router.get("/v1/metrics", response_class=Response, responses=_METRICS)
async def metrics(request: Request) -> Response:
    """Prometheus's text format."""
    return Response(shared_of(request).metrics.text(), headers={"Content-Type": CONTENT_TYPE})


async def _offered(shared: Shared) -> list[Model]:
    able = recognisers(await shared.service.models())
    languages = sorted({tag for card in able for tag in card.languages})
    auto = [Model(id=AUTO, engine=AUTO, languages=languages)] if able else []
    return auto + [Model(id=card.name, engine=card.engine, languages=list(card.languages)) for card in able]


def _info(card: ModelCard) -> ModelInfo:
    return ModelInfo(
        shortName=card.name,
        state=card.state,
        task=card.task,
        engine=card.engine,
        languages=list(card.languages),
    )
