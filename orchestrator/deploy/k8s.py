"""Kubernetes manifests for a fleet, made from a release; pure: nothing is asked, nothing applied.

One pod is what a slot is on a host: a complete stack, here on a node of its own. Its containers start in the
order of a rollout. Triton is a sidecar, so it is there before everything else and ends after it; then every
size is computed once; then the gate, and only what passes gets a gateway and with it requests. A pod that
does not pass stops the rollout; the others go on serving the release before. Sidecars need Kubernetes 1.29.

A service hands out connections, not requests. A client of this project keeps one connection, so its live
streams stay on their pod, and are resumed on another when that one ends.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from orchestrator.coldstart.cuda_cache import cuda_environment
from orchestrator.errors import ConfigurationError
from orchestrator.repository.manifest import Manifest

Object = dict[str, Any]
NAME: Final = "spark-speech"
HOME: Final = "/var/lib/spark-speech"
CACHE: Final = "/var/cache/spark-speech"
SPOOL: Final = "/var/spool/spark-speech"
UID: Final = 10001
"""The image's user."""
PORTS: Final = {"triton-http": 8000, "triton-grpc": 8001, "metrics": 8002, "http": 9000, "riva": 50051}
_ARCHITECTURES: Final = {"aarch64": "arm64", "x86_64": "amd64"}
_LOAD_S: Final = 900
"""For all models to load, with an empty cache."""
_LEAVE_S: Final = 10
"""Until nobody is sent to a pod any more that is about to end."""
_SCRATCH: Final = "1Gi"
_PINNED: Final = re.compile(r"[^@\s]+@sha256:[0-9a-f]{64}")
_DNS_LABEL: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_QUANTITY: Final = re.compile(r"[1-9][0-9]*(Ki|Mi|Gi|Ti)")


@dataclass(frozen=True, slots=True)
class FleetOptions:
    """What the release does not say.

    Attributes:
        image: of the service, with its digest.
        replicas: pods, one a node.
        canary: True updates the last pod only; once it serves well, render again without.
        namespace: where everything goes.
        releases_claim: a claim for reading, whose volume holds ``releases/<id>`` as a home does.
        secret: an existing Secret with the gateway's environment (API key hashes); None: no keys.
        memory: of one pod's Triton.
        shared_memory: for tensors between Triton and its models.
        cache: of compiled code, kept for each pod.
        storage_class: for the caches; None: the cluster's default.
        drain_s: what requests and streams get to finish when a pod ends.
        memory_floor_mib: what the gate wants left on the node.
    """

    image: str
    replicas: int = 1
    canary: bool = False
    namespace: str = NAME
    releases_claim: str = f"{NAME}-releases"
    secret: str | None = None
    memory: str = "64Gi"
    shared_memory: str = "4Gi"
    cache: str = "20Gi"
    storage_class: str | None = None
    drain_s: int = 60
    memory_floor_mib: int = 8192

    def __post_init__(self) -> None:
        if not _PINNED.fullmatch(self.image):
            raise ConfigurationError(
                f"the image {self.image!r} is not pinned", fix="name it with its digest, as name@sha256:..."
            )
        for name in (self.namespace, self.releases_claim, *([] if self.secret is None else [self.secret])):
            if not _DNS_LABEL.fullmatch(name):
                raise ConfigurationError(
                    f"{name!r} is no name for Kubernetes", fix="use lower-case letters, digits and dashes."
                )
        for quantity in (self.memory, self.shared_memory, self.cache):
            if not _QUANTITY.fullmatch(quantity):
                raise ConfigurationError(
                    f"{quantity!r} is no amount of memory or disk", fix="write it as 64Gi or 512Mi."
                )
        if self.replicas < 1 or self.drain_s < 0 or self.memory_floor_mib < 0:
            raise ConfigurationError(
                "replicas must be at least 1, and drain and memory floor not negative", fix="correct them."
            )


def manifests(release: Manifest, options: FleetOptions) -> list[Object]:
    """Every object of the fleet, in the order in which they can be applied."""
    return [
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": options.namespace, "labels": _labels()},
        },
        _service("spark-speech", options, ("http", "riva")),
        _service("spark-speech-triton", options, ("triton-grpc",)),
        # Names for the pods one by one: for a balancer of one's own, and for Prometheus.
        _service("spark-speech-pods", options, tuple(PORTS), headless=True),
        _disruption_budget(options),
        _network_policy(options),
        _stateful_set(release, options),
    ]


