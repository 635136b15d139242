"""The page's files and status as they are served; what they do is tested in a browser."""

from __future__ import annotations

import gzip
import hashlib
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from orchestrator.errors import ServerUnavailableError
from orchestrator.gateway.page import files
from orchestrator.gateway.page.status import quantile

NAMES = sorted(files.files())
INF = float("inf")


def test_the_page_may_load_nothing_from_elsewhere(http: TestClient) -> None:
    answer = http.get("/")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    rules = [rule.split() for rule in answer.headers["content-security-policy"].split("; ")]
    assert ["default-src", "'none'"] in rules
    assert {source for rule in rules for source in rule[1:]} <= {"'none'", "'self'", "blob:"}
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("name", NAMES)
def test_files_name_no_other_host_and_no_inline_code(name: str) -> None:
    content = files.files()[name].plain.decode()
    hosts = set(re.findall(r"(?:https?|wss?)://[^\s\"'`)<]+", content))
    assert hosts <= {"http://www.w3.org/2000/svg", "http://localhost:${location.port"}, (
        "the page works offline"
    )
    if name.endswith(".html"):
        assert not re.search(r"<script(?![^>]*src=)|<style|\sstyle=|\son[a-z]+=", content), (
            "the policy forbids it"
        )


@pytest.mark.parametrize("name", NAMES)
def test_files_are_sent_once(http: TestClient, name: str) -> None:
    first = http.get(f"/page/{name}")
    assert first.status_code == 200
    assert first.headers["content-encoding"] == "gzip"
    assert first.content == (files.FOLDER / name).read_bytes()
    again = http.get(f"/page/{name}", headers={"If-None-Match": f'"other", W/{first.headers["etag"]}'})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]
    plain = http.get(f"/page/{name}", headers={"Accept-Encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert plain.content == first.content
    assert plain.headers["etag"] != first.headers["etag"]
    other = http.get(f"/page/{name}", headers={"If-None-Match": '"other"'})
    assert other.status_code == 200


def test_every_file_that_is_named_is_there() -> None:
    for name, held in files.files().items():
        content = held.plain.decode()
        named = re.findall(r"""(?:from|import) "\./([^"]+)"|URL\("\./([^"]+)"|"page/([^"]+)\"""", content)
        for found in (next(filter(None, groups)) for groups in named):
            assert found in NAMES, f"{name} names {found}"


def test_heads_and_paths_that_are_not_there(http: TestClient) -> None:
    assert http.head("/").headers["content-type"].startswith("text/html")
    for path in ("/page/", "/page/none.js", "/page/..%2f__init__.py", "/page/%2e%2e/files.py", "/index.html"):
        answer = http.get(path)
        assert answer.status_code == 404
        assert answer.json()["error"]["code"] == "not_found"
    assert http.post("/").status_code == 405


def test_compression_is_the_same_on_every_run() -> None:
    for held in files.files().values():
        assert gzip.decompress(held.packed) == held.plain
        assert held.packed[4:8] == bytes(4), "no time of writing"


def test_the_page_needs_no_key_and_the_status_does(make: Callable[..., Any]) -> None:
    app = make(api_key_hashes=(hashlib.sha256(b"sesame").hexdigest(),)).app
    with TestClient(app) as client:
        assert client.get("/").status_code == 200
        assert client.get("/page/app.js").status_code == 200
        assert client.get("/v1/status").status_code == 401
        assert client.get("/v1/status", headers={"Authorization": "Bearer sesame"}).status_code == 200


def test_status(http: TestClient, gateway: Any) -> None:
    gateway.shared.metrics.transcribed(60.0, 2.0)
    for _ in range(10):
        gateway.shared.metrics.stream_response.observe(0.02)
    with gateway.shared.admission.admit():
        status = http.get("/v1/status").json()
    assert (status["ready"], status["reason"], status["speakers"]) == (True, None, True)
    assert status["requests"]["running"] == 1
    assert {model["name"]: model["ready"] for model in status["models"]} == {
        "diarizer": True,
        "echo": True,
        "asleep": False,
    }
    assert status["latency"]["speed"] == pytest.approx(30)
    assert 0.01 < status["latency"]["stream_median_s"] < status["latency"]["stream_p95_s"] <= 0.025
    assert status["latency"]["audio_s"] == 60


def test_a_status_of_nothing_measured(http: TestClient) -> None:
    latency = http.get("/v1/status").json()["latency"]
    assert latency == {"stream_median_s": None, "stream_p95_s": None, "speed": None, "audio_s": 0}


def test_a_server_that_is_away_has_a_status(http: TestClient, gateway: Any) -> None:
    gateway.service.unready = ServerUnavailableError("Triton is away.", fix="start it.")
    answer = http.get("/v1/status")
    assert answer.status_code == 200
    status = answer.json()
    assert (status["ready"], status["reason"], status["models"]) == (False, "Triton is away. Start it.", [])


def test_a_gateway_that_stops_says_so(http: TestClient, gateway: Any) -> None:
    gateway.shared.admission._draining = True
    assert "stopping" in http.get("/v1/status").json()["reason"]


def test_quantiles() -> None:
    buckets = {1.0: 2.0, 2.0: 4.0, 4.0: 4.0, INF: 4.0}
    assert quantile(buckets, 0.5) == 1.0
    assert quantile(buckets, 0.75) == 1.5
    assert quantile(buckets, 1.0) == 2.0
    assert quantile({1.0: 0.0, INF: 3.0}, 0.5) == 1.0
    assert quantile({}, 0.5) is None
    assert quantile({1.0: 0.0, INF: 0.0}, 0.5) is None


@given(st.lists(st.floats(0, 8, exclude_min=True), min_size=1), st.floats(0.01, 1))
def test_a_quantile_is_in_the_bucket_of_the_value(values: list[float], wanted: float) -> None:
    bounds = [1.0, 2.0, 4.0, INF]
    found = quantile({bound: float(sum(value <= bound for value in values)) for bound in bounds}, wanted)
    rank = wanted * len(values)
    value = next(value for at, value in enumerate(sorted(values), 1) if at >= rank)
    upper = next(bound for bound in bounds if value <= bound)
    lower = max([bound for bound in bounds if bound < upper], default=0.0)
    assert found is not None
    assert lower <= found <= min(upper, 4.0)
