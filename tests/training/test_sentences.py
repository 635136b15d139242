from __future__ import annotations

from pathlib import Path

from orchestrator.training.sentences import library_sentences

MODULE = '''"""Read a file, then it's closed again.

Use read(1) for one byte.  Nothing else is done here!
"""

def one():
    """No."""

class Two:
    "This one is a class: it has words of its own"
'''


def test_sentences_are_parts_of_docstrings_with_words_of_letters_only(tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text(MODULE)
    (tmp_path / "again.py").write_text(MODULE)
    expected = {
        "read a file",
        "then it's closed again",
        "nothing else is done here",
        "this one is a class",
        "it has words of its own",
    }
    found = library_sentences(1, tmp_path)
    assert sorted(found) == sorted(expected)
    assert found == library_sentences(1, tmp_path)
    assert {tuple(library_sentences(seed, tmp_path)) for seed in range(8)} != {tuple(found)}
