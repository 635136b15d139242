from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.contract import LANGUAGE_CONFIDENCE, Task
from orchestrator.errors import ConfigurationError
from orchestrator.repository.catalog import KINDS
from orchestrator.repository.config import ModelConfig, SequenceBatching
from orchestrator.repository.plan import ModelOptions, make_plan, with_languages, with_models
from orchestrator.repository.sources import HubSource, LocalSource
from orchestrator.settings import BuildSettings, StreamingSettings
from orchestrator.settings_engines import WhisperSettings


def test_the_default_plan_is_the_settings_default() -> None:
    assert make_plan() == make_plan(BuildSettings().models)
    assert [model.name for model in make_plan().models] == ["diarizer", "moonshine"]


def test_a_model_on_the_command_line_replaces_its_name_and_keeps_the_others() -> None:
    base = {"moonshine": "embedded", "diarizer": "embedded"}
    models = with_models(base, ["parakeet=nvidia/parakeet-tdt-0.6b-v3", "diarizer=/srv/community-1"])
    plan = {model.name: model.source for model in make_plan(models).models}
    assert list(plan) == ["diarizer", "moonshine", "parakeet"]
    assert plan["parakeet"] == HubSource("nvidia/parakeet-tdt-0.6b-v3")
    assert plan["diarizer"] == LocalSource(Path("/srv/community-1"))
    assert base == {"moonshine": "embedded", "diarizer": "embedded"}


@pytest.mark.parametrize("entry", ["parakeet", "=x", "parakeet=", " = "])
def test_an_entry_that_is_not_name_and_source_is_refused(entry: str) -> None:
    with pytest.raises(ConfigurationError, match="NAME=SOURCE"):
        with_models({}, [entry])


def test_the_order_of_the_models_makes_no_difference() -> None:
    one, two = (
        {"moonshine": "embedded", "diarizer": "embedded"},
        {"diarizer": "embedded", "moonshine": "embedded"},
    )
    assert make_plan(one) == make_plan(two)


@pytest.mark.parametrize(
    ("models", "reason"),
    [
        ({}, "no models"),
        ({"diarizer": "embedded"}, "no recogniser"),
        ({"parakete": "embedded"}, "did you mean 'parakeet'"),
        ({"moonshine": "what is this"}, "no model source"),
    ],
)
def test_models_that_cannot_be_built_are_refused(models: dict[str, str], reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        make_plan(models)


def test_options_reach_the_configuration() -> None:
    options = {"parakeet": ModelOptions(90.0, max_batch_size=4, languages=("de",), instances=2)}
    (model,) = make_plan({"parakeet": "org/model"}, options=options).models
    assert model.config.max_batch_size == 4
    assert [group.count for group in model.config.instances] == [2]
    assert model.config.parameters["max_window_s"] == "90"
    assert model.config.parameters["languages"] == "de"


@pytest.mark.parametrize(
    "options",
    [
        ModelOptions(max_window_s=0),
        ModelOptions(max_window_s=float("nan")),
        ModelOptions(max_batch_size=0),
        ModelOptions(instances=0),
        ModelOptions(instances=17),
    ],
)
def test_options_out_of_range_are_refused(options: ModelOptions) -> None:
    with pytest.raises(ConfigurationError, match="out of range"):
        make_plan(options={"moonshine": options})


def test_options_for_a_model_that_is_not_built_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="parakeet"):
        make_plan(options={"parakeet": ModelOptions(max_window_s=60)})


def live(**settings: Any) -> ModelConfig:
    (model,) = make_plan(
        {"parakeet_streaming": "embedded"}, streaming=StreamingSettings(**settings), device="cuda"
    ).models
    return model.config


def test_live_streams_come_in_sequences() -> None:
    config = live(preset="low_latency", max_streams=600, idle_timeout_s=45, left_ms=1600)
    assert config.max_batch_size == 600, "one step can hold a chunk of every stream"
    assert config.queue_delay_us is None
    assert config.sequences == SequenceBatching(candidates=1200, idle_us=55_000_000, queue_delay_us=5_000)
    assert config.ragged
    assert config.parameters["chunk_ms"] == "160"
    assert config.parameters["max_streams"] == "600"
    assert config.parameters["idle_timeout_s"] == "45"
    assert json.loads(config.parameters["engine_options"]) == {
        "languages": ["en"],
        "preset": "low_latency",
        "left_ms": 1600,
        "max_streams": 600,
    }


