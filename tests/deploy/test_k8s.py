from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.cli.app import main
from orchestrator.coldstart.cuda_cache import policy_violations
from orchestrator.deploy.k8s import FleetOptions, manifests
from orchestrator.errors import ConfigurationError
from orchestrator.repository.manifest import Manifest, ModelEntry

SCHEMA = json.loads(Path(__file__).with_name("kubernetes_fields.json").read_text())["types"]
"""Of Kubernetes 1.29, see `record_kubernetes`."""
IMAGE = "registry.example/spark-speech@sha256:" + "a1" * 32
JSON_TYPES = {"string": str, "integer": int, "boolean": bool, "number": (int, float), "object": dict}


def release(device: str = "cuda", target: str = "aarch64") -> Manifest:
    return Manifest.create(
        target=target,  # type: ignore[arg-type]
        device=device,  # type: ignore[arg-type]
        packages={},
        models=(
            ModelEntry(
                name="parakeet",
                task="recognize",
                engine="parakeet",
                source="local",
                revision=None,
                packages={},
                settings={},
            ),
        ),
        files=(),
    )


def faults(value: Any, kind: Any, where: str = "") -> list[str]:
    """What Kubernetes' published types say against a value."""
    if isinstance(kind, list):
        if not isinstance(value, list):
            return [f"{where} is no list"]
        return [
            fault for index, one in enumerate(value) for fault in faults(one, kind[0], f"{where}[{index}]")
        ]
    if isinstance(kind, dict):
        if not isinstance(value, dict):
            return [f"{where} is no map"]
        return [fault for key, one in value.items() for fault in faults(one, kind["*"], f"{where}.{key}")]
    if kind not in SCHEMA:
        fits = isinstance(value, JSON_TYPES[kind]) and (kind != "integer" or not isinstance(value, bool))
        return [] if fits else [f"{where} is no {kind}: {value!r}"]
    if "fields" not in SCHEMA[kind]:
        return (
            [] if isinstance(value, str | int) and not isinstance(value, bool) else [f"{where} is no {kind}"]
        )
    if not isinstance(value, dict):
        return [f"{where} is no {kind}"]
    fields, required = SCHEMA[kind]["fields"], SCHEMA[kind]["required"]
    found = [f"{where} lacks {name}" for name in required if name not in value]
    for key, one in value.items():
        found += (
            faults(one, fields[key], f"{where}.{key}") if key in fields else [f"{where}.{key} is unknown"]
        )
    return found


def type_of(thing: dict[str, Any]) -> str:
    group, _, version = thing["apiVersion"].rpartition("/")
    package = {"": "core", "apps": "apps", "policy": "policy", "networking.k8s.io": "networking"}[group]
    return f"io.k8s.api.{package}.{version}.{thing['kind']}"


def made(**options: Any) -> dict[str, dict[str, Any]]:
    things = manifests(options.pop("release", release()), FleetOptions(IMAGE, **options))
    return {f"{thing['kind']}/{thing['metadata']['name']}": thing for thing in things}


def pod(**options: Any) -> dict[str, Any]:
    template: dict[str, Any] = made(**options)["StatefulSet/spark-speech"]["spec"]["template"]["spec"]
    return template


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("target", ["x86_64", "aarch64"])
def test_every_object_fits_the_published_schema(device: str, target: str) -> None:
    for thing in made(
        release=release(device, target), replicas=8, canary=True, secret="keys", storage_class="fast"
    ).values():
        assert faults(thing, type_of(thing), thing["kind"]) == []


def test_the_check_of_the_schema_finds_faults() -> None:
    (thing,) = [one for one in made().values() if one["kind"] == "StatefulSet"]
    for change in (
        lambda spec: spec.update(replica=3),
        lambda spec: spec.update(replicas="3"),
        lambda spec: spec.pop("selector"),
        lambda spec: spec["template"]["spec"]["containers"][0].update(imagePulPolicy="Always"),
        lambda spec: spec["template"]["spec"].update(containers={}),
    ):
        broken = copy.deepcopy(thing)
        change(broken["spec"])
        assert faults(broken, type_of(broken)) != []


def test_names_that_refer_to_each_other_exist() -> None:
    things = made(secret="keys")
    stateful = things["StatefulSet/spark-speech"]["spec"]
    spec = stateful["template"]["spec"]
    assert f"Service/{stateful['serviceName']}" in things
    volumes = {volume["name"] for volume in spec["volumes"]} | {
        claim["metadata"]["name"] for claim in stateful["volumeClaimTemplates"]
    }
    ports = {}
    for container in [*spec["initContainers"], *spec["containers"]]:
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
        paths = [mount["mountPath"] for mount in container["volumeMounts"]]
        assert len(paths) == len(set(paths))
        own = {port["name"]: port["containerPort"] for port in container.get("ports", [])}
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            if probe in container:
                assert container[probe]["httpGet"]["port"] in own
        assert not own.keys() & ports.keys()
        assert all(len(name) <= 15 for name in own), "a port's name has at most 15 characters"
        ports |= own
    labels = stateful["template"]["metadata"]["labels"]
    assert stateful["selector"]["matchLabels"].items() <= labels.items()
    for thing in things.values():
        if thing["kind"] == "Service":
            assert thing["spec"]["selector"].items() <= labels.items()
            for port in thing["spec"]["ports"]:
                assert ports[port["targetPort"]] == port["port"]
    (ingress,) = things["NetworkPolicy/spark-speech"]["spec"]["ingress"]
    allowed = {rule["port"] for rule in ingress["ports"]}
    assert allowed == set(ports.values()) - {8000}, "Triton's HTTP is not for others"


