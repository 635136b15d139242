"""Keys and certificates."""

from __future__ import annotations

import hashlib
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
import riva.client.proto.riva_asr_pb2 as pb
from grpc_health.v1 import health_pb2, health_pb2_grpc
from riva.client import ASRService, Auth

from orchestrator.errors import ConfigurationError, PortInUseError
from tests.gateway.riva.certificates import Authority

HASH = hashlib.sha256(b"s3cret").hexdigest()
DENIED = grpc.StatusCode.UNAUTHENTICATED


def models(uri: str, **options: Any) -> int:
    """How many models are listed."""
    asr = ASRService(Auth(uri=uri, **options))
    try:
        answer = asr.stub.GetRivaSpeechRecognitionConfig(
            pb.RivaSpeechRecognitionConfigRequest(), metadata=asr.auth.get_auth_metadata(), timeout=60
        )
    finally:
        asr.auth.channel.close()
    return len(answer.model_config)


def fails(call: Callable[[], Any], *codes: grpc.StatusCode) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    assert caught.value.code() in codes, caught.value.details()  # type: ignore[attr-defined]


def test_who_has_a_key_comes_in(serve: Any) -> None:
    with serve(api_key_hashes=["0" * 64, HASH]) as riva:
        for scheme in ("Bearer", "bearer", "BEARER"):
            assert models(riva.uri, metadata_args=[["authorization", f"{scheme} s3cret"]]) == 2
        assert models(riva.uri, metadata_args=[["function-id", "x"], ["authorization", "Bearer s3cret"]]) == 2
        for wrong in (
            "Bearer wrong",
            "Bearer",
            "Bearer ",
            "Basic s3cret",
            "s3cret",
            HASH,
            f"Bearer {HASH}",
            "",
        ):
            fails(lambda given=wrong: models(riva.uri, metadata_args=[["authorization", given]]), DENIED)
        fails(lambda: models(riva.uri), DENIED)
        fails(lambda: models(riva.uri, metadata_args=[["api-key", "s3cret"]]), DENIED)
        assert riva.service.asked == []


def test_no_call_but_health_without_a_key(serve: Any) -> None:
    with serve(api_key_hashes=[HASH]) as riva, grpc.insecure_channel(riva.uri) as channel:
        asr = ASRService(Auth(uri=riva.uri))
        fails(lambda: asr.offline_recognize(b"", pb.RecognitionConfig()), DENIED)
        chunks = asr.streaming_response_generator([b""], pb.StreamingRecognitionConfig())
        fails(lambda: list(chunks), DENIED)
        assert riva.service.lives == []
        check = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=60)
        assert check.status == health_pb2.HealthCheckResponse.SERVING
        reflection = channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
        fails(lambda: list(reflection(iter([b""]))), DENIED)
        counted = b'route="unauthenticated",status="UNAUTHENTICATED"} 3.0'
        deadline = time.monotonic() + 60
        while counted not in riva.metrics.text():  # noted after the answer has gone out
            assert time.monotonic() < deadline
            time.sleep(0.005)


