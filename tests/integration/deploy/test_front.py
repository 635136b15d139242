"""The front's HAProxy, as its role configures it, under constant use: switches, restarts, dead servers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import grpc
import numpy as np
import pytest
import soundfile
from riva.client import ASRService, Auth
from riva.client.proto import riva_asr_pb2 as pb
from riva.client.proto import riva_audio_pb2
from tritonclient.grpc import service_pb2, service_pb2_grpc

from orchestrator.client import Reconnected, SpeechClient
from orchestrator.deploy.gate import Bounds, Gate
from orchestrator.deploy.gateway_probe import GatewayProbe
from orchestrator.deploy.recording import packaged
from orchestrator.settings import Settings
from orchestrator.transcript.wording import word_error_rate
from tests.client.conftest import spoken
from tests.gateway.riva.certificates import Authority
from tests.integration.deploy.haproxy import (
    SERVICES,
    TEXT,
    Front,
    StandIn,
    balancer_variables,
    paced,
    running_front,
    speech,
    stand_ins,
    until,
)
from tests.integration.deploy.simulated_load import STRICT, Load, homes
from tests.integration.gateway_process import running
from tests.integration.talk import Talk

pytestmark = pytest.mark.integration


@pytest.fixture
def slots() -> Iterator[list[StandIn]]:
    with stand_ins("blue", "green") as made:
        yield made


@pytest.fixture
def front(slots: list[StandIn], tmp_path: Path) -> Iterator[Front]:
    with running_front(tmp_path, front_servers=[slot.entry for slot in slots]) as started:
        yield started


def code_of(url: str) -> tuple[Any, str]:
    with grpc.insecure_channel(url) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        with pytest.raises(grpc.RpcError) as told:
            stub.ServerReady(service_pb2.ServerReadyRequest(), timeout=60)
        return told.value.code(), told.value.details()


def test_nothing_is_served_before_the_first_switch(front: Front, slots: list[StandIn]) -> None:
    """Two slots that are up and ready get nothing before one was switched to."""
    time.sleep(0.5)
    assert code_of(front.url) == (grpc.StatusCode.UNAVAILABLE, "no server is ready")
    assert code_of(f"127.0.0.1:{front.ports['riva']}") == (grpc.StatusCode.UNAVAILABLE, "no server is ready")
    assert [slot.requests for slot in slots] == [0, 0]
    assert [slot.asked for slot in slots] == [[], []], "a slot in maintenance is not even checked"


def test_switching_under_load_loses_nothing(front: Front, slots: list[StandIn]) -> None:
    """Twelve switches: no request fails, no stream leaves its server, and a drained server ends empty."""
    blue, green = slots
    assert front.control.switch("blue") is True
    until(lambda: front.up("blue"))
    with Load(front.url) as load:
        for slot in ["green", "blue"] * 6:
            time.sleep(0.7)
            front.control.switch(slot)
        front.control.switch("green")
        # A stream has no request open between two of its chunks.
        until(lambda: front.control.sessions("blue") == 0 and not blue.sequences)
        before = blue.requests
        time.sleep(1.0)
        assert blue.requests == before, "a drained server got new work"
        until(lambda: load.done > 50 and load.streamed > 10, 120)
    assert load.failures == []
    assert load.resumed == 0
    assert {len(found) for found in homes(slots).values()} == {1}
    assert {name for found in homes(slots).values() for name in found} == {"blue", "green"}
    assert green.live(0)


def test_a_stream_stays_while_its_server_drains(front: Front, slots: list[StandIn]) -> None:
    blue, green = slots
    front.control.switch("blue")
    pieces, words = speech(8)
    with SpeechClient(front.url, settings=STRICT) as client:
        events = []
        for event in client.stream(paced(pieces, 2.0), diarize=False):
            if not events:
                front.control.switch("green")
                assert front.control.sequences("blue") == 1
                client.transcribe(spoken(TEXT), diarize=False)
            events.append(event)
    assert events[-1].transcript.text.split() == words
    assert (len(green.chunks), len(blue.seen), len(green.seen)) == (0, 0, 1)
    assert not any(isinstance(event, Reconnected) for event in events)


def test_a_restart_keeps_what_was_switched(front: Front, slots: list[StandIn]) -> None:
    front.control.switch("blue")
    front.control.switch("green")
    front.stop()
    front.start()
    until(lambda: front.up("green"))
    with SpeechClient(front.url, settings=STRICT) as client:
        client.transcribe(spoken(TEXT), diarize=False)
    assert [len(slot.seen) for slot in slots] == [0, 1]


def test_a_reload_loses_no_request_and_no_word(front: Front, slots: list[StandIn]) -> None:
    """A new process takes over while a server drains; what belonged there goes on at the other."""
    front.control.switch("blue")
    until(lambda: front.up("blue"))
    with Load(front.url, streams=0) as strict, Load(front.url, settings=Settings(), words=20) as load:
        until(lambda: len(slots[0].sequences) >= 6)
        front.reload()
        front.control.switch("green")
        front.reload()
        time.sleep(4.0)
    assert strict.failures == []
    assert load.failures == []
    until(lambda: front.up("green"))


def test_a_stream_stays_with_a_draining_server_over_reloads(front: Front, slots: list[StandIn]) -> None:
    """The new process knows from the old one where the stream belongs."""
    blue, green = slots
    front.control.switch("blue")
    until(front.ready_to_tell)
    pieces, words = speech(8)

    def said() -> Iterator[Any]:
        third = len(pieces) // 3
        yield from paced(pieces[:third], 4.0)
        front.control.switch("green")
        front.reload()
        until(lambda: front.control.sequences("blue") == 1)
        yield from paced(pieces[third : 2 * third], 4.0)
        front.reload()
        until(lambda: front.control.sequences("blue") == 1)
        yield from pieces[2 * third :]

    with SpeechClient(front.url, settings=STRICT) as client:
        events = list(client.stream(said(), diarize=False))
    assert events[-1].transcript.text.split() == words
    assert not any(isinstance(event, Reconnected) for event in events)
    assert (len(green.chunks), len(blue.chunks) > 0) == (0, True)


def test_the_front_starts_where_a_process_may_open_few_files(tmp_path: Path, slots: list[StandIn]) -> None:
    servers = [slot.entry for slot in slots]
    with running_front(tmp_path, files=1024, front_servers=servers, front_max_connections=20000) as front:
        front.control.switch("blue")
        with SpeechClient(front.url, settings=STRICT) as client:
            client.transcribe(spoken(TEXT), diarize=False)
        facts = dict(line.split(": ", 1) for line in front.ask("show info").splitlines() if ": " in line)
        assert 300 < int(facts["Maxconn"]) < 512


def test_a_killed_server_costs_no_word(front: Front, slots: list[StandIn]) -> None:
    """With both in use: new work goes on at once, streams are resumed by the client library."""
    blue, green = slots
    for name in ("blue", "green"):
        front.control.set_state(name, "ready")
    until(lambda: front.up("blue", "green"))
    with Load(front.url, settings=Settings(), words=20) as load:
        until(lambda: min(len(slot.sequences) for slot in slots) >= 2)
        blue.kill()
        until(lambda: front.up("green"))
        time.sleep(4.0)
    assert load.failures == []
    assert load.resumed >= 2
    assert green.live(0)


def test_services_have_their_own_health(front: Front, slots: list[StandIn]) -> None:
    blue, _ = slots
    front.control.switch("blue")

    def ready(service: str) -> int:
        try:
            return int(urlopen(f"http://127.0.0.1:{front.ports[service]}/front/ready", timeout=60).status)
        except OSError as error:
            return int(getattr(error, "code", 0))

    until(lambda: [ready(service) for service in front.ports] == [200, 200, 200])
    until(lambda: {"/v2/health/ready", "/v1/health/ready"} == set(blue.asked))
    assert urlopen(f"http://127.0.0.1:{front.ports['gateway']}/v1/models", timeout=60).read() == b"blue"
    blue.healthy = False
    until(lambda: [ready(service) for service in front.ports] == [503, 503, 503])


def test_a_balancer_does_not_take_one_passed_check_for_a_host_that_is_back(tmp_path: Path) -> None:
    """A host's front that has just started says once that it is ready, before it has looked."""
    with stand_ins("spark1") as (host,):
        given = balancer_variables([host.entry])
        with running_front(tmp_path, "balancer", **given) as balancer:
            until(lambda: balancer.up("spark1"))
            host.healthy = False
            until(lambda: not balancer.servers_up())
            host.once = 200
            until(lambda: host.once is None)
            later = len(host.asked) + 2 * len(SERVICES)
            while len(host.asked) < later:
                assert not balancer.servers_up()
            host.healthy = True
            until(lambda: balancer.up("spark1"))


