"""The default release in a real tritonserver, asked with tritonclient alone."""

from __future__ import annotations

import importlib.util
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import tritonclient.grpc as grpc
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from orchestrator import errors, resources
from orchestrator.backend.faults import decode
from orchestrator.client.codec import to_pcm16
from orchestrator.contract import DIARIZER, RECOGNIZER, SAMPLE_RATE_HZ, TensorSpec
from orchestrator.progress import SilentProgress
from orchestrator.repository.builder import Builder, BuildResult
from orchestrator.repository.loadcheck import server_load_check
from orchestrator.repository.plan import make_plan
from orchestrator.repository.release import ReleaseStore, verify
from orchestrator.repository.validate import machine
from orchestrator.settings import ServerSettings

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]
REQUEST_S = 280
"""Only for a machine that does much else meanwhile."""


@dataclass
class Served:
    """The running server and what it serves."""

    result: BuildResult
    client: Any
    url: str


@pytest.fixture(scope="module")
def served(
    tmp_path_factory: pytest.TempPathFactory, make_home: Callable[[Path], Path], tritonserver: Any
) -> Iterator[Served]:
    from orchestrator.runtime.ports import free_ports
    from orchestrator.runtime.server import TritonServer

    home = make_home(tmp_path_factory.mktemp("home"))
    http, grpc_port, metrics = free_ports(3)
    settings = ServerSettings(
        http_port=http, grpc_port=grpc_port, metrics_port=metrics, ready_timeout_s=300, stop_timeout_s=10
    )
    plan = make_plan(target=machine())  # type: ignore[arg-type]
    load = server_load_check(home, settings, SilentProgress())
    assert load is not None
    result = Builder(home=home, models=resources.model_repository(), load=load).build(plan)
    release = result.release
    with TritonServer(
        release.model_repository, release.models, triton=tritonserver, home=home, settings=settings
    ) as server:
        client = grpc.InferenceServerClient(server.url)
        yield Served(result, client, server.url)
        client.close()


@pytest.fixture(scope="module")
def speech() -> np.ndarray[Any, Any]:
    """30 s of two people, 16 kHz mono, from pyannote.audio's package."""
    found = importlib.util.find_spec("pyannote.audio")
    assert found is not None
    assert found.origin is not None
    samples, rate = soundfile.read(Path(found.origin).parent / "sample" / "sample.wav", dtype="float32")
    assert (rate, samples.ndim) == (SAMPLE_RATE_HZ, 1)
    return np.ascontiguousarray(samples[: 30 * SAMPLE_RATE_HZ])


def inputs(samples: np.ndarray[Any, Any], options: str | None = None) -> list[Any]:
    name = "PCM16" if samples.dtype == np.int16 else "AUDIO"
    audio = grpc.InferInput(name, list(samples.shape), np_to_triton_dtype(samples.dtype))
    audio.set_data_from_numpy(samples)
    tensors = [audio]
    if options is not None:
        text = grpc.InferInput("OPTIONS", [1, 1], "BYTES")
        text.set_data_from_numpy(np.array([[options.encode()]], dtype=np.object_))
        tensors.append(text)
    return tensors


def infer(served: Served, model: str, samples: np.ndarray[Any, Any], options: str | None = None) -> Any:
    return served.client.infer(model, inputs(samples[np.newaxis], options), client_timeout=REQUEST_S)


def words(answer: Any) -> list[str]:
    return [word.decode() for word in answer.as_numpy("WORD")[0]]


def check_contract(answer: Any, outputs: tuple[TensorSpec, ...]) -> None:
    assert {output.name for output in answer.get_response().outputs} == {spec.name for spec in outputs}
    for spec in outputs:
        have = answer.get_output(spec.name)
        assert have.datatype == spec.datatype
        assert len(have.shape) == len(spec.dims) + 1
        assert have.shape[0] == 1


def refused(served: Served, model: str, tensors: list[Any]) -> errors.SpeechError:
    with pytest.raises(InferenceServerException) as caught:
        served.client.infer(model, tensors, client_timeout=REQUEST_S)
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT", caught.value.message()
    error = decode(caught.value.message(), host=served.url)
    assert error is not None, caught.value.message()
    return error


def test_the_build_loaded_the_release_before_it_called_it_good(served: Served) -> None:
    assert served.result.release.checks["load in tritonserver"] == "passed"
    assert {check.outcome for check in served.result.checks} == {"passed"}


