"""What the gateway's extra installs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from orchestrator.errors import MissingDependencyError

_NEEDED: Final = (
    "fastapi",
    "glin_profanity",
    "grpc_health",
    "grpc_reflection",
    "prometheus_client",
    "python_multipart",
    "riva",
    "starlette",
    "text_to_num",
    "uvicorn",
    "websockets",
)


@contextmanager
def explained() -> Iterator[None]:
    """Around importing the server.

    Raises:
        MissingDependencyError: a package of the extra is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in _NEEDED:
            raise
        raise MissingDependencyError(
            f"the gateway needs {error.name}, which is not installed",
            fix="pip install 'spark-speech[gateway]'",
        ) from error
