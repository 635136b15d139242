"""Prometheus' and Grafana's files against the metrics that the servers really have."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator import resources
from orchestrator.backend import gauges
from orchestrator.gateway.metrics import GatewayMetrics

COMPOSE = resources.compose()
DASHBOARD = COMPOSE / "grafana/dashboards/spark-speech.json"
TRITON_PAGE = Path(__file__).parent / "triton_metrics.txt"
"""The names on a real tritonserver's metrics page; tests/integration/test_compose.py keeps it true."""
NEEDS_GPU = {"nv_gpu_utilization"}
PROMETHEUS_OWN = {"up"}
_NAME = re.compile(r"\b(?:[a-z_]+:)*(?:nv|speech|spark_speech|process|up)(?:[a-z0-9_:]*)\b")


def expressions() -> Iterator[tuple[str, str]]:
    """Panel or rule, and its PromQL."""
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]
    for rule in rules():
        yield rule.get("record") or rule["alert"], rule["expr"]


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load((COMPOSE / "prometheus/rules.yml").read_text())["groups"]
    return group["rules"]  # type: ignore[no-any-return]


def known() -> set[str]:
    metrics = GatewayMetrics(lambda: 0)
    metrics.watch_upstreams(dict)
    gateway = set()
    for family in metrics.registry.collect():
        suffixes = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("_total",)}.get(
            family.type, ("",)
        )
        gateway |= {family.name + suffix for suffix in suffixes}
    triton = {line.split()[0] for line in TRITON_PAGE.read_text().splitlines() if line[:1] != "#"}
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    streams = {name for name, *_ in gauges._METRICS}
    return gateway | triton | streams | recorded | NEEDS_GPU | PROMETHEUS_OWN


def names(expression: str) -> set[str]:
    """The metrics of an expression: what stands before a selector or a range, outside of label lists."""
    without_labels = re.sub(r"\{[^}]*\}|\b(?:by|without) \([^)]*\)|\"[^\"]*\"", " ", expression)
    return set(_NAME.findall(without_labels))


@pytest.mark.parametrize(("title", "expression"), list(expressions()))
def test_every_metric_exists(title: str, expression: str) -> None:
    found = names(expression)
    assert found, title
    assert found <= known(), title


def test_the_dashboard_tells_what_an_operator_asks() -> None:
    used = set().union(*(names(expression) for _, expression in expressions()))
    assert used >= {
        "spark_speech_gateway_requests_total",
        "spark_speech_gateway_request_seconds_bucket",
        "spark_speech_gateway_real_time_factor_bucket",
        "spark_speech_gateway_streams",
        "spark_speech:triton_starts:1h",
        "nv_cpu_memory_used_bytes",
    }


def test_the_dashboard_finds_its_data_source_and_its_panels_do_not_overlap() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    (source,) = yaml.safe_load((COMPOSE / "grafana/provisioning/datasources/prometheus.yml").read_text())[
        "datasources"
    ]
    taken: set[tuple[int, int]] = set()
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
    for panel in dashboard["panels"]:
        if panel["type"] != "row":
            assert panel["datasource"]["uid"] == source["uid"]
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells


def test_the_provisioned_folder_is_where_compose_puts_the_dashboards() -> None:
    (provider,) = yaml.safe_load((COMPOSE / "grafana/provisioning/dashboards/spark-speech.yml").read_text())[
        "providers"
    ]
    grafana = yaml.safe_load((COMPOSE / "compose.yaml").read_text())["services"]["grafana"]
    folder = provider["options"]["path"]
    assert f"./grafana/dashboards:{folder}:ro" in grafana["volumes"]
    assert (
        grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"] == f"{folder}/spark-speech.json"
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Prometheus' folder as in its container."""
    for name in ("prometheus.yml", "rules.yml", "targets.yml"):
        shutil.copy(COMPOSE / "prometheus" / name, tmp_path)
    shutil.copy(COMPOSE / "prometheus/no.key", tmp_path / "gateway.key")
    return tmp_path


promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed (Debian: prometheus)"
)


