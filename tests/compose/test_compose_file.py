"""The compose files against the compose specification, and the rules that every service keeps."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator import resources

COMPOSE = resources.compose()
SCHEMA = Path("/usr/lib/python3/dist-packages/compose/config/compose_spec.json")
"""Of Debian's docker-compose."""
VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?::-(?P<default>[^{}]*))?\}")
PINNED = re.compile(r"^[\w./-]+(:[\w.-]+)?@sha256:[0-9a-f]{64}$")
OURS = {"triton", "gateway"}
WRITABLE = {"riva"}
"""Images that cannot run from a root they may not write to."""


def text_of(name: str) -> str:
    return (COMPOSE / name).read_text(encoding="utf-8")


def resolved(value: Any, environment: dict[str, str]) -> Any:
    """``value`` as compose sees it: variables replaced, numbers made of what then looks like one."""
    if isinstance(value, dict):
        return {key: resolved(each, environment) for key, each in value.items()}
    if isinstance(value, list):
        return [resolved(each, environment) for each in value]
    if not isinstance(value, str) or not VARIABLE.search(value):
        return value
    text = VARIABLE.sub(lambda found: environment.get(found["name"]) or found["default"] or "", value)
    return int(text) if re.fullmatch(r"-?\d+", text) else text


@pytest.fixture(scope="module")
def file() -> dict[str, Any]:
    return resolved(yaml.safe_load(text_of("compose.yaml")), {})  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def services(file: dict[str, Any]) -> dict[str, Any]:
    return file["services"]  # type: ignore[no-any-return]


@pytest.mark.skipif(
    not SCHEMA.exists(), reason="the specification's schema comes with Debian's docker-compose"
)
@pytest.mark.parametrize("name", ["compose.yaml", "compose.gpu.yaml"])
def test_the_files_keep_to_the_specification(name: str) -> None:
    import jsonschema

    schema = json.loads(SCHEMA.read_text())
    schema.pop("$schema")  # of a draft whose name is written in a way that no validator knows
    content = resolved(yaml.safe_load(text_of(name)), {})
    jsonschema.Draft7Validator(schema).validate(content)
    content["services"]["triton"]["read_onyl"] = True
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft7Validator(schema).validate(content)


def test_the_services_and_their_profiles(services: dict[str, Any]) -> None:
    assert {name: service.get("profiles", []) for name, service in services.items()} == {
        "triton": [],
        "gateway": [],
        "riva": ["riva"],
        "prometheus": ["observability"],
        "grafana": ["observability"],
        "balancer": ["balancer"],
    }


def test_every_service_may_do_little_and_is_looked_after(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service.get("read_only", False) is (name not in WRITABLE), name
        assert service["mem_limit"], name
        assert service["pids_limit"] > 0, name
        assert service["healthcheck"]["test"], name
        assert service["restart"] == "unless-stopped", name
        assert service["logging"]["driver"] == "local", name
        assert not {"privileged", "cap_add", "devices", "pid", "ipc"} & set(service), name
        assert "docker.sock" not in json.dumps(service), name


def test_our_services_run_as_nobody_in_particular_with_what_speech_needs(services: dict[str, Any]) -> None:
    for name in OURS:
        assert services[name]["user"] == "10001:10001"
        assert services[name]["init"] is True
        assert services[name]["oom_score_adj"] == 500
    triton = services["triton"]
    assert triton["env_file"] == ["cuda.env"]
    assert triton["shm_size"] == "4g"
    assert triton["ulimits"]["memlock"] == -1
    assert "cache:/var/cache/spark-speech" in triton["volumes"]
    assert services["gateway"]["depends_on"] == {"triton": {"condition": "service_healthy"}}


def test_nothing_can_be_reached_from_outside_by_default(services: dict[str, Any]) -> None:
    environments = {name: service.get("environment", {}) for name, service in services.items()}
    assert environments["triton"]["SPARK_SPEECH__SERVER__HOST"] == "127.0.0.1"
    assert environments["gateway"]["SPARK_SPEECH__GATEWAY__HOST"] == "127.0.0.1"
    assert environments["grafana"]["GF_SERVER_HTTP_ADDR"] == "127.0.0.1"
    assert environments["balancer"]["LISTEN"] == "127.0.0.1"
    assert "--web.listen-address=127.0.0.1:9090" in services["prometheus"]["command"]
    for name, service in services.items():
        assert service["network_mode"] == ("bridge" if name == "riva" else "host")
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


def test_releases_and_settings_cannot_be_written_and_must_be_there(services: dict[str, Any]) -> None:
    for name in OURS:
        binds = [volume for volume in services[name]["volumes"] if isinstance(volume, dict)]
        assert binds
        # In this form, Docker makes no empty folder where the source is missing.
        assert all(bind["type"] == "bind" and bind["read_only"] is True for bind in binds)


def test_images_are_pinned_or_refused(services: dict[str, Any]) -> None:
    for name in ("prometheus", "grafana", "balancer"):
        assert PINNED.match(services[name]["image"]), name
    # No digest is known for these: what stands there until one is given is no name that Docker takes.
    for refused in (services["riva"]["image"], services["triton"]["build"]["args"]["BASE_IMAGE"]):
        assert re.match(r"^SPARK_SPEECH_\w+-is-empty", refused)
        assert refused != refused.lower()


def test_env_example_tells_every_variable_with_its_default() -> None:
    told = {}
    for line in text_of(".env.example").splitlines():
        if match := re.fullmatch(r"#?([A-Z][A-Z0-9_]*)=(.*)", line):
            told.setdefault(match[1], match[2])
    used = {}
    for found in VARIABLE.finditer(text_of("compose.yaml")):
        assert used.setdefault(found["name"], found["default"]) == found["default"], found["name"]
    by_compose = {"COMPOSE_FILE", "COMPOSE_PROJECT_NAME"}
    assert set(told) - by_compose == set(used)
    without_default = {"SPARK_SPEECH_BASE_IMAGE", "SPARK_SPEECH_RIVA_IMAGE"}
    for name, default in used.items():
        if name not in without_default:
            assert told[name] == (default or ""), name
    assert PINNED.match(told["SPARK_SPEECH_BASE_IMAGE"])


def test_the_gpu_is_given_by_a_file_of_its_own() -> None:
    (device,) = yaml.safe_load(text_of("compose.gpu.yaml"))["services"]["triton"]["deploy"]["resources"][
        "reservations"
    ]["devices"]
    assert device["driver"] == "nvidia"
    assert "gpu" in device["capabilities"]
