"""``python -m orchestrator.cli``: the ``spark-speech`` command where its script is not on the path."""

from __future__ import annotations

from orchestrator.cli import main

if __name__ == "__main__":
    main()
