from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.bench.gateway import benchmark, command
from orchestrator.bench.gateway.command import Asked
from orchestrator.bench.gateway.stub import WORD_MS, WORDS, Answers
from orchestrator.client.stream.codec import decode
from orchestrator.progress import SilentProgress
from orchestrator.settings import Settings


def test_the_model_that_does_nothing_says_each_word_once() -> None:
    from tritonclient.grpc import service_pb2

    answers = Answers(160)
    finals: list[str] = []
    partials: dict[int, int] = {}
    for heard_ms in range(160, 3 * WORDS * WORD_MS + 1, 160):
        update = decode(service_pb2.ModelInferResponse.FromString(answers.said(heard_ms)), "stub")
        assert update.processed_ms == heard_ms
        for segment in update.segments:
            if segment.final:
                assert segment.utterance == len(finals)
                finals.append(" ".join(word.text for word in segment.words))
                assert segment.words[-1].end_ms == update.final_ms == heard_ms
            else:
                assert len(segment.words) >= partials.get(segment.utterance, 0)
                partials[segment.utterance] = len(segment.words)
    assert len(finals) == 3
    assert set(partials.values()) == {WORDS - 1}


def test_the_command_is_told_again() -> None:
    asked = Asked((10, 20), (1, 2), 3.0, triton=True, processes=4)
    assert command.command_of(asked) == (
        "spark-speech bench gateway --streams 10,20 --seconds 3 --workers 1,2 --triton --clients 4"
    )
    assert command.command_of(Asked((5,))) == "spark-speech bench gateway --streams 5 --seconds 15"


@pytest.mark.integration
@pytest.mark.timeout(600)
def test_streams_through_a_real_gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    asked = Asked(streams=(3,), workers=(1, 2), seconds=2.0, processes=1)
    report = command.run(Settings(), asked, progress=SilentProgress())
    direct, one, two = report.rows
    assert [row["path"] for row in report.rows] == ["direct", "gateway", "gateway"]
    assert direct["cpu_ms"] is None
    for row in (one, two):
        assert float(row["cpu_ms"] or 0) > 0.05
        assert float(row["p50_ms"] or 0) > 0
        assert "errors" not in str(row["counts"])
        assert row["streams_per_core"] == pytest.approx(160 / float(row["cpu_ms"] or 1), abs=1)
    assert two["workers"] == 2
    json.dumps(report.to_dict())
    assert benchmark.LIMIT_MS == 10
