"""``spark-speech gateway``: the HTTP service in front of Triton."""

from __future__ import annotations

import sys
from typing import Annotated, Final

import typer
from rich.console import Console

from orchestrator.cli.common import JsonFlag, emit, settings_of
from orchestrator.errors import MissingDependencyError

_NEEDED: Final = ("fastapi", "prometheus_client", "python_multipart", "starlette", "uvicorn")


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command("gateway")(gateway)


def gateway(
    ctx: typer.Context,
    url: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Triton's gRPC; client.url if left out.", show_default=False),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Serve OpenAI's audio endpoints over HTTP, with a Triton that runs behind them.

    Stops on Ctrl-C or SIGTERM, after running requests have finished. Settings are in [gateway].
    """
    settings = settings_of(ctx)
    try:
        from orchestrator.gateway.server import serve
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in _NEEDED:
            raise
        raise MissingDependencyError(
            f"the gateway needs {error.name}, which is not installed",
            fix="pip install 'spark-speech[gateway]'",
        ) from error
    from orchestrator.runtime.ports import is_loopback

    def announce(address: str, upstream: str) -> None:
        def human(console: Console) -> None:
            console.print(f"Serving {address}/v1 in front of Triton at {upstream}", highlight=False)
            console.print("Stop it with Ctrl-C", highlight=False)

        emit({"url": address, "upstream": upstream}, human, as_json=as_json)
        sys.stdout.flush()

    if not is_loopback(settings.gateway.host) and not settings.gateway.api_key_hashes:
        Console(stderr=True).print(
            f"Anyone who reaches {settings.gateway.host} can use this service: set gateway.api_key_hashes.",
            style="yellow",
        )
    serve(settings, url, announce)
