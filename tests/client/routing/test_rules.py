from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.client.catalog import IndexEntry, ModelCard, ServedConfig, card
from orchestrator.client.routing import Conditions, Decision, RouteJob, decide, diarizers, primary_tag
from orchestrator.client.routing.rules import rule_for, told
from orchestrator.contract import Task
from orchestrator.errors import ModelNotFoundError, ModelNotReadyError, UnsupportedLanguageError
from orchestrator.settings import Settings
from orchestrator.settings_engines import RouteRule, RoutingSettings


def recogniser(name: str, languages: str, rank: int, **more: object) -> ModelCard:
    return ModelCard(
        name,
        True,
        ("1",),
        task=Task.RECOGNIZE,
        engine=f"{name}-engine",
        languages=tuple(languages.split(",")),
        rank=rank,
        **more,
    )  # type: ignore[arg-type]


SARVAM = recogniser("sarvam", "kn,hi,en", 1000, third_party=True)
WHISPER = ModelCard(
    "whisper", True, ("1",), task=Task.RECOGNIZE, engine="whisper_ct2", languages=("en", "de", "kn"), rank=70
)
EARS = ModelCard(
    "parakeet_streaming",
    True,
    ("1",),
    task=Task.STREAM,
    engine="parakeet_streaming",
    languages=("en",),
    rank=1,
)
CARDS = (
    recogniser("moonshine", "en", 50, max_window_s=60),
    recogniser("parakeet", "en,de", 10, max_window_s=300),
    ModelCard("diarizer", True, ("1",), task=Task.DIARIZE),
    ModelCard("other", True, ("1",)),
    ModelCard("whisper", False, state="UNAVAILABLE", reason="no weights"),
)


BY_RANK = RoutingSettings(rules=())


def choose(
    cards: Sequence[ModelCard],
    *,
    settings: RoutingSettings = BY_RANK,
    now: Conditions | None = None,
    **job: Any,
) -> Decision:
    return decide(cards, RouteJob(**job), settings, now, host="h:1")


def names(decision: Decision) -> list[str]:
    return [card.name for card in decision.cards]


@pytest.mark.parametrize(
    ("language", "engine", "expected"),
    [
        (None, "auto", "parakeet"),
        ("en", "auto", "parakeet"),
        ("de-CH", "auto", "parakeet"),
        ("EN_us", "moonshine", "moonshine"),
        (None, "moonshine-engine", "moonshine"),
    ],
)
def test_the_lowest_rank_that_can_do_it(language: str | None, engine: str, expected: str) -> None:
    decision = choose(CARDS, language=language, engine=engine)
    assert names(decision)[0] == expected
    assert "rank" in decision.candidates[0].why


def test_equal_ranks_take_the_one_that_needs_no_cutting() -> None:
    cards = (recogniser("a", "en", 1, max_window_s=30), recogniser("b", "en", 1, max_window_s=300))
    assert choose(cards, duration_s=20).cards[0].name == "a"
    assert choose(cards, duration_s=100).cards[0].name == "b"


def test_a_language_nobody_knows() -> None:
    with pytest.raises(UnsupportedLanguageError, match="'kn'; offered: de, en"):
        choose(CARDS, language="kn")


def test_a_language_that_only_another_engine_knows() -> None:
    with pytest.raises(UnsupportedLanguageError, match="moonshine on h:1 does not know") as caught:
        choose(CARDS, language="de", engine="moonshine")
    assert "parakeet-engine" in str(caught.value.fix)


def test_a_name_nobody_has() -> None:
    with pytest.raises(ModelNotFoundError, match="Did you mean 'parakeet'"):
        choose(CARDS, engine="parakit")
    with pytest.raises(ModelNotFoundError, match="no recogniser 'diarizer'"):
        choose(CARDS, engine="diarizer")


def test_a_model_that_is_not_loaded_says_why() -> None:
    with pytest.raises(ModelNotReadyError, match="no weights"):
        choose(CARDS, engine="whisper")


def test_a_server_without_recognisers() -> None:
    with pytest.raises(ModelNotFoundError, match="whisper \\(unavailable\\)"):
        choose(CARDS[2:])
    with pytest.raises(ModelNotFoundError, match="no models at all"):
        choose(())


def test_diarizers() -> None:
    assert diarizers(CARDS, host="h:1")[0].name == "diarizer"
    with pytest.raises(ModelNotFoundError, match="no diarizer") as caught:
        diarizers(CARDS[:2], host="h:1")
    assert "--no-diarize" in str(caught.value)
    with pytest.raises(ModelNotReadyError, match="diarizer"):
        diarizers((ModelCard("diarizer", False, state="LOADING"),), host="h:1")


@pytest.mark.parametrize(("tag", "primary"), [("en", "en"), ("en-US", "en"), ("DE_ch", "de"), (" kn ", "kn")])
def test_primary_tag(tag: str, primary: str) -> None:
    assert primary_tag(tag) == primary


