"""``python -m orchestrator.repository.render <model_repository>``: rewrite the committed config.pbtxt files.

They are what a build on a CPU machine renders with the catalogue's own values; a test keeps them equal.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from orchestrator.repository.catalog import KINDS
from orchestrator.repository.config import FILE_NAME, render
from orchestrator.repository.plan import make_plan
from orchestrator.repository.storage import write_atomic


def committed_configs() -> Mapping[str, str]:
    """The text of every model's config.pbtxt, by path below the model repository."""
    # A model without embedded weights is rendered as if these knew all that its engine can.
    plan = make_plan({name: "embedded" if kind.embedded else f"/{name}" for name, kind in KINDS.items()})
    return {f"{model.name}/{FILE_NAME}": render(model.config) for model in plan.models}


def main(arguments: list[str]) -> int:
    """Write the files below the folder named by the one argument."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m orchestrator.repository.render <model_repository>\n")
        return 2
    for path, text in committed_configs().items():
        write_atomic(Path(arguments[0]) / path, text.encode("utf-8"))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