def test_the_server_shows_the_parameters_that_a_client_routes_by(served: Served) -> None:
    for entry in served.result.release.manifest.models:
        config = served.client.get_model_config(entry.name).config
        shown = {key: value.string_value for key, value in config.parameters.items()}
        assert shown.items() <= {key: str(value) for key, value in entry.settings.items()}.items()
        assert shown["task"] == entry.task


def test_speech_becomes_words_with_times(served: Served, speech: np.ndarray[Any, Any]) -> None:
    answer = infer(served, "moonshine", speech, '{"language": "en"}')
    check_contract(answer, RECOGNIZER.outputs)
    assert len(words(answer)) > 40
    starts, ends = answer.as_numpy("WORD_START_MS")[0], answer.as_numpy("WORD_END_MS")[0]
    assert (np.diff(starts) >= 0).all()
    assert (starts <= ends).all()
    assert ends[-1] <= 30_000
    assert answer.as_numpy("LANGUAGE")[0, 0] == b"en"
    assert answer.as_numpy("TIMES_ESTIMATED")[0, 0]
    confidence = answer.as_numpy("WORD_CONFIDENCE")[0]
    assert ((confidence >= 0) & (confidence <= 1)).all()


def test_silence_gives_no_words_and_whole_tensors(served: Served) -> None:
    answer = infer(served, "moonshine", np.zeros(SAMPLE_RATE_HZ, np.float32))
    check_contract(answer, RECOGNIZER.outputs)
    assert words(answer) == []


def test_requests_at_once_are_batched_and_each_gets_its_own_words(
    served: Served, speech: np.ndarray[Any, Any]
) -> None:
    """Different lengths in one batch, one of them bad: the others' words are those they get alone."""
    pieces = [
        speech[start * SAMPLE_RATE_HZ : end * SAMPLE_RATE_HZ] for start, end in ((0, 8), (8, 20), (20, 30))
    ]
    alone = [words(infer(served, "moonshine", piece)) for piece in pieces]
    before = served.client.get_inference_statistics("moonshine").model_stats[0]
    bad = np.array([0.0, np.nan], dtype=np.float32)
    waiting = [_start(served, samples) for samples in [*pieces, bad, *pieces]]
    answers = [wait() for wait in waiting]
    assert [words(answer) for answer in answers[:3]] == alone
    assert [words(answer) for answer in answers[4:]] == alone
    assert isinstance(decode(answers[3].message()), errors.AudioValueError)
    after = served.client.get_inference_statistics("moonshine").model_stats[0]
    calls = after.execution_count - before.execution_count
    assert calls < 7, "nothing was batched"


def test_sixteen_bits_and_floats_give_the_same_words_alone_and_at_once(
    served: Served, speech: np.ndarray[Any, Any]
) -> None:
    """Triton batches only requests that carry the same tensors; mixed ones must be served all the same."""
    pieces = [speech[start * SAMPLE_RATE_HZ : (start + 6) * SAMPLE_RATE_HZ] for start in (6, 12, 18)]
    integers = [to_pcm16(piece) for piece in pieces]
    alone = [words(infer(served, "moonshine", piece)) for piece in pieces]
    assert all(alone)
    assert [words(infer(served, "moonshine", piece)) for piece in integers] == alone
    before = served.client.get_inference_statistics("moonshine").model_stats[0]
    waiting = [_start(served, samples) for samples in [*integers, *integers, *pieces]]
    waiting += [_start(served, samples) for pair in zip(integers, pieces, strict=True) for samples in pair]
    answers = [words(wait()) for wait in waiting]
    assert answers[:9] == alone * 3
    assert answers[9::2] == answers[10::2] == alone
    after = served.client.get_inference_statistics("moonshine").model_stats[0]
    assert after.execution_count - before.execution_count < len(waiting), "nothing was batched"


@pytest.mark.parametrize("names", [(), ("AUDIO", "PCM16")])
def test_a_recogniser_wants_exactly_one_kind_of_audio(served: Served, names: tuple[str, ...]) -> None:
    kinds = {"AUDIO": np.float32, "PCM16": np.int16}
    tensors = [tensor for name in names for tensor in inputs(np.zeros((1, 100), kinds[name]))]
    text = grpc.InferInput("OPTIONS", [1, 1], "BYTES")
    text.set_data_from_numpy(np.array([[b"{}"]], dtype=np.object_))
    error = refused(served, "moonshine", [*tensors, text])
    assert type(error) is errors.InvalidRequestError
    assert "AUDIO" in error.message
    assert "PCM16" in error.message


