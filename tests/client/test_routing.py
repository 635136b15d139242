from __future__ import annotations

import pytest

from orchestrator.client.catalog import IndexEntry, ModelCard, ServedConfig, card
from orchestrator.client.routing import choose, choose_diarizer, primary_tag
from orchestrator.contract import Task
from orchestrator.errors import ModelNotFoundError, ModelNotReadyError, UnsupportedLanguageError


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


CARDS = (
    recogniser("moonshine", "en", 50, max_window_s=60),
    recogniser("parakeet", "en,de", 10, max_window_s=300),
    ModelCard("diarizer", True, ("1",), task=Task.DIARIZE),
    ModelCard("other", True, ("1",)),
    ModelCard("whisper", False, state="UNAVAILABLE", reason="no weights"),
)


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
    route = choose(CARDS, host="h:1", language=language, engine=engine)
    assert route.card.name == expected
    assert expected in route.reason


def test_equal_ranks_take_the_one_that_needs_no_cutting() -> None:
    cards = (recogniser("a", "en", 1, max_window_s=30), recogniser("b", "en", 1, max_window_s=300))
    assert choose(cards, host="h:1", duration_s=20).card.name == "a"
    assert choose(cards, host="h:1", duration_s=100).card.name == "b"


def test_a_language_nobody_knows() -> None:
    with pytest.raises(UnsupportedLanguageError, match="'kn'; offered: de, en"):
        choose(CARDS, host="h:1", language="kn")


def test_a_language_that_only_another_engine_knows() -> None:
    with pytest.raises(UnsupportedLanguageError, match="moonshine on h:1 does not know") as caught:
        choose(CARDS, host="h:1", language="de", engine="moonshine")
    assert "parakeet-engine" in str(caught.value.fix)


def test_a_name_nobody_has() -> None:
    with pytest.raises(ModelNotFoundError, match="Did you mean 'parakeet'"):
        choose(CARDS, host="h:1", engine="parakit")
    with pytest.raises(ModelNotFoundError, match="no recogniser 'diarizer'"):
        choose(CARDS, host="h:1", engine="diarizer")


def test_a_model_that_is_not_loaded_says_why() -> None:
    with pytest.raises(ModelNotReadyError, match="no weights"):
        choose(CARDS, host="h:1", engine="whisper")


def test_a_server_without_recognisers() -> None:
    with pytest.raises(ModelNotFoundError, match="whisper \\(unavailable\\)"):
        choose(CARDS[2:], host="h:1")
    with pytest.raises(ModelNotFoundError, match="no models at all"):
        choose((), host="h:1")


def test_diarizers() -> None:
    assert choose_diarizer(CARDS, host="h:1").card.name == "diarizer"
    with pytest.raises(ModelNotFoundError, match="no diarizer") as caught:
        choose_diarizer(CARDS[:2], host="h:1")
    assert "--no-diarize" in str(caught.value)
    with pytest.raises(ModelNotReadyError, match="diarizer"):
        choose_diarizer((ModelCard("diarizer", False, state="LOADING"),), host="h:1")


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
