from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from orchestrator.errors import ConfigurationError
from orchestrator.gateway.server import Post, _signing_key
from orchestrator.settings import GatewaySettings, KeySettings, load

HASH = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"


def test_hashes_from_the_command_line_and_the_environment() -> None:
    chosen = load(overrides=[f'gateway.api_key_hashes=["{HASH.upper()}"]'], environ={})
    assert chosen.gateway.api_key_hashes == (HASH,)
    environ = {"SPARK_SPEECH__GATEWAY__API_KEY_HASHES": f'["{HASH}"]'}
    assert load(environ=environ).gateway.api_key_hashes == (HASH,)


def test_riva_can_be_left_out() -> None:
    assert load(environ={}).gateway.grpc_port == 50051
    assert load(overrides=["gateway.grpc_port="], environ={}).gateway.grpc_port is None


def test_keys_add_up_over_the_layers(tmp_path: Any) -> None:
    config = tmp_path / "c.toml"
    config.write_text(f'[gateway.keys]\nada = {{ sha256 = "{HASH.upper()}", max_streams = 2 }}\n')
    environ = {"SPARK_SPEECH__GATEWAY__KEYS__BOB": f'{{"sha256": "{"0" * 64}"}}'}
    overrides = [f'gateway.keys.eve={{sha256 = "{"1" * 64}", max_requests = 3}}', "gateway.keys={}"]
    keys = load(config, overrides, environ).gateway.keys
    assert sorted(keys) == ["ada", "bob", "eve"]
    assert keys["ada"] == KeySettings(sha256=HASH, max_streams=2)
    assert (keys["bob"].max_requests, keys["bob"].max_streams) == (None, None)
    assert keys["eve"].max_requests == 3


def test_upstreams() -> None:
    assert load(environ={}).gateway.upstreams == ()
    chosen = load(overrides=['gateway.upstreams=["a:8001", "b:8001"]'], environ={})
    assert chosen.gateway.upstreams == ("a:8001", "b:8001")


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ('gateway.api_key_hashes=["sesame"]', "not the key itself"),
        (f'gateway.api_key_hashes=["{HASH[:-1]}g"]', "sha256"),
        ('gateway.cors_origins=["page.example"]', "must be an origin"),
        ('gateway.cors_origins=["*"]', "must be an origin"),
        ('gateway.cors_origins=["https://page.example/"]', "without a path"),
        ("gateway.tls_certfile=a.pem", "belong together"),
        ("gateway.tls_client_ca=a.pem", "needs tls_certfile"),
        ("gateway.max_requests=0", "greater than or equal to 1"),
        ("gateway.max_streams=0", "greater than or equal to 1"),
        ("gateway.grpc_port=9000", "http_port and grpc_port must differ"),
        ('gateway.upstreams=["a:1", "a:1"]', "upstreams must differ"),
        ('gateway.keys.ada={sha256 = "sesame"}', "not the key itself"),
        (f'gateway.keys.ada={{sha256 = "{HASH}", max_streams = 0}}', "greater than or equal to 1"),
        (f'gateway.keys.ada={{sha256 = "{HASH}", streams = 1}}', "Extra inputs"),
        ("gateway.keys.ada={max_streams = 1}", "Field required"),
        ("gateway.keys.ada=sesame", "neither a JSON nor a TOML literal"),
        (f'gateway.keys={{a = {{sha256 = "{HASH}"}}, b = {{sha256 = "{HASH}"}}}}', "one key twice"),
        ("gateway.max_message_bytes=1000", "greater than or equal to 4194304"),
    ],
)
def test_wrong_values(override: str, reason: str, tmp_path: Any, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match=reason) as caught:
        load(overrides=[override], environ={})
    assert "sesame" not in str(caught.value)


def test_a_session_key_is_long_or_none_and_never_shown() -> None:
    key = "0123456789abcdef" * 2
    shared = GatewaySettings(session_key=key)  # type: ignore[arg-type]
    post = Post(listener=None, orders=0, secret="workers'")  # type: ignore[arg-type]
    assert _signing_key(shared, None) == _signing_key(shared, post) == key
    assert _signing_key(GatewaySettings(), post) == "workers'"
    assert _signing_key(GatewaySettings(), None) is None
    assert key not in repr(shared)
    with pytest.raises(ValidationError):
        GatewaySettings(session_key="short")  # type: ignore[arg-type]
