from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.errors import ConfigurationError
from orchestrator.repository.sources import EmbeddedSource, HubSource, LocalSource, parse_source

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("embedded", EmbeddedSource()),
        ("/srv/weights", LocalSource(Path("/srv/weights"))),
        ("./weights", LocalSource(Path("weights"))),
        ("~/weights", LocalSource(Path("~/weights"))),
        ("model.nemo", LocalSource(Path("model.nemo"))),
        ("org/model.nemo", LocalSource(Path("org/model.nemo"))),
        ("nvidia/parakeet-tdt-0.6b-v3", HubSource("nvidia/parakeet-tdt-0.6b-v3")),
        (f"org/name@{COMMIT}", HubSource("org/name", COMMIT)),
        ("org/name@refs/pr/1", HubSource("org/name", "refs/pr/1")),
    ],
)
def test_sources_are_told_apart(text: str, expected: object) -> None:
    assert parse_source(text) == expected


@pytest.mark.parametrize("text", ["", "parakeet", "a/b/c", "org/name@", "org /name", "https://x/y/z"])
def test_what_is_no_source_is_refused_with_the_ways_to_write_one(text: str) -> None:
    with pytest.raises(ConfigurationError, match="embedded"):
        parse_source(text)


def test_only_a_commit_pins() -> None:
    assert HubSource("org/name", COMMIT).pinned
    assert not HubSource("org/name", "main").pinned
    assert not HubSource("org/name").pinned