@promtool
def test_prometheus_takes_its_files(folder: Path) -> None:
    done = subprocess.run(
        ["promtool", "check", "config", folder / "prometheus.yml"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "6 rules found" in done.stdout


@promtool
def test_every_expression_of_the_dashboard_is_promql(tmp_path: Path) -> None:
    replaced = [
        {
            "record": f"panel:{number}",
            "expr": expression.replace("$__rate_interval", "1m").replace("$host", ".*"),
        }
        for number, (_, expression) in enumerate(expressions())
    ]
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": replaced}]}))
    done = subprocess.run(["promtool", "check", "rules", file], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@promtool
def test_starts_are_counted_and_alerts_fire(folder: Path) -> None:
    """Triton goes away for two minutes and comes back; the gateway is started again; memory runs short."""
    gib = 1024**3
    test = {
        "rule_files": [str(folder / "rules.yml")],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [
                    {"series": 'up{job="triton",host="a",instance="t"}', "values": "1x10 0x1 1x20"},
                    {"series": 'up{job="gateway",host="a",instance="g"}', "values": "1x31"},
                    {
                        "series": 'process_start_time_seconds{job="gateway",host="a",instance="g"}',
                        "values": "100x15 900x15",
                    },
                    {"series": 'nv_cpu_memory_total_bytes{host="a"}', "values": f"{128 * gib}x31"},
                    {"series": 'nv_cpu_memory_used_bytes{host="a"}', "values": f"{121 * gib}x31"},
                ],
                "promql_expr_test": [
                    {"expr": f"spark_speech:{what}_starts:1h", "eval_time": "30m", "exp_samples": [
                        {"labels": f'spark_speech:{what}_starts:1h{{host="a",instance="{seen}"}}', "value": 1}
                    ]}
                    for what, seen in (("triton", "t"), ("gateway", "g"))
                ],
                "alert_rule_test": [
                    {"eval_time": "12m", "alertname": "SpeechTritonDown", "exp_alerts": [
                        {"exp_labels": {"severity": "critical", "host": "a"},
                         "exp_annotations": {"summary": "no Triton answers on a"}}]},
                    {"eval_time": "30m", "alertname": "SpeechTritonDown"},
                    {"eval_time": "30m", "alertname": "SpeechGatewayDown"},
                    {"eval_time": "30m", "alertname": "SpeechMemory", "exp_alerts": [
                        {"exp_labels": {"severity": "warning", "host": "a"},
                         "exp_annotations": {"summary": "less than 8 GiB of memory are left on a"}}]},
                ],
            }
        ],
    }  # fmt: skip
    file = folder / "test.yml"
    file.write_text(yaml.safe_dump(test))
    done = subprocess.run(["promtool", "test", "rules", file], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


haproxy = pytest.mark.skipif(shutil.which("haproxy") is None, reason="haproxy is not installed")


@haproxy
@pytest.mark.parametrize("hosts", [("a", "", ""), ("a", "b", "c")])
def test_haproxy_takes_its_file(hosts: tuple[str, str, str]) -> None:
    numbers = {"TRITON": 48101, "GATEWAY": 49100, "RIVA": 40151, "STATS": 48405}
    numbers |= {"HOST_TRITON": 8001, "HOST_GATEWAY": 9000, "HOST_RIVA": 50051}
    environment = {f"{name}_PORT": str(port) for name, port in numbers.items()}
    environment |= {"LISTEN": "127.0.0.1", "PATH": "/usr/sbin:/usr/bin:/bin"}
    # Addresses, as names would be looked up.
    environment |= {
        f"HOST_{place}": f"127.0.0.{place}" if name else "" for place, name in enumerate(hosts, start=1)
    }
    done = subprocess.run(
        ["haproxy", "-c", "-V", "-f", COMPOSE / "haproxy/haproxy.cfg"],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stdout + done.stderr