def _start(served: Served, samples: np.ndarray[Any, Any]) -> Callable[[], Any]:
    done, box = threading.Event(), []

    def finished(result: Any, error: Any) -> None:
        box.append(error if error is not None else result)
        done.set()

    served.client.async_infer(
        "moonshine", inputs(samples[np.newaxis]), callback=finished, client_timeout=REQUEST_S
    )

    def wait() -> Any:
        assert done.wait(REQUEST_S)
        return box[0]

    return wait


def test_two_speakers_are_told_apart(served: Served, speech: np.ndarray[Any, Any]) -> None:
    answer = infer(served, "diarizer", speech, json.dumps({"max_speakers": 4}))
    check_contract(answer, DIARIZER.outputs)
    embeddings = answer.as_numpy("SPEAKER_EMBEDDING")[0]
    assert embeddings.shape[0] == 2
    assert set(answer.as_numpy("TURN_SPEAKER")[0].tolist()) == {0, 1}
    starts, ends = answer.as_numpy("EXCLUSIVE_START_MS")[0], answer.as_numpy("EXCLUSIVE_END_MS")[0]
    assert (starts[1:] >= ends[:-1]).all(), "exclusive turns overlap"


def test_a_recording_without_speech_has_no_speakers(served: Served) -> None:
    answer = infer(served, "diarizer", np.zeros(5 * SAMPLE_RATE_HZ, np.float32))
    check_contract(answer, DIARIZER.outputs)
    assert answer.as_numpy("TURN_SPEAKER").shape == (1, 0)
    assert answer.as_numpy("SPEAKER_EMBEDDING").shape[1] == 0


@pytest.mark.parametrize("model", ["moonshine", "diarizer"])
@pytest.mark.parametrize(
    ("samples", "options", "expected"),
    [
        (np.full((1, 100), np.nan, np.float32), None, errors.AudioValueError),
        (np.zeros((1, 0), np.float32), None, errors.AudioEmptyError),
        (np.zeros((1, 100), np.float32), "{", errors.InvalidRequestError),
        (np.zeros((1, 100), np.float32), '{"speakers": 2}', errors.InvalidRequestError),
    ],
)
def test_a_wrong_request_arrives_as_this_projects_error(
    served: Served, model: str, samples: np.ndarray[Any, Any], options: str | None, expected: type[Exception]
) -> None:
    error = refused(served, model, inputs(samples, options))
    assert type(error) is expected
    assert (error.model, error.host) == (model, served.url)
    assert error.fix


def test_more_than_one_recording_a_request_is_refused(served: Served) -> None:
    error = refused(served, "moonshine", inputs(np.zeros((2, 100), np.float32)))
    assert isinstance(error, errors.AudioValueError)


def test_audio_over_the_window_is_refused(served: Served) -> None:
    error = refused(served, "moonshine", inputs(np.zeros((1, 31 * SAMPLE_RATE_HZ), np.float32)))
    assert isinstance(error, errors.AudioTooLongError)
    assert "30 s" in error.message


def test_an_unknown_language_is_refused(served: Served) -> None:
    error = refused(served, "moonshine", inputs(np.zeros((1, 16_000), np.float32), '{"language": "tlh"}'))
    assert isinstance(error, errors.UnsupportedLanguageError)


def test_a_model_that_does_not_load_ends_the_build_with_the_servers_reason(
    home: Path, tmp_path: Path, server_settings: ServerSettings, tritonserver: Any
) -> None:
    models = tmp_path / "models"
    shutil.copytree(resources.model_repository(), models)
    model = models / "moonshine" / "1" / "model.py"
    model.write_text(model.read_text().replace("def initialize(self, args):", _FAILS))
    plan = make_plan({"moonshine": "embedded"}, target=machine())  # type: ignore[arg-type]
    load = server_load_check(home, server_settings, SilentProgress())
    with pytest.raises(errors.ReleaseInvalidError, match="the weights are of another kind") as caught:
        Builder(home=home, models=models, load=load).build(plan)
    assert ReleaseStore(home).ids() == ()
    log = home / "logs" / "load-check.log"
    assert str(log) in caught.value.message
    assert "the weights are of another kind" in log.read_text()
    assert list((home / "run").iterdir()) == []


_FAILS = """def initialize(self, args):
        raise RuntimeError("the weights are of another kind")"""


def test_serving_changes_nothing_in_the_release(served: Served) -> None:
    verify(served.result.release)
