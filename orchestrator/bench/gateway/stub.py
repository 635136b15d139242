"""A server of Triton's protocol whose streaming model does nothing, in a process of its own.

It answers each chunk at once, with words at the pace of speech, so that what is measured in front of it is
not the recogniser.
"""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any, Final

import grpc
import grpc.aio
from tritonclient.grpc import model_config_pb2, service_pb2

from orchestrator.backend import updates
from orchestrator.contract import PCM16, SAMPLE_RATE_HZ, UPDATE, Parameter, Task
from orchestrator.engines.base import RecognizedWord
from orchestrator.engines.streaming import StreamSegment, StreamUpdate
from orchestrator.errors import ServerStartError

MODEL: Final = "nothing_streaming"
WORDS: Final = 12
"""Words of an utterance; all but the last chunk of one have a partial with the words so far."""
WORD_MS: Final = 320
"""Three words a second, as people speak."""
_START_LIMIT_S: Final = 30.0
_SERVICE: Final = "inference.GRPCInferenceService"
_SAMPLES_PER_MS: Final = SAMPLE_RATE_HZ // 1000
_BYTES_PER_MS: Final = 2 * _SAMPLES_PER_MS


class Answers:
    """What the model says to chunk after chunk of every stream: serialized answers, made once."""

    def __init__(self, chunk_ms: int) -> None:
        self._chunk_ms = chunk_ms
        self._places: dict[int, int] = {}
        self._made: dict[int, bytes] = {}

    def answer(self, request: Any) -> bytes:
        """The answer to the next chunk of the request's stream."""
        sequence = request.parameters["sequence_id"].int64_param
        if request.parameters["sequence_start"].bool_param:
            self._places[sequence] = 0
        heard_ms = self._places.get(sequence, 0) + len(request.raw_input_contents[0]) // _BYTES_PER_MS
        self._places[sequence] = heard_ms
        if request.parameters["sequence_end"].bool_param:
            self._places.pop(sequence, None)
        return self.said(heard_ms)

    def said(self, heard_ms: int) -> bytes:
        """The answer when ``heard_ms`` of a stream have been heard."""
        made = self._made.get(heard_ms)
        if made is None:
            made = bytes(self._response(heard_ms).SerializeToString())
            self._made[heard_ms] = made
        return made

    def _response(self, heard_ms: int) -> Any:
        response = service_pb2.ModelInferResponse(model_name=MODEL, model_version="1")
        content = updates.encode(self.update(heard_ms))
        response.outputs.add(name=UPDATE.name, datatype=UPDATE.datatype, shape=[len(content)])
        response.raw_output_contents.append(content)
        return response

    def update(self, heard_ms: int) -> StreamUpdate:
        """The words that are new: a partial that grows, and a final with the last word of an utterance."""
        known = heard_ms // WORD_MS
        before = max(heard_ms - self._chunk_ms, 0) // WORD_MS
        finals = [
            StreamSegment(utterance, _words(utterance), True, 1.0)
            for utterance in range(before // WORDS, known // WORDS)
        ]
        ongoing = known // WORDS
        partial = (
            [StreamSegment(ongoing, _words(ongoing, known % WORDS), False, 0.8)] if known % WORDS else []
        )
        return StreamUpdate((*finals, *partial), heard_ms, ongoing * WORDS * WORD_MS, "en")


def _words(utterance: int, count: int = WORDS) -> tuple[RecognizedWord, ...]:
    begin = utterance * WORDS
    return tuple(
        RecognizedWord(f"word{number % WORDS}", number * WORD_MS, (number + 1) * WORD_MS, 0.9)
        for number in range(begin, begin + count)
    )


@contextmanager
def stub_server(chunk_ms: int, max_streams: int) -> Iterator[str]:
    """Serve until the block ends; ``host:port``.

    Raises:
        ServerStartError: it did not come up.
    """
    context = multiprocessing.get_context("spawn")  # gRPC's threads do not live on in a fork
    here, there = context.Pipe()
    process = context.Process(target=_run, args=(there, chunk_ms, max_streams), name="stub", daemon=True)
    process.start()
    there.close()
    try:
        if not here.poll(_START_LIMIT_S):
            raise ServerStartError("the server without an engine did not come up")
        yield f"127.0.0.1:{here.recv()}"
    except EOFError as error:
        raise ServerStartError("the server without an engine ended") from error
    finally:
        here.close()  # the other end reads the end of file and ends
        process.join(5.0)
        if process.is_alive():
            process.kill()
            process.join()


def _run(pipe: Connection, chunk_ms: int, max_streams: int) -> None:
    asyncio.run(_serve(pipe, chunk_ms, max_streams))


async def _serve(pipe: Connection, chunk_ms: int, max_streams: int) -> None:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((_handlers(Answers(chunk_ms), chunk_ms, max_streams),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    pipe.send(port)
    over = asyncio.Event()
    asyncio.get_running_loop().add_reader(pipe.fileno(), over.set)
    await over.wait()
    await server.stop(None)


def _handlers(answers: Answers, chunk_ms: int, max_streams: int) -> Any:
    index = service_pb2.RepositoryIndexResponse()
    index.models.add(name=MODEL, version="1", state="READY")
    parameters = {
        Parameter.TASK: Task.STREAM,
        Parameter.ENGINE: "nothing",
        Parameter.LANGUAGES: "en",
        Parameter.CHUNK_MS: str(chunk_ms),
        Parameter.MAX_STREAMS: str(max_streams),
        Parameter.RANK: "1",
    }
    config = model_config_pb2.ModelConfig(name=MODEL)
    config.input.add(name=PCM16.name)
    for key, value in parameters.items():
        config.parameters[key].string_value = value
    told = {
        "ServerLive": service_pb2.ServerLiveResponse(live=True),
        "ServerReady": service_pb2.ServerReadyResponse(ready=True),
        "ServerMetadata": service_pb2.ServerMetadataResponse(name="stub", version="0"),
        "RepositoryIndex": index,
        "ModelConfig": service_pb2.ModelConfigResponse(config=config),
    }

    def constant(message: Any) -> Callable[[bytes, Any], Awaitable[bytes]]:
        content: bytes = message.SerializeToString()

        async def answer(request: bytes, context: Any) -> bytes:
            return content

        return answer

    async def infer(request: Any, context: Any) -> bytes:
        return answers.answer(request)

    handlers = {name: grpc.unary_unary_rpc_method_handler(constant(what)) for name, what in told.items()}
    handlers["ModelInfer"] = grpc.unary_unary_rpc_method_handler(
        infer, request_deserializer=service_pb2.ModelInferRequest.FromString
    )
    return grpc.method_handlers_generic_handler(_SERVICE, handlers)
