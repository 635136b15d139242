from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.backend.context import ModelContext
from orchestrator.backend.faults import decode
from orchestrator.backend.jobs import read, respond, run
from orchestrator.backend.tensors import diarization_tensors, recognition_tensors
from orchestrator.contract import DIARIZER, RECOGNIZER
from orchestrator.diarization.base import Diarization, DiarizationOptions, SpeakerTurn
from orchestrator.engines.base import Recognition, RecognitionOptions, RecognizedWord
from orchestrator.errors import (
    AudioEmptyError,
    AudioTooLongError,
    AudioValueError,
    InferenceError,
    InvalidRequestError,
    ModelLoadError,
    RemoteInferenceError,
    SpeechError,
    UnsupportedLanguageError,
)

CONTEXT = ModelContext("moonshine", "moonshine", Path("/m/1"), "cpu", None, {}, max_window_s=2.0)


@dataclass
class FakeTensor:
    name: str
    values: np.ndarray[Any, Any]

    def as_numpy(self) -> np.ndarray[Any, Any]:
        return self.values


class FakeTritonError(Exception):
    INVALID_ARG = "INVALID_ARG"
    INTERNAL = "INTERNAL"
    CANCELLED = "CANCELLED"

    def __init__(self, message: str, code: str = "INTERNAL") -> None:
        self.message, self.code = message, code


@dataclass
class FakeResponse:
    output_tensors: list[FakeTensor]
    error: FakeTritonError | None = None


@dataclass
class FakeRequest:
    tensors: dict[str, np.ndarray[Any, Any]]
    gone: list[bool] = field(default_factory=lambda: [False])
    """Answers to is_cancelled, the last one for good."""

    def is_cancelled(self) -> bool:
        return self.gone.pop(0) if len(self.gone) > 1 else self.gone[0]


def _get(request: FakeRequest, name: str) -> FakeTensor | None:
    values = request.tensors.get(name)
    return None if values is None else FakeTensor(name, values)


PB: Any = SimpleNamespace(
    Tensor=FakeTensor,
    InferenceResponse=FakeResponse,
    TritonError=FakeTritonError,
    get_input_tensor_by_name=_get,
)


def request(
    samples: Sequence[float] | np.ndarray[Any, Any] = (0.0,), options: str | bytes | None = None
) -> FakeRequest:
    tensors: dict[str, Any] = {"AUDIO": np.asarray(samples, dtype=np.float32)[np.newaxis]}
    if options is not None:
        raw = options.encode() if isinstance(options, str) else options
        tensors["OPTIONS"] = np.array([[raw]], dtype=np.object_)
    return FakeRequest(tensors)


def echo(batch: Sequence[Any], options: RecognitionOptions) -> list[Recognition]:
    """An engine whose one word says what it was given."""
    return [
        Recognition(
            (RecognizedWord(f"{samples[0]:g}/{len(samples)}", 0, 1, 0.5),), options.language or "en", False
        )
        for samples in batch
    ]


def serve(requests: list[FakeRequest], engine: Any = echo) -> list[FakeResponse]:
    jobs = read(requests, CONTEXT, RecognitionOptions, PB)
    run(jobs, engine, CONTEXT)
    return respond(jobs, recognition_tensors, PB)


def word(response: FakeResponse) -> str:
    assert response.error is None
    return response.output_tensors[0].values[0, 0].decode()


def fault(response: FakeResponse) -> SpeechError:
    assert response.error is not None
    error = decode(response.error.message)
    assert error is not None
    return error


@given(st.lists(st.tuples(st.floats(-1, 1, width=16), st.sampled_from([None, "en", "de"])), max_size=8))
def test_every_request_gets_its_own_answer_whatever_the_mix_of_options(
    wanted: list[tuple[float, str | None]],
) -> None:
    calls: list[str | None] = []

    def engine(batch: Sequence[Any], options: RecognitionOptions) -> list[Recognition]:
        calls.append(options.language)
        return echo(batch, options)

    requests = [request([value], json.dumps({"language": tag}) if tag else None) for value, tag in wanted]
    responses = serve(requests, engine)
    assert [word(response) for response in responses] == [f"{np.float32(value):g}/1" for value, _ in wanted]
    assert len(calls) == len({tag for _, tag in wanted})


