"""``spark-speech render``: what other systems need to serve a release."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from orchestrator.cli.common import JsonFlag, emit, settings_of
from orchestrator.errors import MissingDependencyError

group = typer.Typer(no_args_is_help=True, help="Write what other systems need to serve a release.")


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.add_typer(group, name="render")


@group.command("k8s")
def k8s(
    ctx: typer.Context,
    image: Annotated[str, typer.Option(metavar="NAME@sha256:DIGEST", help="The service's image, pinned.")],
    release: Annotated[str, typer.Argument(metavar="[RELEASE]", help="The beginning of an id.")] = "current",
    replicas: Annotated[int, typer.Option(min=1, help="Pods, one a node.")] = 1,
    canary: Annotated[bool, typer.Option("--canary", help="Update the last pod only.")] = False,
    namespace: Annotated[str, typer.Option(help="Where everything goes.")] = "spark-speech",
    releases_claim: Annotated[
        str, typer.Option(metavar="NAME", help="The claim of the volume with the releases.")
    ] = "spark-speech-releases",
    secret: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="A Secret with the gateway's environment.", show_default=False),
    ] = None,
    memory: Annotated[str, typer.Option(metavar="SIZE", help="Of one Triton.")] = "64Gi",
    shared_memory: Annotated[
        str, typer.Option(metavar="SIZE", help="For tensors between Triton and models.")
    ] = "4Gi",
    cache: Annotated[str, typer.Option(metavar="SIZE", help="Of compiled code, for each pod.")] = "20Gi",
    storage_class: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of the caches.", show_default=False)
    ] = None,
    drain: Annotated[int, typer.Option(min=0, metavar="SECONDS", help="What streams get to finish.")] = 60,
    memory_floor: Annotated[
        int, typer.Option(min=0, metavar="MIB", help="What the gate wants left on the node.")
    ] = 8192,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Instead of standard output.", show_default=False
        ),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Write Kubernetes manifests that serve a release on a fleet: a pod a node, rolled out behind the gate.

    ``spark-speech render k8s --image ... | kubectl apply -f -``
    """
    from orchestrator.deploy.k8s import FleetOptions, manifests
    from orchestrator.repository.release import ReleaseStore
    from orchestrator.repository.storage import write_atomic

    options = FleetOptions(
        image=image,
        replicas=replicas,
        canary=canary,
        namespace=namespace,
        releases_claim=releases_claim,
        secret=secret,
        memory=memory,
        shared_memory=shared_memory,
        cache=cache,
        storage_class=storage_class,
        drain_s=drain,
        memory_floor_mib=memory_floor,
    )
    objects = manifests(ReleaseStore(settings_of(ctx).paths.home).find(release).manifest, options)
    listed = {"apiVersion": "v1", "kind": "List", "items": objects}
    if output is not None:
        text = json.dumps(listed, indent=2) + "\n" if as_json else _yaml(objects)
        write_atomic(output, text.encode())
    else:
        emit(listed, lambda console: typer.echo(_yaml(objects), nl=False), as_json=as_json)


def _yaml(objects: list[dict[str, Any]]) -> str:
    try:
        import yaml  # type: ignore[import-untyped]
    except ImportError as error:
        raise MissingDependencyError(
            "YAML is written with PyYAML, which is not installed",
            fix="pip install 'spark-speech[deploy]', or add --json: kubectl reads that too.",
        ) from error
    return str(yaml.safe_dump_all(objects, sort_keys=False, explicit_start=True, width=110))
