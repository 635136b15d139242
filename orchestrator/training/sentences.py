"""English sentences of any words, for training the aligner: from the docstrings of Python's own library."""

from __future__ import annotations

import ast
import random
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_PART: Final = re.compile(r"[.!?;:,]\s+|\n\s*\n")
_WORD: Final = re.compile(r"[A-Za-z][a-z]*(?:'[a-z]+)?")
_WORDS: Final = (3, 14)
_DOCUMENTED: Final = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def library_sentences(seed: int, library: Path | None = None) -> list[str]:
    """All of them in lower case, in an order that ``seed`` decides; parts of 3 to 14 words, letters only.

    ``library`` is a folder of Python modules; None: the standard library.
    """
    found: set[str] = set()
    for path in sorted((library or Path(sysconfig.get_paths()["stdlib"])).glob("*.py")):
        for text in _docstrings(path):
            for part in _PART.split(text):
                words = part.strip(" .!?;:,\n").split()
                if _WORDS[0] <= len(words) <= _WORDS[1] and all(map(_WORD.fullmatch, words)):
                    found.add(" ".join(words).lower())
    ordered = sorted(found)
    random.Random(seed).shuffle(ordered)
    return ordered


def _docstrings(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, _DOCUMENTED) and (text := ast.get_docstring(node)):
            yield text
