from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.client.catalog import ModelCard
from orchestrator.contract import Task
from orchestrator.errors import ConfigurationError, ModelNotFoundError, ModelNotReadyError
from orchestrator.gateway import service as service_module
from orchestrator.gateway.service import Job, TritonService, engine_riva
from orchestrator.settings import AudioSettings, GatewaySettings, Settings
from orchestrator.transcript.models import Transcript

DIARIZER = ModelCard("diarizer", True, ("1",), task=Task.DIARIZE)
RECOGNISER = ModelCard("echo", True, ("1",), task=Task.RECOGNIZE)


class FakeClient:
    """Stands for `AsyncSpeechClient`."""

    def __init__(self, url: str | None = None, *, settings: Settings) -> None:
        self.host = url
        self.settings = settings
        self.cards: tuple[ModelCard, ...] = (DIARIZER, RECOGNISER)
        self.ready = True
        self.options: dict[str, Any] = {}

    async def models(self) -> tuple[ModelCard, ...]:
        return self.cards

    async def server_status(self) -> Any:
        return SimpleNamespace(ready=self.ready)

    async def transcribe(self, source: Path, **options: Any) -> Transcript:
        self.options = options
        return Transcript()


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> list[FakeClient]:
    """The client that `TritonService` made."""
    made: list[FakeClient] = []

    def make(*args: Any, **kwargs: Any) -> FakeClient:
        made.append(FakeClient(*args, **kwargs))
        return made[-1]

    monkeypatch.setattr(service_module, "AsyncSpeechClient", make)
    return made


def asked(client: list[FakeClient], job: Job, *cards: ModelCard) -> dict[str, Any]:
    service = TritonService(Settings(), "spark:8001")
    client[0].cards = cards
    asyncio.run(service.transcribe(Path("a.wav"), job))
    return client[0].options


def test_a_job_becomes_options(client: list[FakeClient]) -> None:
    job = Job("parrot", "de", "required", 3)
    assert asked(client, job, DIARIZER, RECOGNISER) == {
        "engine": "parrot",
        "language": "de",
        "diarize": True,
        "num_speakers": 3,
        "max_speakers": None,
    }


@pytest.mark.parametrize(
    ("speakers", "cards", "diarize"),
    [
        ("none", (DIARIZER, RECOGNISER), False),
        ("if possible", (DIARIZER, RECOGNISER), True),
        ("if possible", (RECOGNISER,), False),
        ("if possible", (ModelCard("diarizer", False, state="LOADING"), RECOGNISER), False),
    ],
)
def test_speakers_where_there_is_a_diarizer(
    client: list[FakeClient], speakers: Any, cards: tuple[ModelCard, ...], diarize: bool
) -> None:
    assert asked(client, Job(speakers=speakers), *cards)["diarize"] is diarize


def test_speakers_that_are_required(client: list[FakeClient]) -> None:
    with pytest.raises(ModelNotFoundError, match="no diarizer") as caught:
        asked(client, Job(speakers="required"), RECOGNISER)
    assert caught.value.model is None


@pytest.mark.parametrize(
    ("ready", "cards", "message"),
    [
        (False, (RECOGNISER,), "is not ready"),
        (True, (DIARIZER,), "no recogniser"),
        (True, (ModelCard("echo", False),), "no recogniser"),
    ],
)
def test_what_is_not_ready(
    client: list[FakeClient], ready: bool, cards: tuple[ModelCard, ...], message: str
) -> None:
    service = TritonService(Settings(), "spark:8001")
    client[0].ready, client[0].cards = ready, cards
    with pytest.raises(ModelNotReadyError, match=message):
        asyncio.run(service.check_ready())


def test_ready(client: list[FakeClient]) -> None:
    asyncio.run(TritonService(Settings(), "spark:8001").check_ready())


def test_the_stricter_limits_hold(client: list[FakeClient]) -> None:
    settings = Settings(
        audio=AudioSettings(max_duration_s=100, max_bytes=1000),
        gateway=GatewaySettings(max_duration_s=50, max_upload_bytes=2000),
    )
    TritonService(settings)
    limits = client[0].settings.audio
    assert (limits.max_duration_s, limits.max_bytes) == (50, 1000)


def test_a_wrong_address() -> None:
    with pytest.raises(ConfigurationError, match="not an address"):
        TritonService(Settings(), "nowhere")


@pytest.mark.parametrize(
    ("url", "asked"),
    [
        ("127.0.0.1:50051", False),
        ("grpcs://localhost:50051", False),
        ("127.0.0.1:50052", True),
        ("spark:50051", True),
        ("spark:port", True),
    ],
)
def test_a_gateway_does_not_ask_itself(url: str, asked: bool) -> None:
    settings = Settings.model_validate({"riva": {"url": url, "rank": 7}})
    assert (engine_riva(settings).url == url) == asked
    assert engine_riva(settings).rank == 7
    assert engine_riva(Settings()).url is None
