"""An engine that fails is replaced by the next one, and nothing is lost: over real connections."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
import soundfile

from orchestrator.cli import main as command
from orchestrator.client import AsyncSpeechClient
from orchestrator.client.engines import board
from orchestrator.client.routing.breaker import State
from orchestrator.errors import (
    AudioEmptyError,
    ModelNotFoundError,
    RemoteInferenceError,
    ServerUnavailableError,
    UnsupportedLanguageError,
)
from orchestrator.settings import Settings
from tests.client.engines.sarvam_service import KEY, SarvamService, shape

RULES = [
    {"language": "kn-IN", "engines": ["sarvam", "parrot"]},
    {"language": "en", "engines": ["parrot", "second"]},
    {"language": "unknown", "engines": ["second"]},
]


@pytest.fixture
def service() -> Iterator[SarvamService]:
    server = SarvamService()
    yield server
    server.stop()


@pytest.fixture(autouse=True)
def _engines(fake: Any, tools: Any) -> None:
    """`parrot` as it comes, and a `second` engine that hears the same and tells languages."""

    def second(audio: Any, options: Any) -> Any:
        outputs = tools.hear(tools.TEXT)(audio, options)
        language = b"".join((len(fake.language).to_bytes(4, "little"), fake.language.encode()))
        outputs["LANGUAGE"] = ("BYTES", [1, 1], language)
        import numpy as np

        outputs["LANGUAGE_CONFIDENCE"] = ("FP32", [1, 1], np.float32([fake.confidence]).tobytes())
        return outputs

    fake.language, fake.confidence = "en", 0.9
    fake.models["second"] = tools.Model(
        second,
        {
            "task": "recognize",
            "engine": "second",
            "languages": "en,kn",
            "rank": "20",
            "detects_language": "true",
        },
    )


class Clock:
    """The breakers' time, which passes only where a test says so."""

    now_s = 1000.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(board, "anyio", SimpleNamespace(current_time=lambda: made.now_s))
    return made


def settings(service: SarvamService | None = None, **routing: Any) -> Settings:
    given: dict[str, Any] = {
        "client": {"retries": 0},
        "routing": {"rules": RULES, "failures": 2, "open_s": 0.3, **routing},
    }
    if service is not None:
        given["sarvam"] = {
            "api_key": KEY,
            "url": service.url,
            "requests_per_minute": 6000,
            "retries": 0,
            "timeout_s": 60,
        }
    return Settings.model_validate(given)


def run(fake: Any, made: Settings, act: Any) -> Any:
    async def main() -> Any:
        async with AsyncSpeechClient(fake.url, settings=made) as client:
            return await act(client)

    return asyncio.run(main())


def break_down(fake: Any, model: str) -> None:
    def broken(audio: Any, options: Any) -> Any:
        raise RuntimeError("boom")

    fake.models[model].handler = broken


def test_the_next_one_answers_and_the_record_says_so(fake: Any, tools: Any) -> None:
    break_down(fake, "echo")
    speech = tools.spoken(tools.TEXT, each_s=4)

    async def act(client: AsyncSpeechClient) -> Any:
        return await client.transcribe(speech, language="en", diarize=True)

    transcript = run(fake, settings(), act)
    assert transcript.text == tools.TEXT, "all of it: the next one gets the whole recording"
    assert transcript.engine == "second"
    record = transcript.routing
    assert record.rule == "en -> parrot, second"
    assert (record.engine, record.model) == ("second", "second")
    assert [(one.engine, one.error) for one in record.failed] == [("parrot", "RemoteInferenceError")]
    assert [seen.model for seen in fake.seen].count("diarizer") == 1, "the speakers are not sought again"
    assert transcript.speakers == ("SPEAKER_00", "SPEAKER_01")


def test_a_breaker_opens_is_probed_and_closes(fake: Any, tools: Any, clock: Clock) -> None:
    healthy = fake.models["echo"].handler
    break_down(fake, "echo")
    speech = tools.spoken("it was")

    def asked() -> list[str]:
        models = [seen.model for seen in fake.seen]
        fake.seen.clear()
        return models

    async def act(client: AsyncSpeechClient) -> None:
        async def once() -> Any:
            return await client.transcribe(speech, language="en", diarize=False)

        await once()
        await once()
        assert asked() == ["echo", "second"] * 2
        assert client.breakers()["parrot"] is State.OPEN
        explained = (await once()).routing
        assert asked() == ["second"], "left alone"
        assert "fails at the moment" in "\n".join(explained.lines())
        clock.now_s += 0.35
        await once()
        assert asked() == ["echo", "second"], "the probe failed"
        clock.now_s += 0.35
        await once()
        assert asked() == ["second"], "twice as long"
        fake.models["echo"].handler = healthy
        clock.now_s += 0.35
        assert (await once()).engine == "parrot"
        assert asked() == ["echo"]
        assert client.breakers()["parrot"] is State.CLOSED

    run(fake, settings(), act)


def test_requests_side_by_side_send_one_probe(fake: Any, tools: Any, clock: Clock) -> None:
    break_down(fake, "echo")
    speech = tools.spoken("it was")

    async def act(client: AsyncSpeechClient) -> None:
        async def once() -> Any:
            return await client.transcribe(speech, language="en", diarize=False)

        await once()
        await once()
        clock.now_s += 0.35
        fake.seen.clear()
        await asyncio.gather(*(once() for _ in range(6)))
        assert [seen.model for seen in fake.seen].count("echo") == 1
        assert [seen.model for seen in fake.seen].count("second") == 6

    run(fake, settings(), act)