def test_a_key_is_told_to_nobody(serve: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(0)
    with serve(api_key_hashes=[HASH]) as riva:
        fails(lambda: models(riva.uri, metadata_args=[["authorization", "Bearer nearly-s3cret"]]), DENIED)
    assert "nearly" not in caplog.text


def test_metadata_that_is_not_known_is_ignored(riva: Any) -> None:
    given = [["function-id", "x" * 36], ["authorization", "Bearer nvapi-x"], ["trace-bin", b"\xff\xfe"]]
    assert models(riva.uri, metadata_args=given) == 2


def test_tls(serve: Any, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    server = authority.issue("server")
    with serve(tls_certfile=server.certificate, tls_keyfile=server.key) as riva:
        assert models(riva.uri, ssl_root_cert=authority.pair.certificate) == 2
        assert models(riva.uri, ssl_root_cert=authority.pair.certificate, use_ssl=True) == 2
        stranger = Authority(tmp_path / "other").pair.certificate
        fails(lambda: models(riva.uri, ssl_root_cert=stranger), grpc.StatusCode.UNAVAILABLE)
        fails(lambda: models(riva.uri), grpc.StatusCode.UNAVAILABLE)


def test_tls_with_a_key(serve: Any, tmp_path: Path) -> None:
    """The library sends its metadata twice over TLS: as credentials, and with the call."""
    authority = Authority(tmp_path)
    server = authority.issue("server")
    with serve(tls_certfile=server.certificate, tls_keyfile=server.key, api_key_hashes=[HASH]) as riva:
        options = {"ssl_root_cert": authority.pair.certificate}
        assert models(riva.uri, metadata_args=[["authorization", "Bearer s3cret"]], **options) == 2
        fails(lambda: models(riva.uri, **options), DENIED)


def test_mutual_tls(serve: Any, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    server, client = authority.issue("server"), authority.issue("client")
    stranger = Authority(tmp_path / "other").issue("stranger")
    with serve(
        tls_certfile=server.certificate,
        tls_keyfile=server.key,
        tls_client_ca=authority.pair.certificate,
    ) as riva:

        def shown(pair: Any) -> int:
            return models(
                riva.uri,
                ssl_root_cert=authority.pair.certificate,
                ssl_client_cert=pair.certificate,
                ssl_client_key=pair.key,
            )

        assert shown(client) == 2
        fails(lambda: shown(stranger), grpc.StatusCode.UNAVAILABLE)
        fails(lambda: models(riva.uri, ssl_root_cert=authority.pair.certificate), grpc.StatusCode.UNAVAILABLE)


def test_a_taken_port(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve() as riva:
        monkeypatch.setattr("orchestrator.runtime.ports.free_ports", lambda count: [riva.port] * count)
        with pytest.raises(PortInUseError, match=r"gateway\.grpc_port"), serve():
            pass


def test_a_certificate_that_is_not_there(serve: Any, tmp_path: Path) -> None:
    with (
        pytest.raises(ConfigurationError, match="cannot be read"),
        serve(tls_certfile=tmp_path / "no.pem", tls_keyfile=tmp_path / "no.key"),
    ):
        pass


def test_bytes_that_are_no_grpc(riva: Any) -> None:
    """Noise, HTTP/1.1, and HTTP/2 with metadata that is no text: the connection ends, the service goes on."""
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
    method = b"/nvidia.riva.asr.RivaSpeechRecognition/GetRivaSpeechRecognitionConfig"
    fields = [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", method),
        (b":authority", b"localhost"),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
        (b"authorization", b"Bearer \xff\xfe\x00\x80"),
        (b"x-name", b"\xc3\x28"),
    ]
    block = b"".join(b"\x00" + _length(name) + name + _length(value) + value for name, value in fields)
    headers = len(block).to_bytes(3, "big") + b"\x01\x04" + (1).to_bytes(4, "big") + block
    message = b"\x00\x00\x05\x00\x01" + (1).to_bytes(4, "big") + bytes(5)
    requests = [
        b"\xff" * 5000,
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        preface + b"\xff" * 100,
        preface + headers + message,
    ]
    for request in requests:
        with socket.create_connection(("localhost", riva.port), timeout=60) as peer:
            try:
                peer.sendall(request)
                peer.shutdown(socket.SHUT_WR)
                while peer.recv(65_536):
                    pass
            except TimeoutError:
                raise
            except OSError:  # reset, be it before all was sent
                pass
    assert models(riva.uri) == 2


def _length(text: bytes) -> bytes:
    assert len(text) < 127
    return bytes([len(text)])


def test_methods_that_there_are_not(riva: Any) -> None:
    with grpc.insecure_channel(riva.uri) as channel:
        for method in ("/nvidia.riva.asr.RivaSpeechRecognition/Guess", "/nvidia.riva.tts.X/Y", "/"):
            call = channel.unary_unary(method)
            fails(lambda call=call: call(b"", timeout=60), grpc.StatusCode.UNIMPLEMENTED)


def test_messages_that_are_no_protobuf(riva: Any) -> None:
    with grpc.insecure_channel(riva.uri) as channel:
        for name in ("Recognize", "StreamingRecognize", "GetRivaSpeechRecognitionConfig"):
            path = f"/nvidia.riva.asr.RivaSpeechRecognition/{name}"
            call = channel.stream_stream(path) if name[0] == "S" else channel.unary_unary(path)
            given = iter([b"\xff" * 50]) if name[0] == "S" else b"\xff" * 50

            def send(call: Any = call, given: Any = given) -> None:
                answer = call(given, timeout=60)
                if not isinstance(answer, bytes):
                    list(answer)

            fails(send, grpc.StatusCode.INTERNAL, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNKNOWN)
    assert models(riva.uri) == 2
