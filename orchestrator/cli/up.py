"""``spark-speech up``: serve a release."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from orchestrator.cli.common import JsonFlag, emit, settings_of

if TYPE_CHECKING:
    from orchestrator.runtime.server import TritonServer


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command("up")(up)


def up(
    ctx: typer.Context,
    release: Annotated[
        str, typer.Argument(help="Release id, or the beginning of one.", metavar="[RELEASE]")
    ] = "current",
    foreground: Annotated[
        bool, typer.Option("--foreground", "-f", help="Stay until Ctrl-C, then stop the server.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Start the server with a release and wait until its models are ready.

    A second `up` while a server runs, or while another one starts, fails at once.
    """
    from orchestrator.progress import RichProgress
    from orchestrator.repository.release import ReleaseStore
    from orchestrator.runtime import triton
    from orchestrator.runtime.ports import is_loopback
    from orchestrator.runtime.process import ending_on_termination
    from orchestrator.runtime.server import TritonServer

    settings = settings_of(ctx)
    home = settings.paths.home
    chosen = ReleaseStore(home).find(release)
    with ending_on_termination():
        with RichProgress() as progress:
            server = TritonServer(
                chosen.model_repository,
                chosen.models,
                triton=triton.install(home, home / "cache", progress),
                home=home,
                settings=settings.server,
                release=chosen.id,
                progress=progress,
            )
            server.start(detached=not foreground)
        if not is_loopback(settings.server.host):
            Console(stderr=True).print(
                f"Anyone who reaches {settings.server.host} can use this server: keep its ports behind a "
                "firewall or the gateway.",
                style="yellow",
            )
        try:
            _announce(server, foreground=foreground, as_json=as_json)
            if foreground:
                _stay(server)
        finally:
            if foreground:
                server.stop()


def _announce(server: TritonServer, *, foreground: bool, as_json: bool) -> None:
    state = server.state

    def human(console: Console) -> None:
        release = "" if state.release is None else f" release {state.release[:16]}"
        console.print(f"Serving{release} on {server.url} (gRPC), pid {state.pid}", highlight=False)
        console.print(f"Models: {', '.join(state.models)}", highlight=False)
        console.print(f"Log: {state.log}", highlight=False, soft_wrap=True)
        console.print(
            "Stop it with Ctrl-C" if foreground else "Stop it with: spark-speech down", highlight=False
        )

    emit({"url": server.url, **state.to_dict()}, human, as_json=as_json)


def _stay(server: TritonServer) -> None:
    from orchestrator.errors import ServerStartError
    from orchestrator.runtime import state
    from orchestrator.runtime.follow import followed

    # Where nobody watches, a service manager keeps this output: it gets the server's log.
    with nullcontext() if sys.stderr.isatty() else followed(Path(server.state.log), sys.stderr):
        code = server.wait()
    # `down` removes the state file; a server that fell over by itself leaves it.
    if code != 0 and state.read(server.home) is not None:
        raise ServerStartError(
            f"the server ended with code {code}", path=server.state.log, fix="look into the log"
        )
