from __future__ import annotations

from typing import Any

import pytest

from orchestrator.errors import ConfigurationError
from orchestrator.settings import load

HASH = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"


def test_hashes_from_the_command_line_and_the_environment() -> None:
    chosen = load(overrides=[f'gateway.api_key_hashes=["{HASH.upper()}"]'], environ={})
    assert chosen.gateway.api_key_hashes == (HASH,)
    environ = {"SPARK_SPEECH__GATEWAY__API_KEY_HASHES": f'["{HASH}"]'}
    assert load(environ=environ).gateway.api_key_hashes == (HASH,)


def test_riva_can_be_left_out() -> None:
    assert load(environ={}).gateway.grpc_port == 50051
    assert load(overrides=["gateway.grpc_port="], environ={}).gateway.grpc_port is None


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
        ("gateway.max_message_bytes=1000", "greater than or equal to 4194304"),
    ],
)
def test_wrong_values(override: str, reason: str, tmp_path: Any, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match=reason) as caught:
        load(overrides=[override], environ={})
    assert "sesame" not in str(caught.value)