@pytest.mark.parametrize(
    ("bad", "expected"),
    [
        (FakeRequest({}), InvalidRequestError),
        (FakeRequest({"AUDIO": np.zeros((1, 4), np.float64)}), AudioValueError),
        (FakeRequest({"AUDIO": np.zeros((2, 4), np.float32)}), AudioValueError),
        (FakeRequest({"AUDIO": np.zeros(4, np.float32)}), AudioValueError),
        (FakeRequest({"AUDIO": np.zeros((1, 4), np.int16)}), AudioValueError),
        (FakeRequest({"PCM16": np.zeros((1, 4), np.float32)}), AudioValueError),
        (FakeRequest({"PCM16": np.zeros((2, 4), np.int16)}), AudioValueError),
        (FakeRequest({"PCM16": np.zeros((1, 0), np.int16)}), AudioEmptyError),
        (FakeRequest({"PCM16": np.zeros((1, 32_001), np.int16)}), AudioTooLongError),
        (
            FakeRequest({"PCM16": np.zeros((1, 4), np.int16), "AUDIO": np.zeros((1, 4), np.float32)}),
            InvalidRequestError,
        ),
        (request([]), AudioEmptyError),
        (request([0.0, float("nan")]), AudioValueError),
        (request([0.0, float("inf")]), AudioValueError),
        (request(np.zeros(32_001)), AudioTooLongError),
        (request(options="{"), InvalidRequestError),
        (request(options="[]"), InvalidRequestError),
        (request(options=b"\xff\xfe"), InvalidRequestError),
        (request(options='{"langauge": "en"}'), InvalidRequestError),
        (request(options='{"language": 3}'), InvalidRequestError),
    ],
)
def test_a_wrong_request_gets_a_clear_invalid_argument_and_its_batch_mates_their_words(
    bad: FakeRequest, expected: type[SpeechError]
) -> None:
    first, broken, last = serve([request([0.25]), bad, request([0.5])])
    assert (word(first), word(last)) == ("0.25/1", "0.5/1")
    error = fault(broken)
    assert type(error) is expected
    assert error.model == "moonshine"
    assert error.fix
    assert broken.error is not None
    assert broken.error.code == "INVALID_ARG"


@pytest.mark.parametrize("value", [-32_768, -1, 0, 8_192, 32_767])
def test_sixteen_bits_become_floats_for_an_engine_that_wants_them(value: int) -> None:
    pcm = FakeRequest({"PCM16": np.array([[value, 0]], np.int16)})
    jobs = read([pcm, request([0.5])], CONTEXT, RecognitionOptions, PB)
    heard: list[Any] = []

    def engine(batch: Sequence[Any], options: RecognitionOptions) -> list[Recognition]:
        heard.extend(batch)
        return echo(batch, options)

    run(jobs, engine, CONTEXT)
    assert [samples.dtype for samples in heard] == [np.float32, np.float32]
    assert heard[0].tolist() == [value / 32_768, 0.0]


def test_an_engine_that_takes_sixteen_bits_gets_them_uncopied_beside_floats() -> None:
    pcm = FakeRequest({"PCM16": np.array([[8_192, 7]], np.int16)})
    jobs = read([request([0.5]), pcm], CONTEXT, RecognitionOptions, PB, takes_pcm16=True)
    floats, integers = (job.samples for job in jobs)
    assert floats is not None
    assert floats.dtype == np.float32
    assert integers is not None
    assert np.shares_memory(integers, pcm.tensors["PCM16"])
    assert integers.tolist() == [8_192, 7]


