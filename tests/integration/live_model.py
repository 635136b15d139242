"""A model of live streams in a real server, and streams to it with Triton's protocol alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import service_pb2, service_pb2_grpc

from orchestrator import resources
from orchestrator.backend import updates
from orchestrator.client import failures
from orchestrator.engines.streaming import StreamUpdate
from orchestrator.errors import SpeechError
from orchestrator.repository.config import ModelConfig, render
from orchestrator.repository.plan import make_plan
from orchestrator.settings import StreamingSettings

MODEL = "parakeet_streaming"
ECHO = Path(__file__).parents[1] / "backend" / "echo_streaming.py"
LIMIT_S = 60.0
"""Only for a machine that does much else meanwhile."""


def config(settings: StreamingSettings) -> ModelConfig:
    """What a build writes for the model."""
    (model,) = make_plan({MODEL: "embedded"}, streaming=settings).models
    return model.config


def write_echo(folder: Path, *configs: ModelConfig) -> Path:
    """A repository of the model as it is, but with the echo for an engine."""
    source = resources.model_repository() / MODEL / "1" / "model.py"
    text = source.read_text(encoding="utf-8")
    wanted = "from orchestrator.engines import load_streaming"
    assert wanted in text
    for written in configs:
        version = folder / written.name / "1"
        version.mkdir(parents=True)
        (version / "model.py").write_text(text.replace(wanted, "from echo_streaming import load_streaming"))
        (version / "echo_streaming.py").write_text(ECHO.read_text())
        (version.parent / "config.pbtxt").write_text(render(written))
    return folder


def with_idle(base: ModelConfig, name: str, idle_us: int) -> ModelConfig:
    """A second model under another name, whose sequences Triton itself forgets early."""
    assert base.sequences is not None
    return replace(base, name=name, sequences=replace(base.sequences, idle_us=idle_us))


@dataclass(frozen=True)
class Answer:
    """What a chunk changed: segments of (utterance, words, final), and the times."""

    update: StreamUpdate

    @property
    def segments(self) -> list[tuple[int, list[str], bool]]:
        return [
            (segment.utterance, [word.text for word in segment.words], segment.final)
            for segment in self.update.segments
        ]

    @property
    def words(self) -> list[str]:
        return [word.text for segment in self.update.segments for word in segment.words]

    @property
    def processed_ms(self) -> int:
        return self.update.processed_ms


@dataclass
class Live:
    """One connection to a server."""

    url: str
    model: str = MODEL
    channel: Any = field(init=False)

    def __post_init__(self) -> None:
        self.channel = grpc.insecure_channel(self.url, options=[("grpc.use_local_subchannel_pool", 1)])
        self.stub = service_pb2_grpc.GRPCInferenceServiceStub(self.channel)

    def close(self) -> None:
        self.channel.close()

    def __enter__(self) -> Live:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def begin(
        self,
        stream: int | str,
        samples: Sequence[int] | np.ndarray[Any, Any],
        *,
        start: bool = False,
        end: bool = False,
        options: dict[str, Any] | str | None = None,
        model: str | None = None,
        limit_s: float = LIMIT_S,
    ) -> Any:
        """Send a chunk; `finish` takes what comes back."""
        pcm = np.asarray(samples, dtype="<i2")
        request = service_pb2.ModelInferRequest(model_name=model or self.model)
        request.inputs.add(name="PCM16", datatype="INT16", shape=[1, len(pcm)])
        request.raw_input_contents.append(pcm.tobytes())
        if options is not None:
            text = options if isinstance(options, str) else json.dumps(options)
            request.parameters["options"].string_param = text
        if isinstance(stream, str):
            request.parameters["sequence_id"].string_param = stream
        else:
            request.parameters["sequence_id"].int64_param = stream
        request.parameters["sequence_start"].bool_param = start
        request.parameters["sequence_end"].bool_param = end
        return self.stub.ModelInfer.future(request, timeout=limit_s)

    def finish(self, call: Any) -> Answer:
        """The answer.

        Raises:
            SpeechError: what the client library makes of a failure.
        """
        try:
            response = call.result()
        except grpc.RpcError as error:
            told = failures.from_status(error.code(), error.details(), failures.Call(self.url, self.model))
            raise told.error from error
        ((output, content),) = zip(response.outputs, response.raw_output_contents, strict=True)
        assert (output.name, output.datatype, list(output.shape)) == ("UPDATE", "UINT8", [1, len(content)])
        return Answer(updates.decode(content))

    def send(self, stream: int | str, samples: Sequence[int] | np.ndarray[Any, Any], **how: Any) -> Answer:
        """Send a chunk and wait for its answer."""
        return self.finish(self.begin(stream, samples, **how))

    def fault(self, stream: int | str, samples: Sequence[int], **how: Any) -> SpeechError:
        """The error that a chunk comes back with."""
        try:
            answer = self.send(stream, samples, **how)
        except SpeechError as error:
            return error
        raise AssertionError(f"it was answered: {answer}")
