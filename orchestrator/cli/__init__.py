"""The ``spark-speech`` command: thin verbs over the library.

Each verb lives in a module of its own name with a ``register(app)``; nothing heavy is imported before the
verb runs, so that ``--help`` and completion are quick.
"""

from __future__ import annotations

from orchestrator.cli.app import main

__all__ = ["main"]