def _labels() -> dict[str, str]:
    return {"app.kubernetes.io/name": NAME, "app.kubernetes.io/part-of": NAME}


def _selector() -> dict[str, str]:
    return {"app.kubernetes.io/name": NAME}


def _metadata(name: str, options: FleetOptions) -> Object:
    return {"name": name, "namespace": options.namespace, "labels": _labels()}


def _service(name: str, options: FleetOptions, ports: tuple[str, ...], *, headless: bool = False) -> Object:
    protocols = {"triton-grpc": "kubernetes.io/h2c", "riva": "kubernetes.io/h2c"}
    spec: Object = {
        "selector": _selector(),
        "ports": [
            {
                "name": port,
                "port": PORTS[port],
                "targetPort": port,
                "protocol": "TCP",
                "appProtocol": protocols.get(port, "http"),
            }
            for port in ports
        ],
    }
    if headless:
        spec["clusterIP"] = "None"
    return {"apiVersion": "v1", "kind": "Service", "metadata": _metadata(name, options), "spec": spec}


def _disruption_budget(options: FleetOptions) -> Object:
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": _metadata(NAME, options),
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": _selector()}},
    }


def _network_policy(options: FleetOptions) -> Object:
    """Only the services' ports can be reached; Triton's HTTP, by which models are loaded, is none of them."""
    open_ports = [PORTS[name] for name in ("triton-grpc", "metrics", "http", "riva")]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": _metadata(NAME, options),
        "spec": {
            "podSelector": {"matchLabels": _selector()},
            "policyTypes": ["Ingress"],
            "ingress": [{"ports": [{"port": port, "protocol": "TCP"} for port in open_ports]}],
        },
    }


def _stateful_set(release: Manifest, options: FleetOptions) -> Object:
    claim: Object = {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": options.cache}},
    }
    if options.storage_class is not None:
        claim["storageClassName"] = options.storage_class
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {**_metadata(NAME, options), "annotations": {f"{NAME}/release": release.id}},
        "spec": {
            "serviceName": "spark-speech-pods",
            "replicas": options.replicas,
            # All at once the first time; an update goes pod by pod all the same, from the last to the first.
            "podManagementPolicy": "Parallel",
            "updateStrategy": {
                "type": "RollingUpdate",
                "rollingUpdate": {"partition": options.replicas - 1 if options.canary else 0},
            },
            "revisionHistoryLimit": 5,
            "selector": {"matchLabels": _selector()},
            "template": {
                "metadata": {
                    "labels": {**_labels(), f"{NAME}/release": release.id[:16]},
                    "annotations": {
                        f"{NAME}/release": release.id,
                        "prometheus.io/scrape": "true",
                        "prometheus.io/port": str(PORTS["metrics"]),
                    },
                },
                "spec": _pod(release, options),
            },
            "volumeClaimTemplates": [
                {
                    "apiVersion": "v1",
                    "kind": "PersistentVolumeClaim",
                    "metadata": {"name": "cache"},
                    "spec": claim,
                }
            ],
        },
    }


def _pod(release: Manifest, options: FleetOptions) -> Object:
    triton = f"127.0.0.1:{PORTS['triton-grpc']}"
    return {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 2 * _LEAVE_S + options.drain_s + 60,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": UID,
            "runAsGroup": UID,
            "fsGroup": UID,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "nodeSelector": {"kubernetes.io/arch": _ARCHITECTURES[release.target]},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
        if release.device == "cuda"
        else [],
        "affinity": {
            "podAntiAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": [
                    {
                        "labelSelector": {"matchLabels": _selector()},
                        "topologyKey": "kubernetes.io/hostname",
                    }
                ]
            }
        },
        "initContainers": [
            _triton(release, options),
            _once("prewarm", ["prewarm", "--json", "--url", triton], options),
            _once(
                "gate",
                ["gate", "--json", "--url", triton, "--memory-floor", str(options.memory_floor_mib)],
                options,
            ),
        ],
        "containers": [_gateway(options)],
        "volumes": [
            {
                "name": "releases",
                "persistentVolumeClaim": {"claimName": options.releases_claim, "readOnly": True},
            },
            {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": options.shared_memory}},
            *({"name": name, "emptyDir": {"sizeLimit": _SCRATCH}} for name in _SCRATCH_FOLDERS),
        ],
    }


