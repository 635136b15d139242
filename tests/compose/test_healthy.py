"""The program behind HEALTHCHECK, against servers that answer in every way."""

from __future__ import annotations

import datetime
import ipaddress
import runpy
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from orchestrator import resources

PROGRAM = runpy.run_path(str(resources.compose() / "healthy.py"))
PROGRAM["is_healthy"].__globals__["TIMEOUT_S"] = 60  # a busy machine may be slow
is_healthy: Callable[[str], bool] = PROGRAM["is_healthy"]


@contextmanager
def server(status: int, tls: ssl.SSLContext | None = None) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/ready" else 404)
            self.end_headers()

        def log_message(self, *arguments: Any) -> None:
            pass

    class Quiet(HTTPServer):
        def handle_error(self, *arguments: Any) -> None:
            """A client that speaks no TLS is part of the test."""

    listening = Quiet(("127.0.0.1", 0), Handler)
    if tls is not None:
        listening.socket = tls.wrap_socket(listening.socket, server_side=True)
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.server_address[1]}/ready"
    finally:
        listening.shutdown()
        thread.join()
        listening.server_close()


@pytest.fixture
def tls(tmp_path: Path) -> ssl.SSLContext:
    """A certificate that nobody signed."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "speech")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
    address = x509.IPAddress(ipaddress.ip_address("192.0.2.1"))
    builder = builder.add_extension(x509.SubjectAlternativeName([address]), critical=False)
    pem = tmp_path / "server.pem"
    pem.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    return context


@pytest.mark.parametrize(("status", "healthy"), [(200, True), (503, False), (500, False)])
def test_only_ready_is_healthy(status: int, healthy: bool) -> None:
    with server(status) as url:
        assert is_healthy(url) is healthy


@pytest.mark.parametrize(("status", "healthy"), [(200, True), (503, False)])
def test_a_gateway_with_tls_is_asked_with_tls(tls: ssl.SSLContext, status: int, healthy: bool) -> None:
    with server(status, tls) as url:
        assert is_healthy(url) is healthy


def test_one_that_wants_a_certificate_of_its_client_is_there(tls: ssl.SSLContext, tmp_path: Path) -> None:
    tls.verify_mode = ssl.CERT_REQUIRED
    tls.load_verify_locations(tmp_path / "server.pem")
    with server(200, tls) as url:
        assert is_healthy(url)


def test_nobody_there_is_not_healthy() -> None:
    with server(200) as url:
        pass
    assert not is_healthy(url)


def test_without_a_url_triton_is_asked_where_the_settings_have_it() -> None:
    default_url = PROGRAM["default_url"]
    assert default_url({}) == "http://127.0.0.1:8000/v2/health/ready"
    settings = {"SPARK_SPEECH__SERVER__HOST": "10.0.0.1", "SPARK_SPEECH__SERVER__HTTP_PORT": "18000"}
    assert default_url(settings) == "http://10.0.0.1:18000/v2/health/ready"


def test_the_exit_code_is_what_docker_reads(capsys: pytest.CaptureFixture[str]) -> None:
    with server(200) as url:
        assert PROGRAM["main"]([url]) == 0
    assert PROGRAM["main"]([url]) == 1
    assert capsys.readouterr().out.splitlines() == [f"{url}: healthy", f"{url}: not healthy"]
