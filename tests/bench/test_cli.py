"""Wrong usage of ``spark-speech bench``."""

from __future__ import annotations

import json

import pytest

from orchestrator.bench import demo
from orchestrator.cli.app import main


def test_an_engine_that_the_demo_has_not_is_wrong_usage(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "run", lambda *args, **options: pytest.fail("it started"))
    with pytest.raises(SystemExit) as ended:
        main(["bench", "demo", "--engine", "whisper", "--json"])
    assert ended.value.code == 2
    assert "moonshine" in json.loads(capsys.readouterr().out)["message"]


@pytest.mark.parametrize(
    ("output", "reason"), [('{"message": "no room"}', "no room"), ("", "no reason"), ("[1]", "no reason")]
)
def test_the_demos_own_reason_is_passed_on(output: str, reason: str) -> None:
    assert reason in demo._reason(output)