def test_large_messages_pass(front: Front, slots: list[StandIn]) -> None:
    """Eighty megabytes there, and what the model makes of them back."""
    front.control.switch("blue")
    samples = np.zeros(20_000_000, np.float32)
    request = service_pb2.ModelInferRequest(model_name="echo")
    request.inputs.add(name="AUDIO", datatype="FP32", shape=[1, samples.size])
    request.raw_input_contents.append(samples.tobytes())
    options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(front.url, options=options) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        assert stub.ModelInfer(request, timeout=200).model_name == "echo"
    assert slots[0].seen[0].samples == samples.size


def test_many_streams_of_one_connection(front: Front, slots: list[StandIn]) -> None:
    """More requests at once on one connection than HTTP/2 servers allow by default (100) do not wait."""
    front.control.switch("blue")
    slots[0].fail(grpc.StatusCode.INTERNAL, "late", 0)
    with grpc.insecure_channel(front.url) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        calls = [
            stub.ServerReady.future(service_pb2.ServerReadyRequest(), timeout=120, wait_for_ready=True)
            for _ in range(400)
        ]
        assert all(call.result().ready for call in calls)


def test_tls_for_clients(slots: list[StandIn], tmp_path: Path) -> None:
    authority = Authority(tmp_path / "tls")
    pair = authority.issue("front")
    pem = tmp_path / "front.pem"
    pem.write_bytes(pair.certificate.read_bytes() + pair.key.read_bytes())
    with running_front(
        tmp_path / "front",
        front_servers=[slot.entry for slot in slots],
        front_certificate=str(pem),
    ) as front:
        front.control.switch("blue")
        trusted = grpc.ssl_channel_credentials(authority.pair.certificate.read_bytes())
        with grpc.secure_channel(front.url, trusted) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            assert stub.ServerReady(service_pb2.ServerReadyRequest(), timeout=60).ready
        assert code_of(front.url)[0] is grpc.StatusCode.UNAVAILABLE, "without TLS nobody gets in"


