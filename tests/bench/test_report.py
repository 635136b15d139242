from __future__ import annotations

import io

import pytest
from rich.console import Console

from orchestrator.bench.report import Report, shown


def printed(rows) -> list[list[str]]:
    console = Console(file=io.StringIO(), width=120)
    Report(title="T", command="c", rows=rows).print(console)
    lines = console.file.getvalue().splitlines()
    return [
        [cell.strip() for cell in line.strip("│┃").replace("┃", "│").split("│")]
        for line in lines
        if "│" in line or "┃" in line
    ]


def test_few_figures_go_side_by_side():
    assert printed([{"n": 1, "s": 0.5}, {"n": 20, "s": None}]) == [["n", "s"], ["1", "0.500"], ["20", ""]]


def test_many_figures_go_one_below_the_other():
    names = [f"k{number}" for number in range(30)]
    table = printed([dict.fromkeys(names, 1), dict.fromkeys(names, "two")])
    assert table == [[name, "1", "two"] for name in names]


def test_many_figures_of_many_rows_are_paragraphs_without_what_is_missing():
    names = [f"k{number}" for number in range(30)]
    rows = [{"what": f"row {number} [b]", **dict.fromkeys(names, 1), "none": None} for number in range(30)]
    console = Console(file=io.StringIO(), width=120)
    Report(title="T", command="c", rows=rows).print(console)
    text = console.file.getvalue()
    assert [line for line in text.splitlines() if line.startswith("row")] == [row["what"] for row in rows]
    assert text.count("k29 1") == 30
    assert "none" not in text
    assert max(map(len, text.splitlines())) <= 120


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (None, ""),
        (0.12345, "0.123"),
        (-9.5, "-9.500"),
        (65.7, "65.7"),
        (3386.2, "3386"),
        (7, "7"),
        ("x", "x"),
    ],
)
def test_floats_have_about_four_digits(cell, text):
    assert shown(cell) == text


def test_no_rows_are_no_failure():
    assert printed([]) == []