def test_the_longest_allowed_audio_is_taken() -> None:
    assert word(serve([request(np.zeros(32_000))])[0]) == "0/32000"


def test_one_recording_that_breaks_the_model_fails_alone() -> None:
    def engine(batch: Sequence[Any], options: RecognitionOptions) -> list[Recognition]:
        if any(samples[0] == 0.5 for samples in batch):
            raise RuntimeError("CUDA out of memory")
        return echo(batch, options)

    good, bad, also_good = serve([request([0.25]), request([0.5]), request([0.75])], engine)
    assert (word(good), word(also_good)) == ("0.25/1", "0.75/1")
    assert type(fault(bad)) is RemoteInferenceError
    assert "out of memory" in fault(bad).message
    assert bad.error is not None
    assert bad.error.code == "INTERNAL"


def test_an_unknown_language_is_the_callers_fault() -> None:
    def engine(batch: Sequence[Any], options: RecognitionOptions) -> list[Recognition]:
        if options.language == "tlh":
            raise UnsupportedLanguageError("moonshine knows en, not tlh")
        return echo(batch, options)

    bad, good = serve([request(options='{"language": "tlh"}'), request([0.5])], engine)
    assert type(fault(bad)) is UnsupportedLanguageError
    assert bad.error is not None
    assert bad.error.code == "INVALID_ARG"
    assert word(good) == "0.5/1"


def test_an_engine_that_loses_a_result_answers_nobody_with_anothers_words() -> None:
    responses = serve([request([0.1]), request([0.2])], lambda batch, options: echo(batch, options)[1:])
    assert all(type(fault(response)) is RemoteInferenceError for response in responses)


def test_cancelled_requests_do_not_reach_the_engine() -> None:
    seen: list[int] = []

    def engine(batch: Sequence[Any], options: RecognitionOptions) -> list[Recognition]:
        seen.append(len(batch))
        return echo(batch, options)

    left = request([0.5])
    left.gone = [True]
    gone, stayed = serve([left, request([0.25])], engine)
    assert seen == [1]
    assert gone.error is not None
    assert gone.error.code == "CANCELLED"
    assert word(stayed) == "0.25/1"


@pytest.mark.parametrize(("seconds", "asked"), [(30, False), (90, True)])
def test_a_gpu_rather_recognises_a_window_than_asks_whether_it_is_wanted(seconds: int, asked: bool) -> None:
    context = replace(CONTEXT, device="cuda:0", max_window_s=100.0)
    left = request(np.zeros(seconds * 16_000))
    left.gone = [True]
    jobs = read([left], context, RecognitionOptions, PB)
    run(jobs, echo, context)
    assert jobs[0].cancelled is asked


def test_a_server_without_is_cancelled_or_cancelled_codes_still_answers() -> None:
    plain = SimpleNamespace(**{**vars(PB), "TritonError": lambda message: FakeTritonError(message, "none")})
    bare: Any = SimpleNamespace(tensors={"AUDIO": np.zeros((1, 0), np.float32)})
    jobs = read([bare], CONTEXT, RecognitionOptions, plain)
    run(jobs, echo, CONTEXT)
    (response,) = respond(jobs, recognition_tensors, plain)
    assert type(fault(response)) is AudioEmptyError


def _check_contract(tensors: dict[str, Any], outputs: tuple[Any, ...]) -> None:
    numpy_types = {"FP32": np.float32, "INT32": np.int32, "BYTES": np.object_, "BOOL": np.bool_}
    assert list(tensors) == [spec.name for spec in outputs]
    for spec in outputs:
        assert tensors[spec.name].dtype == numpy_types[spec.datatype], spec.name
        assert tensors[spec.name].ndim == len(spec.dims), spec.name
        for have, want in zip(tensors[spec.name].shape, spec.dims, strict=True):
            assert want in (-1, have), spec.name


