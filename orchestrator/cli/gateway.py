"""``spark-speech gateway``: the HTTP and Riva services in front of Triton."""

from __future__ import annotations

import sys
from typing import Annotated, Final

import typer
from rich.console import Console

from orchestrator.cli.common import JsonFlag, emit, settings_of
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
)


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
    """Serve OpenAI's audio endpoints over HTTP and Riva's over gRPC, with a Triton that runs behind them.

    Stops on Ctrl-C or SIGTERM, after running requests have finished. Settings are in [gateway].
    """
    settings = settings_of(ctx)
    try:
        from orchestrator.gateway.server import Addresses, serve
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in _NEEDED:
            raise
        raise MissingDependencyError(
            f"the gateway needs {error.name}, which is not installed",
            fix="pip install 'spark-speech[gateway]'",
        ) from error
    from orchestrator.runtime.ports import is_loopback

    def announce(at: Addresses) -> None:
        def human(console: Console) -> None:
            console.print(f"Serving {at.http}/v1 in front of Triton at {at.upstream}", highlight=False)
            if at.riva is not None:
                console.print(f"Serving Riva's gRPC at {at.riva}", highlight=False)
            console.print("Stop it with Ctrl-C", highlight=False)

        emit({"url": at.http, "riva": at.riva, "upstream": at.upstream}, human, as_json=as_json)
        sys.stdout.flush()

    if not is_loopback(settings.gateway.host) and not settings.gateway.api_key_hashes:
        Console(stderr=True).print(
            f"Anyone who reaches {settings.gateway.host} can use this service: set gateway.api_key_hashes.",
            style="yellow",
        )
    serve(settings, url, announce)