def test_a_few_streams_leave_room_for_many_that_are_refused() -> None:
    sequences = live(max_streams=1).sequences
    assert sequences is not None
    assert sequences.candidates > 60


def test_a_length_of_its_own_takes_the_place_of_the_presets() -> None:
    config = live(preset="throughput", chunk_ms=240, queue_delay_ms=3)
    assert config.parameters["chunk_ms"] == "240"
    assert config.sequences is not None
    assert config.sequences.queue_delay_us == 3000


def test_instances_share_the_streams() -> None:
    config = live(max_streams=601, instances=2)
    assert [(group.device, group.count) for group in config.instances] == [("cuda", 2)]
    assert json.loads(config.parameters["engine_options"])["max_streams"] == 301
    assert config.parameters["max_streams"] == "602"
    with pytest.raises(ConfigurationError, match="shared among"):
        make_plan({"parakeet_streaming": "embedded"}, streaming=StreamingSettings(instances=9))


def test_live_streams_are_a_recogniser_too() -> None:
    assert make_plan({"parakeet_streaming": "embedded"}).packages == make_plan({"parakeet": "org/m"}).packages


def test_languages_follow_the_weights() -> None:
    def languages(source: str) -> str:
        (model,) = make_plan({"parakeet": source}).models
        return model.config.parameters["languages"]

    assert "de" in languages("nvidia/parakeet-tdt-0.6b-v3").split(",")
    assert languages("nvidia/parakeet-tdt-0.6b-v2") == "en"
    assert languages("embedded") == "en"


def test_parameters_tell_a_client_all_it_routes_by() -> None:
    for model in make_plan(dict.fromkeys(KINDS, "/srv/weights")).models:
        parameters = model.config.parameters
        assert parameters["task"] in set(Task)
        assert float(parameters["max_window_s"]) > 0
        assert int(parameters["rank"]) >= 0
        told = json.loads(parameters["engine_options"]).get("languages")
        assert told == (parameters["languages"].split(",") if model.kind.told_languages else None)
        assert ("languages" in parameters) == (parameters["task"] != "diarize")
        detects = parameters.get("detects_language") == "true"
        assert detects == (LANGUAGE_CONFIDENCE in model.config.outputs) == model.name.startswith("whisper")


def test_weights_that_know_one_language_find_none_out() -> None:
    (plan,) = make_plan({"whisper_ct2": "/srv/weights"}).models
    assert plan.config.parameters["languages"].split(",")[-1] == "yue"
    some = with_languages(plan, ("de", "en")).config
    assert (some.parameters["languages"], some.parameters["detects_language"]) == ("en,de", "true")
    one = with_languages(plan, ("en",)).config
    assert (one.parameters["languages"], one.parameters["detects_language"]) == ("en", "false")
    assert LANGUAGE_CONFIDENCE in some.outputs
    assert LANGUAGE_CONFIDENCE not in one.outputs


def test_whisper_is_set_up_by_its_settings() -> None:
    settings = WhisperSettings(beam_size=1, threads=2)
    (plan,) = make_plan({"whisper_cpp": "/srv/weights"}, whisper=settings).models
    given = json.loads(plan.config.parameters["engine_options"])
    assert given.pop("threads") == 2
    assert WhisperSettings(**given) == WhisperSettings(beam_size=1)


def test_the_plan_says_what_it_will_fetch_and_is_json() -> None:
    data = json.loads(json.dumps(make_plan({"moonshine": "embedded", "parakeet": "org/m"}).to_dict()))
    moonshine, parakeet = data["models"]
    assert {file["name"] for file in moonshine["files"]} == {
        "encoder_model.ort",
        "decoder_model_merged.ort",
        "tokenizer.bin",
    }
    assert all(len(file["sha256"]) == 64 for file in moonshine["files"])
    assert parakeet["pinned"] is False