@pytest.mark.parametrize("count", [0, 1, 3])
def test_recognitions_fill_the_contract(count: int) -> None:
    words = tuple(RecognizedWord(f"w{i} é", i * 10, i * 10 + 5, 0.5) for i in range(count))
    tensors = dict(recognition_tensors(Recognition(words, "en", True)))
    _check_contract(tensors, RECOGNIZER.outputs)
    assert [text.decode() for text in tensors["WORD"]] == [item.text for item in words]
    assert tensors["WORD_END_MS"].tolist() == [item.end_ms for item in words]


@pytest.mark.parametrize("count", [0, 1, 3])
def test_diarizations_fill_the_contract(count: int) -> None:
    turns = tuple(SpeakerTurn(i * 10, i * 10 + 5, i) for i in range(count))
    result = Diarization(turns, turns[:1], np.zeros((count, 4), np.float32))
    tensors = dict(diarization_tensors(result))
    _check_contract(tensors, DIARIZER.outputs)
    assert tensors["TURN_SPEAKER"].tolist() == list(range(count))
    assert tensors["EXCLUSIVE_END_MS"].tolist() == [5][:count]


def test_diarization_options_out_of_range_are_refused() -> None:
    (job,) = read([request(options='{"num_speakers": 0}')], CONTEXT, DiarizationOptions, PB)
    assert isinstance(job.fault, InvalidRequestError)
    assert "num_speakers" in job.fault.message


OPTIONS_JSON = '{"threads": 2, "languages": ["de"]}'


def _args(**change: str) -> dict[str, str]:
    parameters = {"engine": "moonshine", "max_window_s": "30", "engine_options": OPTIONS_JSON, **change}
    config = {"parameters": {key: {"string_value": value} for key, value in parameters.items()}}
    return {
        "model_config": json.dumps(config),
        "model_name": "moonshine",
        "model_repository": "/repo/moonshine",
        "model_version": "1",
        "model_instance_kind": "GPU",
        "model_instance_device_id": "3",
    }


def test_the_context_comes_from_tritons_arguments() -> None:
    context = ModelContext.from_args(_args())
    folder = Path("/repo/moonshine/1")
    assert context == ModelContext("moonshine", "moonshine", folder, "cuda:3", 2, {"languages": ["de"]}, 30.0)
    assert (context.source.threads, context.source.options) == (2, {"languages": ["de"]})
    on_cpu = ModelContext.from_args({**_args(), "model_instance_kind": "KIND_CPU"})
    assert on_cpu.source.device == "cpu"


@pytest.mark.parametrize(
    "change",
    [
        {"max_window_s": "long"},
        {"engine_options": "["},
        {"engine_options": '{"threads": "two"}'},
        {"engine_options": "[1]"},
    ],
)
def test_a_config_that_makes_no_sense_is_a_load_error(change: dict[str, str]) -> None:
    with pytest.raises(ModelLoadError, match="moonshine"):
        ModelContext.from_args(_args(**change))


def test_an_inference_error_keeps_its_message() -> None:
    def engine(batch: Sequence[Any], options: RecognitionOptions) -> list[Recognition]:
        raise InferenceError("the decoder gave up", model="moonshine", fix="send less")

    error = fault(serve([request()], engine)[0])
    assert (error.message, error.fix) == ("the decoder gave up", "send less")


@pytest.mark.parametrize("shape", [(0,), (3,), (0, 4), (2, 4), (0, 0)])
def test_tensors_get_a_batch_dimension_and_c_order_even_without_elements(shape: tuple[int, ...]) -> None:
    """The strides are those that Triton computes from the shape, innermost first, to check the order."""
    jobs = read([request()], CONTEXT, RecognitionOptions, PB)
    run(jobs, echo, CONTEXT)
    (response,) = respond(jobs, lambda result: {"T": np.zeros(shape, np.float32)}, PB)
    values = response.output_tensors[0].values
    assert values.shape == (1, *shape)
    step = 4
    for stride, length in zip(values.strides[:0:-1], values.shape[:0:-1], strict=True):
        assert stride == step
        step *= length
