"""The checks of what containers need: the daemon, GPUs inside them, and the image."""

from __future__ import annotations

from typing import Final

from orchestrator.deploy.host.probe import Probe
from orchestrator.deploy.host.requirements import FAIL, OK, Check, Findings, Request

HOOK: Final = "nvidia-container-runtime-hook"
"""The program of NVIDIA's container toolkit that Docker calls for ``--gpus``."""


def container_checks(request: Request, found: Findings, probe: Probe) -> list[Check]:
    """What containers need: the daemon, GPUs inside them, and the image."""
    if found.docker is None:
        return [
            Check(
                "docker",
                FAIL,
                "the Docker daemon does not answer",
                "install and start Docker, or set spark_speech_runtime to systemd",
            )
        ]
    checks = [Check("docker", OK, f"Docker {found.docker.version}")]
    # `--gpus` needs the toolkit's hook alone; DGX OS does not always set up a runtime of that name.
    if request.device == "cuda" and not (found.docker.gpus or probe.has(HOOK)):
        checks.append(
            Check(
                "nvidia runtime",
                FAIL,
                f"Docker knows no NVIDIA runtime (it has: {', '.join(found.docker.runtimes)})",
                "install nvidia-container-toolkit, then: nvidia-ctk runtime configure --runtime=docker",
            )
        )
        return checks
    if not request.image:
        return checks
    there = probe.run(["docker", "image", "inspect", request.image]).code == 0
    checks.append(_image_check(request, probe, there=there))
    if there and request.device == "cuda":
        checks.append(_gpu_inside(request.image, probe))
    return checks


def _image_check(request: Request, probe: Probe, *, there: bool) -> Check:
    if there:
        return Check("image", OK, f"{request.image} is here")
    if request.image_buildable:
        return Check("image", OK, f"{request.image} will be built or loaded here")
    answer = probe.run(["docker", "manifest", "inspect", request.image])
    if answer.code == 0:
        return Check("image", OK, f"{request.image} can be pulled")
    said = answer.err.strip().splitlines()[-1:] or ["no answer"]
    denied = any(word in answer.err.lower() for word in ("unauthorized", "denied", "authentication"))
    return Check(
        "image",
        FAIL,
        f"{request.image} is not here and cannot be pulled: {said[0]}",
        "log in to the registry on the host: sudo docker login"
        if denied
        else "check the image's name and the network, or load it from a file",
    )


def _gpu_inside(image: str, probe: Probe) -> Check:
    answer = probe.run(
        ["docker", "run", "--rm", "--gpus=all", "--entrypoint=nvidia-smi", image, "--list-gpus"]
    )
    if answer.code == 0 and "GPU 0" in answer.out:
        return Check("gpu in container", OK, answer.out.strip().splitlines()[0])
    said = (answer.err or answer.out).strip().splitlines()[-1:] or ["no GPU is listed"]
    return Check(
        "gpu in container",
        FAIL,
        f"a container sees no GPU: {said[0]}",
        "restart Docker after: nvidia-ctk runtime configure --runtime=docker",
    )