def test_a_pod_starts_in_the_order_of_a_rollout() -> None:
    triton, prewarm, gate = pod()["initContainers"]
    (gateway,) = pod()["containers"]
    assert (triton["restartPolicy"], triton["args"]) == ("Always", ["up", "--foreground", release().id])
    assert [one["args"][0] for one in (prewarm, gate, gateway)] == ["prewarm", "gate", "gateway"]
    assert not any("restartPolicy" in one for one in (prewarm, gate, gateway))
    assert "startupProbe" in triton


def test_compiled_code_is_kept_and_used() -> None:
    triton = pod()["initContainers"][0]
    environment = {entry["name"]: entry["value"] for entry in triton["env"]}
    assert policy_violations(environment) == []
    mounts = {mount["mountPath"]: mount["name"] for mount in triton["volumeMounts"]}
    assert mounts["/var/cache/spark-speech"] == "cache"
    assert environment["CUDA_CACHE_PATH"].startswith("/var/cache/spark-speech/")
    assert made(cache="7Gi")["StatefulSet/spark-speech"]["spec"]["volumeClaimTemplates"][0]["spec"][
        "resources"
    ] == {"requests": {"storage": "7Gi"}}


def test_nothing_has_more_rights_than_it_needs() -> None:
    spec = pod()
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["automountServiceAccountToken"] is False
    for container in [*spec["initContainers"], *spec["containers"]]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert "memory" in container["resources"]["limits"]
        assert container["image"] == IMAGE


def test_the_release_decides_about_the_node() -> None:
    gpu, cpu = pod(), pod(release=release("cpu", "x86_64"))
    assert gpu["nodeSelector"] == {"kubernetes.io/arch": "arm64"}
    assert cpu["nodeSelector"] == {"kubernetes.io/arch": "amd64"}
    assert gpu["initContainers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert "nvidia.com/gpu" not in cpu["initContainers"][0]["resources"]["limits"]


def test_a_canary_is_the_last_pod() -> None:
    def partition(**options: Any) -> int:
        strategy = made(**options)["StatefulSet/spark-speech"]["spec"]["updateStrategy"]
        return int(strategy["rollingUpdate"]["partition"])

    assert partition(replicas=5, canary=True) == 4
    assert partition(replicas=5) == 0


def test_a_pod_has_the_time_to_end_in_order() -> None:
    assert pod(drain_s=300)["terminationGracePeriodSeconds"] > 300
    (gateway,) = pod(drain_s=300)["containers"]
    assert {"name": "SPARK_SPEECH__GATEWAY__DRAIN_TIMEOUT_S", "value": "300"} in gateway["env"]


@pytest.mark.parametrize(
    "options",
    [
        {"image": "spark-speech:latest"},
        {"image": "spark-speech@sha256:abc"},
        {"namespace": "Speech"},
        {"releases_claim": "a b"},
        {"secret": ""},
        {"memory": "64"},
        {"cache": "0Gi"},
        {"replicas": 0},
        {"drain_s": -1},
    ],
)
def test_what_kubernetes_would_refuse_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        FleetOptions(**{"image": IMAGE, **options})


def test_the_command_writes_what_kubectl_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "releases" / release().id
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(release().to_json())

    def render(*more: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            main(
                [
                    "--set",
                    f"paths.home={tmp_path}",
                    "render",
                    "k8s",
                    release().id[:8],
                    "--image",
                    IMAGE,
                    *more,
                ]
            )
        return int(ended.value.code or 0), capsys.readouterr().out

    code, text = render("--replicas", "3")
    assert code == 0
    assert list(yaml.safe_load_all(text)) == manifests(release(), FleetOptions(IMAGE, replicas=3))
    code, told = render("--json")
    assert json.loads(told) == {
        "apiVersion": "v1",
        "kind": "List",
        "items": manifests(release(), FleetOptions(IMAGE)),
    }
    assert render("-o", "k8s.yaml")[0] == 0
    assert list(yaml.safe_load_all((tmp_path / "k8s.yaml").read_text())) == manifests(
        release(), FleetOptions(IMAGE)
    )
    assert render("--memory", "much")[0] == 2