def test_cards_of_models_that_are_not_ours() -> None:
    odd = card(
        "odd",
        [IndexEntry("odd", "2", "READY", "")],
        ServedConfig({"task": "paint", "rank": "x", "max_window_s": "-1"}),
    )
    assert (odd.ready, odd.task, odd.rank, odd.max_window_s) == (True, None, 1000, float("inf"))
    assert odd.to_dict()["max_window_s"] is None


def test_a_card_is_ready_when_one_version_is() -> None:
    lines = [IndexEntry("m", "1", "UNAVAILABLE", "unloaded"), IndexEntry("m", "2", "READY", "")]
    made = card("m", lines, ServedConfig({"task": "recognize", "languages": "en, de"}))
    assert (made.ready, made.versions, made.state, made.reason) == (True, ("2",), "READY", "")
    assert made.languages == ("en", "de")
    assert made.engine == "m"


def test_a_card_says_what_the_model_takes() -> None:
    lines = [IndexEntry("m", "1", "READY", "")]
    old = card("m", lines, ServedConfig({}, frozenset({"AUDIO", "OPTIONS"}), max_batch_size=8))
    new = card("m", lines, ServedConfig({}, frozenset({"AUDIO", "PCM16"}), max_batch_size=128, instances=2))
    assert (old.takes_pcm16, old.max_in_flight) == (False, 16)
    assert (new.takes_pcm16, new.max_in_flight) == (True, 384)
    assert card("m", lines, ServedConfig({})).max_in_flight > 0


DEFAULT = Settings().routing
ALL = (*CARDS[:2], SARVAM, WHISPER, EARS)


def test_the_rules_as_they_come() -> None:
    kannada = choose(ALL, settings=DEFAULT, language="kn-IN")
    assert names(kannada) == ["sarvam", "whisper"]
    assert kannada.rule == "kn-IN -> sarvam"
    assert names(choose(ALL, settings=DEFAULT, language="en")) == ["parakeet", "moonshine", "whisper"]
    assert names(choose(ALL, settings=DEFAULT, language="de")) == ["whisper", "parakeet"]
    assert names(choose(ALL, settings=DEFAULT)) == ["parakeet", "moonshine", "whisper"]
    assert names(choose(ALL, settings=DEFAULT, language="en-GB", task=Task.STREAM)) == ["parakeet_streaming"]


def test_somebody_elses_service_is_taken_only_where_it_is_named() -> None:
    decision = choose(ALL, settings=DEFAULT, language="hi", engine="sarvam")
    assert names(decision) == ["sarvam"]
    with pytest.raises(ModelNotFoundError, match="sarvam-engine: sends audio to a service of others"):
        choose((SARVAM,), settings=DEFAULT, language="hi")


def test_what_a_rules_engine_lacks_is_said() -> None:
    with pytest.raises(UnsupportedLanguageError):
        choose(CARDS, settings=DEFAULT, language="kn")
    left = {one.engine: one.why for one in choose((WHISPER,), settings=DEFAULT, language="kn").left_out}
    assert left == {"sarvam": "is not set up: set sarvam.api_key"}
    now = Conditions(away={"sarvam": "no answer"})
    left = {
        one.engine: one.why for one in choose((WHISPER,), settings=DEFAULT, now=now, language="kn").left_out
    }
    assert left == {"sarvam": "is away: no answer"}
    with pytest.raises(ModelNotFoundError, match=r"set up") as caught:
        choose(CARDS, engine="sarvam")
    assert "sarvam.api_key" in str(caught.value.fix)


def test_no_engine_but_those_of_the_rule() -> None:
    strict = RoutingSettings(rules=(RouteRule(language="en", engines=("moonshine",)),), otherwise="none")
    assert names(choose(ALL, settings=strict, language="en")) == ["moonshine"]
    with pytest.raises(ModelNotFoundError, match="moonshine: is not there"):
        choose((WHISPER,), settings=strict, language="en")
    assert names(choose((WHISPER,), settings=strict, language="de")) == ["whisper"], "no rule is for it"


@pytest.mark.parametrize(
    ("rule", "job", "is_for"),
    [
        ({"language": "en"}, {"language": "en-US"}, True),
        ({"language": "kn-IN"}, {"language": "kn"}, True),
        ({"language": "kn-IN"}, {"language": "kn_in"}, True),
        ({"language": "kn-IN"}, {"language": "kn-US"}, False),
        ({"language": "en"}, {}, False),
        ({}, {}, False),
        ({}, {"language": "sw"}, True),
        ({"language": "unknown"}, {}, True),
        ({"language": "unknown"}, {"language": "en"}, False),
        ({"task": "streaming"}, {"language": "en"}, False),
        ({"task": "streaming"}, {"language": "en", "task": Task.STREAM}, True),
        ({"task": "offline"}, {"language": "en", "task": Task.STREAM}, False),
        ({"task": "diarize"}, {"language": "en"}, False),
        ({"task": "diarize"}, {"language": "en", "diarize": True}, True),
        ({"max_duration_s": 60}, {"language": "en", "duration_s": 60}, True),
        ({"max_duration_s": 60}, {"language": "en", "duration_s": 61}, False),
        ({"max_duration_s": 60}, {"language": "en", "task": Task.STREAM}, False),
        ({"min_duration_s": 60}, {"language": "en", "duration_s": 59}, False),
    ],
)
def test_which_jobs_a_rule_is_for(rule: dict[str, Any], job: dict[str, Any], is_for: bool) -> None:
    made = RouteRule(engines=("x",), **rule)
    assert (rule_for(RouteJob(**job), [made]) is made) == is_for


