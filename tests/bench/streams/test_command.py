from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import soundfile

from orchestrator.bench.streams import benchmark, command, server
from orchestrator.bench.streams.command import Asked, command_of, numbers_of, spoken, streaming_settings
from orchestrator.bench.streams.server import metrics_of
from orchestrator.cli.app import main
from orchestrator.errors import ConfigurationError
from orchestrator.settings import StreamingSettings

PAGE = """
# HELP speech_streams_open Live streams now
# TYPE speech_streams_open gauge
speech_streams_open{instance="live_0_0"} 3
speech_streams_open{instance="live_0_1"} 4
speech_stream_step_seconds_total{instance="live_0_0"} 1.5e-2
nv_inference_count{model="live",version="1"} 7
speech_streams_open{instance="broken"}
"""


def test_metrics_are_summed_over_instances():
    assert metrics_of(PAGE) == {"speech_streams_open": 7, "speech_stream_step_seconds_total": 0.015}


def test_numbers():
    assert numbers_of("100,300, 600") == (100, 300, 600)
    assert numbers_of("") == ()
    for text in ("0", "4,-1", "many", "1.5"):
        with pytest.raises(ConfigurationError, match="no list of numbers"):
            numbers_of(text)


def test_limits_are_those_of_the_two_published_settings():
    assert benchmark.default_limit_ms(160) == 100
    assert benchmark.default_limit_ms(960) == 500


@pytest.mark.parametrize(
    ("asked", "most"),
    [
        (Asked(streams=(5, 700)), 700),
        (Asked(streams=(5,), search_s=60.0), 1024),
        (Asked(streams=(2000,), search_s=60.0), 2000),
        (Asked(search_s=60.0, max_streams=4096), 4096),
        (Asked(abort=10_000), 256),
        (Asked(abort=3), 3),
    ],
)
def test_the_server_takes_as_many_streams_as_are_to_come(asked, most):
    assert streaming_settings(StreamingSettings(), asked).max_streams == most


def test_what_was_asked_for_goes_over_the_settings():
    given = StreamingSettings(preset="throughput", instances=2, queue_delay_ms=3)
    kept = streaming_settings(given, Asked(streams=(9,)))
    assert (kept.preset, kept.instances, kept.queue_delay_ms) == ("throughput", 2, 3)
    changed = streaming_settings(given, Asked(streams=(9,), preset="low_latency", instances=3))
    assert (changed.preset, changed.instances, changed.queue_delay_ms) == ("low_latency", 3, 3)


def test_vanished_streams_are_forgotten_soon():
    given = StreamingSettings()
    assert streaming_settings(given, Asked(abort=5)).idle_timeout_s == 2
    assert streaming_settings(given, Asked(streams=(5,))).idle_timeout_s == 10


def test_fewer_streams_than_instances_are_refused():
    with pytest.raises(ConfigurationError, match="--max-streams"):
        streaming_settings(StreamingSettings(), Asked(streams=(1,), instances=4, max_streams=2))


def test_the_recording_becomes_16_bit_samples_of_one_channel(tmp_path):
    path = tmp_path / "two.wav"
    stereo = np.stack([np.full(1600, 0.5, np.float32), np.zeros(1600, np.float32)], axis=1)
    soundfile.write(path, stereo, 16_000, subtype="FLOAT")
    assert spoken(path).dtype == np.int16
    assert spoken(path).tolist() == [8192] * 1600
    assert len(spoken(None)) > 16_000


def test_the_command_asks_for_the_same_again(monkeypatch):
    asked = Asked(
        streams=(1, 30),
        search_s=120.0,
        seconds=7.0,
        limit_ms=90.0,
        source="/srv/weights",
        preset="throughput",
        instances=2,
        max_streams=64,
        device="cpu",
        processes=3,
        recording=Path("/srv/call.wav"),
    )
    seen = []

    def remember(settings, again, *, progress):
        seen.append(again)
        raise ConfigurationError("enough")

    monkeypatch.setattr(command, "run", remember)
    words = shlex.split(command_of(asked).replace("FOLDER", "/srv/weights").replace("FILE", "/srv/call.wav"))
    with pytest.raises(SystemExit):
        main(words[1:])
    assert seen == [asked]
    assert "/srv" not in command_of(asked)


@pytest.mark.parametrize("words", [["--abort", "5", "--streams", "3"], ["--abort", "5", "--search"]])
def test_vanishing_clients_go_alone(words, capsys, monkeypatch):
    monkeypatch.setattr(server, "build", lambda *args, **options: pytest.fail("it was built"))
    with pytest.raises(SystemExit) as ended:
        main(["bench", "streams", *words, "--json"])
    assert ended.value.code == 2
    assert "--abort" in json.loads(capsys.readouterr().out)["fix"]


def test_a_device_that_is_none_is_wrong_usage(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["bench", "streams", "--streams", "1", "--device", "tpu", "--json"])
    assert ended.value.code == 2
    assert "tpu" in json.loads(capsys.readouterr().out)["message"]