@pytest.mark.timeout(900)  # builds a release and starts a server first, where no test before did
def test_real_servers_behind_it(triton: Any, talk: Talk, tmp_path: Path) -> None:
    """A tritonserver and a gateway pass the gate through it, and a client of Riva's hears all of a stream."""
    with running(tmp_path / "gateway", upstream=triton.url) as gateway:
        riva = int(gateway.riva.rpartition(":")[2])
        ports = {
            "address": "127.0.0.1",
            "triton": triton.settings.grpc_port,
            "triton_check": triton.settings.http_port,
            "gateway": gateway.port,
            "riva": riva,
            "riva_check": gateway.port,
        }
        servers = [{"name": name, **ports} for name in ("blue", "green")]
        with running_front(tmp_path / "front", front_servers=servers) as front:
            front.control.switch("blue")
            until(lambda: front.up("blue"))
            probe = GatewayProbe(f"http://127.0.0.1:{front.ports['gateway']}")
            bounds = Bounds(max_wer=0.1, max_latency_s=240, memory_floor_mib=0)
            with SpeechClient(front.url, settings=STRICT) as client:
                report = Gate(client, packaged(), bounds, probe, expected=triton.models).run()
            assert report.passed, report.summary
            assert {finding.name for finding in report.findings} >= {
                "live stream by parakeet_streaming",
                "transcript over the gateway",
                "speakers",
            }
            said = riva_stream(f"127.0.0.1:{front.ports['riva']}", talk)
            assert word_error_rate(talk.text, said) < 0.15
            until(lambda: front.control.sessions("blue") == 0)


def riva_stream(url: str, talk: Talk) -> str:
    """The finals of a StreamingRecognize, one call for all of the talk."""
    samples, rate = soundfile.read(talk.wav, dtype="int16")

    def messages() -> Iterator[pb.StreamingRecognizeRequest]:
        config = pb.RecognitionConfig(
            encoding=riva_audio_pb2.LINEAR_PCM, sample_rate_hertz=rate, language_code="en-US"
        )
        yield pb.StreamingRecognizeRequest(streaming_config=pb.StreamingRecognitionConfig(config=config))
        for begin in range(0, len(samples), 1600):
            yield pb.StreamingRecognizeRequest(audio_content=samples[begin : begin + 1600].tobytes())

    asr = ASRService(Auth(uri=url))
    try:
        responses = list(asr.stub.StreamingRecognize(messages(), timeout=240))
    finally:
        asr.auth.channel.close()
    finals = [one for response in responses for one in response.results if one.is_final]
    return " ".join(one.alternatives[0].transcript for one in finals)