_SCRATCH_FOLDERS: Final = {
    "temporary": "/tmp",
    "run": f"{HOME}/run",
    "logs": f"{HOME}/logs",
    "spool": SPOOL,
}


def _container(name: str, arguments: list[str], options: FleetOptions) -> Object:
    return {
        "name": name,
        "image": options.image,
        "imagePullPolicy": "IfNotPresent",
        "args": arguments,
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": folder, "mountPath": path, "subPath": name} for folder, path in _SCRATCH_FOLDERS.items()
        ],
    }


def _triton(release: Manifest, options: FleetOptions) -> Object:
    policy = cuda_environment(Path(CACHE))
    settings = {
        "SPARK_SPEECH__PATHS__HOME": HOME,
        # The gateway and the probes ask from inside and outside of the pod.
        "SPARK_SPEECH__SERVER__HOST": "0.0.0.0",
        "SPARK_SPEECH__SERVER__READY_TIMEOUT_S": str(_LOAD_S),
    }
    limits = {"memory": options.memory}
    if release.device == "cuda":
        limits["nvidia.com/gpu"] = "1"
    base = _container("triton", ["up", "--foreground", release.id], options)
    return {
        **base,
        "restartPolicy": "Always",  # what makes an init container a sidecar
        "env": [{"name": name, "value": value} for name, value in {**settings, **policy}.items()],
        "ports": [
            {"name": name, "containerPort": PORTS[name], "protocol": "TCP"}
            for name in ("triton-http", "triton-grpc", "metrics")
        ],
        "resources": {"requests": {"cpu": "2", **limits}, "limits": limits},
        "startupProbe": _probe("/v2/health/ready", "triton-http", period_s=5, failures=_LOAD_S // 5),
        "readinessProbe": _probe("/v2/health/ready", "triton-http", period_s=5, failures=2),
        "livenessProbe": _probe("/v2/health/live", "triton-http", period_s=10, failures=6),
        "lifecycle": _leave(),
        "volumeMounts": [
            *base["volumeMounts"],
            {"name": "releases", "mountPath": f"{HOME}/releases", "subPath": "releases", "readOnly": True},
            {"name": "cache", "mountPath": CACHE},
            {"name": "shared-memory", "mountPath": "/dev/shm"},
        ],
    }


def _once(name: str, arguments: list[str], options: FleetOptions) -> Object:
    """Work that has to succeed before the pod serves."""
    return {
        **_container(name, arguments, options),
        "env": [{"name": "SPARK_SPEECH__PATHS__HOME", "value": HOME}],
        "resources": {"requests": {"cpu": "500m", "memory": "1Gi"}, "limits": {"memory": "2Gi"}},
    }


def _gateway(options: FleetOptions) -> Object:
    settings = {
        "SPARK_SPEECH__PATHS__HOME": HOME,
        "SPARK_SPEECH__CLIENT__URL": f"127.0.0.1:{PORTS['triton-grpc']}",
        "SPARK_SPEECH__GATEWAY__HOST": "0.0.0.0",
        "SPARK_SPEECH__GATEWAY__DRAIN_TIMEOUT_S": str(options.drain_s),
    }
    container: Object = {
        **_container("gateway", ["gateway"], options),
        "env": [{"name": name, "value": value} for name, value in settings.items()],
        "ports": [
            {"name": name, "containerPort": PORTS[name], "protocol": "TCP"} for name in ("http", "riva")
        ],
        "resources": {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"memory": "4Gi"}},
        "readinessProbe": _probe("/v1/health/ready", "http", period_s=5, failures=2),
        "livenessProbe": _probe("/v1/health/live", "http", period_s=10, failures=6),
        "lifecycle": _leave(),
    }
    if options.secret is not None:
        container["envFrom"] = [{"secretRef": {"name": options.secret}}]
    return container


def _probe(path: str, port: str, *, period_s: int, failures: int) -> Object:
    return {
        "httpGet": {"path": path, "port": port},
        "periodSeconds": period_s,
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    }


def _leave() -> Object:
    """Wait until nobody is sent here any more; what is under way ends in order after that."""
    return {"preStop": {"exec": {"command": ["python", "-c", f"import time; time.sleep({_LEAVE_S})"]}}}
