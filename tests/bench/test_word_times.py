from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.bench.word_times import NONE, TimedWord, compare, read_text_grid
from orchestrator.errors import ConfigurationError

REFERENCE = [TimedWord("Go", 0, 100), TimedWord("forward", 100, 500), TimedWord("ten", 600, 800)]
HEAD = 'File type = "ooTextFile"\nObject class = "TextGrid"\n\n0\n2\n<exists>\n1\n'
SHORT = HEAD + '"IntervalTier"\n"words"\n0\n2\n3\n'


def test_only_words_that_both_have_are_compared() -> None:
    found = [TimedWord("go,", 20, 90), TimedWord("four", 90, 200), TimedWord("ten.", 650, 700)]
    errors = compare(REFERENCE, found)
    assert (errors.starts, errors.ends, errors.words) == ((20, 50), (10, 100), 3)
    row = (errors + NONE).row("a", "spread")
    assert (row["paired"], row["start_median_ms"], row["end_p90_ms"]) == (2, 35, 91)
    assert NONE.row("a", "spread")["start_median_ms"] is None


@given(st.lists(st.sampled_from("abc"), max_size=8))
def test_the_reference_itself_has_no_errors(texts: list[str]) -> None:
    words = [TimedWord(text, 10.0 * at, 10.0 * at + 5) for at, text in enumerate(texts)]
    errors = compare(words, words)
    assert errors.starts == errors.ends == (0.0,) * len(words)


def test_a_text_grid_in_its_short_form(tmp_path: Path) -> None:
    grid = tmp_path / "a.TextGrid"
    grid.write_text(SHORT + '0\n0.5\n""\n0.5\n1.25\n"go"\n1.25\n2\n"now"\n')
    assert read_text_grid(grid) == (TimedWord("go", 500, 1250), TimedWord("now", 1250, 2000))


def test_a_text_grid_in_its_long_form(tmp_path: Path) -> None:
    grid = tmp_path / "a.TextGrid"
    rows = "".join(
        f'intervals [{at}]:\n    xmin = {start} \n    xmax = {end} \n    text = "{text}" \n'
        for at, (start, end, text) in enumerate([(0, 0.5, ""), (0.5, 1.25, "go")], start=1)
    )
    grid.write_text(
        'class = "IntervalTier" \nname = "words" \nxmin = 0 \nxmax = 2 \nintervals: size = 2 \n' + rows
    )
    assert read_text_grid(grid) == (TimedWord("go", 500, 1250),)


@pytest.mark.parametrize("text", ["", SHORT, SHORT.replace("words", "phones")])
def test_what_is_no_text_grid_of_words_is_refused(text: str, tmp_path: Path) -> None:
    grid = tmp_path / "a.TextGrid"
    grid.write_text(text)
    with pytest.raises(ConfigurationError, match="TextGrid"):
        read_text_grid(grid)