def test_rules_for_people() -> None:
    rule = RouteRule(language="en", task="offline", max_duration_s=60, engines=("a", "b"), order="cost")
    assert told(rule) == "en, offline, up to 60 s -> a, b by cost"


def test_by_cost_and_by_load() -> None:
    by_cost = RoutingSettings(
        rules=(RouteRule(engines=("parakeet", "whisper", "sarvam"), order="cost"),),
        costs={"parakeet-engine": 3, "sarvam-engine": 30, "whisper_ct2": 1},
    )
    assert names(choose(ALL, settings=by_cost, language="en"))[:3] == ["whisper", "parakeet", "sarvam"]
    capped = by_cost.model_copy(update={"max_cost": 5.0})
    decision = choose(ALL, settings=capped, language="en")
    assert "sarvam" not in names(decision)
    assert any("costs 30, more than 5" in one.why for one in decision.left_out)
    by_load = RoutingSettings(rules=(RouteRule(engines=("parakeet", "whisper"), order="load"),))
    busy = Conditions(load={"parakeet-engine": 0.5, "whisper_ct2": 0.25})
    assert names(choose(ALL, settings=by_load, now=busy, language="en"))[0] == "whisper"


def test_engines_that_fail_come_last_and_not_away() -> None:
    blocked = Conditions(blocked={"parakeet-engine": 12.0})
    decision = choose(ALL, settings=DEFAULT, now=blocked, language="en")
    assert names(decision) == ["moonshine", "whisper", "parakeet"]
    assert "next probe in 12 s" in decision.candidates[-1].why
    assert names(choose(CARDS[1:2], now=blocked)) == ["parakeet"], "somebody must do the work"


def test_a_decision_says_all_in_its_record() -> None:
    record = choose(ALL, settings=DEFAULT, language="kn").record()
    assert (record.engine, record.model, record.language) == ("sarvam-engine", "sarvam", "kn")
    text = "\n".join(record.lines())
    assert "Rule: kn-IN -> sarvam" in text
    assert "parakeet-engine: does not know kn" in text
    unsure = choose(ALL, settings=DEFAULT, confidence=0.25).record()
    assert "not known, the best guess has confidence 0.25" in "\n".join(unsure.lines())


@st.composite
def engines(draw: st.DrawFn) -> list[ModelCard]:
    count = draw(st.integers(1, 6))
    return [
        replace(
            recogniser(
                f"m{number}", draw(st.sampled_from(["en", "de", "en,de", "mul"])), draw(st.integers(0, 3))
            ),
            ready=draw(st.booleans()),
            third_party=draw(st.booleans()),
        )
        for number in range(count)
    ]


@given(
    cards=engines(),
    language=st.sampled_from([None, "en", "de", "kn"]),
    listed=st.lists(st.integers(0, 7), min_size=1, max_size=4),
    blocked=st.sets(st.integers(0, 7)),
    otherwise=st.sampled_from(["any", "none"]),
    order=st.sampled_from(["listed", "cost", "load"]),
    seed=st.integers(0, 99),
)
def test_invariants(
    cards: list[ModelCard],
    language: str | None,
    listed: list[int],
    blocked: set[int],
    otherwise: Any,
    order: Any,
    seed: int,
) -> None:
    rule = RouteRule(engines=tuple(f"m{one}" for one in listed), order=order)
    settings = RoutingSettings(rules=(rule,), otherwise=otherwise)
    now = Conditions(blocked=dict.fromkeys((f"m{one}-engine" for one in blocked), 1.0))
    try:
        decision = choose(cards, settings=settings, now=now, language=language)
    except (ModelNotFoundError, UnsupportedLanguageError):
        able = [
            card
            for card in cards
            if card.ready and (language is None or "mul" in card.languages or language in card.languages)
        ]
        if otherwise == "any":
            assert all(
                card.third_party and (language is None or card.name not in rule.engines) for card in able
            )
        return
    chosen = decision.cards
    assert len(set(names(decision))) == len(chosen)
    for one in chosen:
        assert one.ready
        assert language is None or language in one.languages or "mul" in one.languages
        named = language is not None and one.name in rule.engines
        assert named or not one.third_party
    places = [one.engine in now.blocked for one in chosen]
    assert places == sorted(places), "those that fail come last"
    shuffled = random.Random(seed).sample(cards, len(cards))
    again = choose(shuffled, settings=settings, now=now, language=language)
    assert names(again) == names(decision), "the order of the cards does not matter"