def test_where_all_fail_the_first_says_why_and_the_others_too(fake: Any, tools: Any) -> None:
    break_down(fake, "echo")
    break_down(fake, "second")

    async def act(client: AsyncSpeechClient) -> Any:
        return await client.transcribe(tools.spoken("it"), language="en", diarize=False)

    with pytest.raises(RemoteInferenceError, match=r"echo.*The engines after it failed too: second"):
        run(fake, settings(), act)


def test_what_is_not_an_engines_fault_is_raised_at_once(fake: Any, tools: Any) -> None:
    async def act(client: AsyncSpeechClient) -> Any:
        return await client.transcribe(tools.spoken("")[:0], language="en")

    with pytest.raises(AudioEmptyError):
        run(fake, settings(), act)
    assert not fake.seen


def test_an_engine_that_was_named_has_no_stand_in(fake: Any, tools: Any) -> None:
    break_down(fake, "echo")

    async def act(client: AsyncSpeechClient) -> Any:
        return await client.transcribe(tools.spoken("it"), engine="parrot", diarize=False)

    with pytest.raises(RemoteInferenceError, match="echo"):
        run(fake, settings(), act)
    assert {seen.model for seen in fake.seen} == {"echo"}


def test_kannada_goes_to_sarvam_and_back_where_that_fails(
    fake: Any, tools: Any, service: SarvamService
) -> None:
    speech = tools.spoken(tools.TEXT)

    async def act(client: AsyncSpeechClient) -> Any:
        return await client.transcribe(speech, language="kn-IN", diarize=True)

    good = run(fake, settings(service), act)
    assert (good.engine, good.text) == ("sarvam", shape("transcribe")["transcript"])
    assert good.turns, "who spoke is found at home"
    service.fail("500", times=9)
    with pytest.raises(RemoteInferenceError, match="Internal server error"):
        run(fake, settings(service, otherwise="none"), act)
    service.fail("403", times=9)
    service.faults = service.faults[-1:]
    stood_in = run(fake, settings(service), act)
    assert stood_in.engine == "second", "it knows Kannada too"
    assert [(one.engine, one.error) for one in stood_in.routing.failed] == [("sarvam", "AccessDeniedError")]
    assert stood_in.text == tools.TEXT


def test_without_triton_the_engines_outside_still_work(fake: Any, tools: Any, service: SarvamService) -> None:
    async def kannada(client: AsyncSpeechClient) -> Any:
        return await client.transcribe(tools.spoken("it"), language="kn", diarize=False)

    async def english(client: AsyncSpeechClient) -> Any:
        await kannada(client)
        fake.stop()
        with pytest.raises(ServerUnavailableError):
            await client.transcribe(tools.spoken("it"), language="en", diarize=False)
        return await client.transcribe(tools.spoken("it"), language="kn", diarize=False)

    assert run(fake, settings(service), english).engine == "sarvam"
    assert run(fake, settings(service), kannada).engine == "sarvam"

    async def german(client: AsyncSpeechClient) -> Any:
        return await client.transcribe(tools.spoken("it"), language="de", diarize=False)

    with pytest.raises((UnsupportedLanguageError, ModelNotFoundError)):
        run(fake, settings(service), german)


@pytest.mark.parametrize(
    ("language", "confidence", "engine", "known"),
    [("kn", 0.9, "sarvam", "kn"), ("en", 0.8, "parrot", "en"), ("kn", 0.2, "second", None)],
)
def test_a_language_that_is_found_out_decides_where_it_is_sure(
    fake: Any,
    tools: Any,
    service: SarvamService,
    language: str,
    confidence: float,
    engine: str,
    known: str | None,
) -> None:
    fake.language, fake.confidence = language, confidence

    async def act(client: AsyncSpeechClient) -> Any:
        return await client.transcribe(tools.spoken(tools.TEXT), diarize=False)

    transcript = run(fake, settings(service), act)
    record = transcript.routing
    assert transcript.engine == engine
    assert (record.language, record.language_confidence) == (known, pytest.approx(confidence))
    detection = [seen for seen in fake.seen if seen.options.get("detect_only")]
    assert [seen.model for seen in detection] == ["second"]


def test_a_language_is_not_sought_where_that_is_off_or_fails(fake: Any, tools: Any) -> None:
    async def act(client: AsyncSpeechClient) -> Any:
        return await client.transcribe(tools.spoken("it was"), diarize=False)

    assert run(fake, settings(detect=False), act).routing.language_confidence is None
    assert not any(seen.options for seen in fake.seen)
    fake.fail(grpc.StatusCode.INTERNAL, "boom")
    transcript = run(fake, settings(), act)
    assert transcript.routing.language is None
    assert transcript.text == "it was"


def test_the_command_explains_itself(
    fake: Any, tools: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    break_down(fake, "echo")
    monkeypatch.chdir(tmp_path)
    soundfile.write("a.wav", tools.spoken("it was"), 16_000, subtype="FLOAT")
    rules = f"routing.rules={json.dumps(RULES)}"
    arguments = ["--set", rules, "--set", "client.retries=0", "transcribe", "a.wav", "--language", "en"]
    with pytest.raises(SystemExit) as done:
        command([*arguments, "--no-diarize", "--explain", "--json", "--url", fake.url])
    out, err = capsys.readouterr()
    assert done.value.code == 0
    assert json.loads(out)["routing"]["engine"] == "second"
    assert "Rule: en -> parrot, second" in err
    assert "Failed: parrot: RemoteInferenceError" in err
    assert "Engine: second (model second)" in err
    with pytest.raises(SystemExit):
        command([*arguments, "--no-diarize", "--explain", "--output", "out", "--url", fake.url])
    assert "Engine: second (model second)" in capsys.readouterr().err
