"""``spark-speech gateway``: the HTTP and Riva services in front of Triton."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from orchestrator.cli.common import Invocation, JsonFlag, emit, invocation_of, settings_of
from orchestrator.settings import CONFIG_FILE_NAME

if TYPE_CHECKING:
    from orchestrator.gateway.ports import Addresses


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command("gateway")(gateway)


def gateway(
    ctx: typer.Context,
    url: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Triton's gRPC; gateway.upstreams or client.url if left out.",
            show_default=False,
        ),
    ] = None,
    reload: Annotated[
        bool,
        typer.Option(
            "--reload", help="Serve edited source and settings without a stop; Triton is left as it is."
        ),
    ] = False,
    workers: Annotated[int, typer.Option(help="Processes that serve; they share the limits.", min=1)] = 1,
    as_json: JsonFlag = False,
) -> None:
    """Serve OpenAI's audio endpoints over HTTP and Riva's over gRPC, with a Triton that runs behind them.

    Stops on Ctrl-C or SIGTERM, after running requests have finished. Settings are in [gateway].
    """
    settings = settings_of(ctx)
    from orchestrator.gateway import needs
    from orchestrator.runtime.ports import is_loopback

    def announce(at: Addresses) -> None:
        def human(console: Console) -> None:
            console.print(f"Serving {at.http}/v1 in front of Triton at {at.upstream}", highlight=False)
            if at.riva is not None:
                console.print(f"Serving Riva's gRPC at {at.riva}", highlight=False)
            console.print("Stop it with Ctrl-C", highlight=False)

        emit({"url": at.http, "riva": at.riva, "upstream": at.upstream}, human, as_json=as_json)
        sys.stdout.flush()

    has_keys = settings.gateway.api_key_hashes or settings.gateway.keys
    if not is_loopback(settings.gateway.host) and not has_keys:
        Console(stderr=True).print(
            f"Anyone who reaches {settings.gateway.host} can use this service: set gateway.api_key_hashes.",
            style="yellow",
        )
    if reload or workers > 1:
        _supervise(invocation_of(ctx), url, workers, announce, reload=reload)
        return
    with needs.explained():
        from orchestrator.gateway.server import serve
    serve(settings, url, announce)


def _supervise(
    invocation: Invocation,
    url: str | None,
    workers: int,
    announce: Callable[[Addresses], None],
    *,
    reload: bool,
) -> None:
    """Serve through workers; this process loads no server."""
    import asyncio

    import orchestrator
    from orchestrator.gateway.supervise.supervisor import Supervisor, Task
    from orchestrator.gateway.supervise.watch import SourceWatch

    resolved = invocation.resolved
    config_file = resolved.config_file
    watch = SourceWatch(
        Path(orchestrator.__file__).parent, [config_file or Path(CONFIG_FILE_NAME).absolute()]
    )
    task = Task(
        resolved.settings.gateway,
        # The file that is there now, or the one that may come.
        None if config_file is None else str(config_file),
        invocation.overrides,
        invocation.verbosity,
        url,
        workers,
        watch if reload else None,
    )
    asyncio.run(Supervisor(task, announce).run())
