"""More work than the gateway, or a key, may have: refused at once, and those let in go on as if alone."""

from __future__ import annotations

import hashlib
import math
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import grpc
import pytest
from riva.client import ASRService, Auth
from riva.client.proto import riva_asr_pb2 as pb

from orchestrator.gateway.keys import ANYBODY, ApiKeys
from orchestrator.settings import KeySettings

EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED
STEP = bytes(2 * 1600)
"""One word of the recogniser."""


def hashed(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


class Caller:
    """A live stream that sends when it is told to."""

    def __init__(self, asr: Any, metadata: Any = None) -> None:
        self._messages: queue.Queue[Any] = queue.Queue()
        config = pb.RecognitionConfig(
            encoding="LINEAR_PCM",
            sample_rate_hertz=16_000,
            enable_automatic_punctuation=True,
            verbatim_transcripts=True,
        )
        asked = pb.StreamingRecognitionConfig(config=config, interim_results=True)
        self._messages.put(pb.StreamingRecognizeRequest(streaming_config=asked))
        self.call = asr.stub.StreamingRecognize(iter(self._messages.get, None), metadata=metadata, timeout=60)

    def say(self) -> str:
        """Send one word's audio; what the answer holds."""
        self._messages.put(pb.StreamingRecognizeRequest(audio_content=STEP))
        return "".join(result.alternatives[0].transcript for result in next(self.call).results)

    def end(self) -> list[Any]:
        self._messages.put(None)
        return list(self.call)

    def refused(self) -> str:
        """Why it is not let in."""
        with pytest.raises(grpc.RpcError) as caught:
            self.end()
        assert caught.value.code() is EXHAUSTED  # type: ignore[attr-defined]
        return str(caught.value.details())  # type: ignore[attr-defined]


@pytest.fixture
def connect() -> Iterator[Callable[[str], Any]]:
    opened: list[Any] = []

    def connect_to(uri: str) -> Any:
        opened.append(ASRService(Auth(uri=uri)))
        return opened[-1]

    yield connect_to
    for asr in opened:
        asr.auth.channel.close()


def test_streams_let_in_go_on_while_a_crowd_is_refused(serve: Any, connect: Any) -> None:
    """Each refusal comes before the recogniser hears of the stream, and answers come in between."""
    with serve(max_streams=2) as riva:
        asr = connect(riva.uri)
        admitted = [Caller(asr) for _ in range(2)]
        assert [caller.say() for caller in admitted] == ["One ", "One "]
        said = ["One "]
        for _ in range(4):
            crowd = [Caller(asr) for _ in range(10)]
            word = {caller.say() for caller in admitted}
            assert len(word) == 1
            said += word
            assert all("2 streams are in work" in caller.refused() for caller in crowd)
        assert said[1:3] == ["One two, ", "One two, three "]
        assert len(riva.service.lives) == 2, "no refused stream reached the recogniser"
        for caller in admitted:
            caller.end()
        assert Caller(asr).say() == "One "


def test_each_key_has_its_places(serve: Any, connect: Any) -> None:
    keys = {
        "ada": KeySettings(sha256=hashed("a"), max_streams=1, max_requests=1),
        "bob": KeySettings(sha256=hashed("b"), max_streams=2),
    }
    with serve(keys=keys, api_key_hashes=[hashed("free")], max_streams=4) as riva:
        asr = connect(riva.uri)

        def stream(key: str) -> Caller:
            return Caller(asr, [("authorization", f"Bearer {key}")])

        open_streams = [stream("a"), stream("b"), stream("b")]
        assert [caller.say() for caller in open_streams] == ["One "] * 3
        assert "1 streams of the key 'ada' are in work" in stream("a").refused()
        assert "2 streams of the key 'bob' are in work" in stream("b").refused()
        open_streams.append(stream("free"))
        assert open_streams[-1].say() == "One "
        assert "4 streams are in work" in stream("free").refused(), "the gateway's limit holds as well"
        for caller in open_streams:
            caller.end()
        again = stream("a")
        assert again.say() == "One "
        again.end()
        assert riva.streams.running == 0


def test_each_key_has_its_requests(serve: Any, connect: Any) -> None:
    keys = {"ada": KeySettings(sha256=hashed("a"), max_requests=1), "bob": KeySettings(sha256=hashed("b"))}
    with serve(keys=keys) as riva:
        asr = connect(riva.uri)
        riva.service.hold = threading.Event()
        config = pb.RecognitionConfig(encoding="LINEAR_PCM", sample_rate_hertz=16_000)
        request = pb.RecognizeRequest(config=config, audio=STEP)

        def ask(key: str) -> Any:
            return asr.stub.Recognize.future(request, metadata=[("authorization", f"Bearer {key}")])

        working = [ask("a"), ask("b"), ask("b")]
        until(lambda: riva.service.waiting == 3)
        refused = ask("a")
        assert refused.code() is EXHAUSTED
        assert "1 requests of the key 'ada' are in work" in refused.details()
        assert ask("c").code() is grpc.StatusCode.UNAUTHENTICATED
        riva.service.hold.set()
        assert all(call.result().results for call in working)
        assert ask("a").result().results


def test_a_callers_deadline_reaches_the_upstream(
    serve: Any, connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests to the upstream carry it on, whatever becomes of this process."""
    with serve() as riva:
        asr = connect(riva.uri)
        left: list[float] = []
        transcribe = riva.service.transcribe

        async def noting(recording: Any, job: Any) -> Any:
            left.append(anyio.current_effective_deadline() - anyio.current_time())
            return await transcribe(recording, job)

        monkeypatch.setattr(riva.service, "transcribe", noting)
        config = pb.RecognitionConfig(encoding="LINEAR_PCM", sample_rate_hertz=16_000)
        request = pb.RecognizeRequest(config=config, audio=STEP)
        asr.stub.Recognize(request, timeout=20)
        asr.stub.Recognize(request)
    assert 0 < left[0] < 21  # on the wire gRPC rounds a time-out up, by less than 3 %
    assert math.isinf(left[1])


def until(condition: Callable[[], bool], timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_who_shows_which_key() -> None:
    keys = ApiKeys([hashed("free")], {"ada": KeySettings(sha256=hashed("a"), max_requests=1)})
    assert keys.required
    ada = keys.caller(b"a")
    assert ada is not None
    assert ada.name == "ada"
    assert keys.caller(b"a") is ada, "all who show the key share its places"
    assert keys.caller(b"free") is ANYBODY
    assert keys.caller(b"") is None
    assert keys.caller(None) is None
    assert keys.caller(b"b") is None
    assert ApiKeys([hashed("")]).caller(b"") is None, "an empty key is none"
    everybody = ApiKeys(())
    assert not everybody.required
    assert everybody.caller(None) is ANYBODY
