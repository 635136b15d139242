"""The engine against NeMo's own `transcribe`, on tiny random checkpoints and on the project's trained one."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator import audio
from orchestrator.engines import EngineSource, Recognition, RecognitionOptions
from orchestrator.errors import (
    AudioValueError,
    ConfigurationError,
    InferenceError,
    ModelLoadError,
    UnsupportedLanguageError,
    UnsupportedModelError,
)

pytestmark = pytest.mark.integration

KINDS = ("tdt", "rnnt", "ctc", "hybrid-tdt-ctc", "hybrid-rnnt-ctc")
RUNTIMES = ("nemo", "native", "lean")
"""``lean`` is the native runtime on the files that a build makes of the checkpoint."""
TRAINED = Path(__file__).parents[3] / "orchestrator" / "training" / "checkpoint" / "parakeet-tiny.nemo"
FRAME_MS = 80.0

Load = Callable[..., Any]
NemoWord = tuple[str, int, int, float]


@pytest.fixture(scope="session")
def load(make_example: Callable[[str], Any], tmp_path_factory: pytest.TempPathFactory) -> Load:
    """Load a kind of checkpoint, once per kind and options; with NeMo unless told otherwise."""
    loaded: dict[str, Any] = {}

    def recognizer(kind: str, **options: Any) -> Any:
        from orchestrator.engines.parakeet import ParakeetRecognizer

        options = {"runtime": "nemo", **options}
        key = f"{kind} {sorted(options.items())}"
        if key not in loaded:
            folder = _folder(kind, make_example, tmp_path_factory)
            if options["runtime"] == "lean":
                options["runtime"] = "native"
                folder = _lean(folder, tmp_path_factory.mktemp("lean"))
            loaded[key] = ParakeetRecognizer(EngineSource(folder, threads=1, options=options))
        return loaded[key]

    return recognizer


def _folder(kind: str, make_example: Callable[[str], Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    if kind != "trained":
        return Path(make_example(kind).folder)
    folder = tmp_path_factory.mktemp("trained")
    (folder / "model.nemo").symlink_to(TRAINED)
    return folder


def _lean(source: Path, folder: Path) -> Path:
    from orchestrator.engines.fastconformer import artifact, checkpoint

    artifact.save(folder, *checkpoint.read(source / "model.nemo"))
    return folder


def nemo_words(
    path: Path, clips: Sequence[np.ndarray], *, ctc_head: bool = False
) -> list[tuple[str, list[NemoWord]]]:
    """Text and words by NeMo's own `transcribe`, without its two faults.

    One clip at a time the batching fault cannot show, and without a minimum duration nothing is padded.
    """
    from nemo.collections.asr.models import ASRModel
    from nemo.collections.asr.parts.mixins.transcription import TranscribeConfig
    from nemo.utils import logging as nemo_logging
    from omegaconf import open_dict

    nemo_logging.set_verbosity(nemo_logging.ERROR)
    model = ASRModel.restore_from(str(path), map_location="cpu")
    config = model.cfg.aux_ctc.decoding if ctc_head else model.cfg.decoding
    with open_dict(config):
        config.strategy = "greedy_batch"
        config.compute_timestamps = True
        config.confidence_cfg = {
            "preserve_frame_confidence": True,
            "preserve_token_confidence": True,
            "preserve_word_confidence": True,
            "exclude_blank": True,
            "aggregation": "mean",
            "method_cfg": {"name": "max_prob", "alpha": 1.0},
        }
    head = {"decoder_type": "ctc"} if ctc_head else {}
    model.change_decoding_strategy(config, verbose=False, **head)
    how = TranscribeConfig(batch_size=1, return_hypotheses=True, timestamps=True, verbose=False)
    how.pad_min_duration = 0.0
    hypotheses = model.transcribe(list(clips), timestamps=True, override_config=how)
    return [
        (
            hypothesis.text,
            [
                (
                    word["word"],
                    round(1000 * word["start"]),
                    round(1000 * word["end"]),
                    float(confidence),
                )
                for word, confidence in zip(
                    hypothesis.timestamp["word"], hypothesis.word_confidence, strict=True
                )
            ],
        )
        for hypothesis in hypotheses
    ]


def assert_same(ours: Sequence[Recognition], nemos: Sequence[tuple[str, list[NemoWord]]]) -> None:
    for recognition, (text, words) in zip(ours, nemos, strict=True):
        assert recognition.text == text
        assert [(w.text, w.start_ms, w.end_ms) for w in recognition.words] == [w[:3] for w in words]
        assert [w.confidence for w in recognition.words] == pytest.approx([w[3] for w in words], abs=1e-3)
        assert not recognition.times_estimated


def plain(recognitions: Sequence[Recognition]) -> list[list[tuple[str, int, int]]]:
    return [[(w.text, w.start_ms, w.end_ms) for w in r.words] for r in recognitions]


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("kind", KINDS)
def test_words_times_and_confidences_equal_nemos_transcribe(
    kind: str, runtime: str, load: Load, make_example: Callable[[str], Any], clips: list[np.ndarray]
) -> None:
    expected = nemo_words(make_example(kind).path, clips)
    assert sum(len(words) for _, words in expected) >= 40, "too few words to compare"
    recognizer = load(kind, runtime=runtime)
    assert_same([recognizer.recognize([clip])[0] for clip in clips], expected)
    assert_same(recognizer.recognize(clips), expected)
    assert_same(recognizer.recognize(clips[::-1]), expected[::-1])
    assert_same(load(kind, max_batch=3, runtime=runtime).recognize(clips), expected)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("kind", ["hybrid-tdt-ctc", "hybrid-rnnt-ctc"])
def test_the_ctc_head_of_a_hybrid_equals_nemos(
    kind: str, runtime: str, load: Load, make_example: Callable[[str], Any], clips: list[np.ndarray]
) -> None:
    expected = nemo_words(make_example(kind).path, clips, ctc_head=True)
    assert sum(len(words) for _, words in expected) >= 40, "too few words to compare"
    assert_same(load(kind, head="ctc", runtime=runtime).recognize(clips), expected)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_trained_checkpoint_equals_nemo(runtime: str, load: Load) -> None:
    rng = np.random.default_rng(5)
    utterances = [babble_like_speech(rng, seconds) for seconds in (0.4, 0.9, 1.5, 2.2, 3.7, 5.0)]
    spoken = dialogue_turns()
    expected = nemo_words(TRAINED, [*utterances, *spoken])
    assert sum(len(words) for _, words in expected) >= 40, "too few words to compare"
    assert_same(load("trained", runtime=runtime).recognize([*utterances, *spoken]), expected)


def dialogue_turns() -> list[np.ndarray]:
    """The turns of the recording beside the checkpoint: speech that it recognises."""
    samples = audio.decode(TRAINED.with_name("dialogue.flac")).samples[0]
    turns = json.loads(TRAINED.with_name("dialogue.json").read_text())["turns"]
    return [samples[int(turn["start_s"] * 16_000) : int(turn["end_s"] * 16_000)] for turn in turns]


def babble_like_speech(rng: np.random.Generator, seconds: float) -> np.ndarray:
    """Harmonics that glide, in syllables: closer to speech than noise is."""
    time_s = np.arange(int(seconds * 16_000)) / 16_000
    pitch_hz = 120 + 30 * np.sin(2 * np.pi * 0.7 * time_s)
    phase = 2 * np.pi * np.cumsum(pitch_hz) / 16_000
    tone = sum(np.sin(k * phase) * rng.uniform(0.2, 1.0) / k for k in range(1, 24))
    syllables = np.clip(np.sin(2 * np.pi * 3.5 * time_s + rng.uniform(0, 6)), 0, 1)
    return (0.1 * tone * syllables).astype(np.float32)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("kind", ["tdt", "rnnt", "ctc"])
@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(picks=st.lists(st.integers(0, 13), min_size=1, max_size=9))
def test_the_same_audio_gives_the_same_words_in_any_batch(
    kind: str, runtime: str, load: Load, clips: list[np.ndarray], picks: list[int]
) -> None:
    recognizer = load(kind, runtime=runtime)
    alone = [recognizer.recognize([clips[pick]])[0] for pick in picks]
    together = recognizer.recognize([clips[pick] for pick in picks])
    assert plain(together) == plain(alone)
    for one, other in zip(together, alone, strict=True):
        assert [w.confidence for w in one.words] == pytest.approx(
            [w.confidence for w in other.words], abs=1e-3
        )


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_threads_share_a_recognizer(runtime: str, load: Load, clips: list[np.ndarray]) -> None:
    recognizer = load("tdt", runtime=runtime)
    expected = plain(recognizer.recognize(clips))
    batches = [[clips[(start + step) % len(clips)] for step in range(5)] for start in range(12)]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(recognizer.recognize, batches))
    for start, result in enumerate(results):
        assert plain(result) == [expected[(start + step) % len(clips)] for step in range(5)]


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("kind", KINDS)
def test_empty_tiny_and_silent_audio_have_no_words(
    kind: str, runtime: str, load: Load, clips: list[np.ndarray]
) -> None:
    recognizer = load(kind, runtime=runtime)
    rng = np.random.default_rng(0)

    def noise(samples: int) -> np.ndarray:
        return rng.standard_normal(samples).astype(np.float32)

    wordless = [noise(0), noise(1), noise(159), noise(319), np.zeros(16_000, np.float32)]
    assert [r.words for r in recognizer.recognize(wordless)] == [()] * len(wordless)
    assert recognizer.recognize([]) == []
    # 320 samples are two feature frames, the least that the model takes.
    mixed = recognizer.recognize([noise(0), clips[7], noise(320), wordless[-1]])
    assert plain(mixed)[1] == plain(recognizer.recognize([clips[7]]))[0]
    assert [mixed[0].words, mixed[3].words] == [(), ()]


def test_languages(load: Load, clips: list[np.ndarray]) -> None:
    from orchestrator.engines.parakeet import ParakeetRecognizer

    english = load("tdt")
    assert english.info.languages == ("en",)
    assert english.recognize(clips[:1])[0].language == "en"
    assert english.recognize(clips[:1], RecognitionOptions(language="en-US"))[0].language == "en"
    with pytest.raises(UnsupportedLanguageError, match=r"'de'(.|\n)*en"):
        english.recognize(clips[:1], RecognitionOptions(language="de"))
    several: ParakeetRecognizer = load("tdt", languages=["de", "fr-CA"])
    assert several.info.languages == ("de", "fr")
    assert several.recognize(clips[:1])[0].language == "de"
    assert several.recognize(clips[:1], RecognitionOptions(language="FR"))[0].language == "fr"


def test_the_native_runtime_needs_no_nemo(make_example: Callable[[str], Any]) -> None:
    """In a process of its own, since this one has NeMo."""
    program = (
        "import sys; from pathlib import Path; from orchestrator.engines import EngineSource, load; "
        "import numpy as np; recognizer = load('parakeet', EngineSource(Path(sys.argv[1]), threads=1)); "
        "recognizer.recognize([np.random.default_rng(0).standard_normal(16000).astype(np.float32)]); "
        "print(sorted(name for name in sys.modules if name in ('nemo', 'lightning', 'transformers')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(make_example("tdt").folder)],
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (
            {"self_attention_model": "rel_pos_local_attn", "att_context_size": [64, 64]},
            "self_attention_model",
        ),
        ({"att_context_size": [70, 13]}, "att_context_size"),
        ({"conv_norm_type": "layer_norm"}, "conv_norm_type"),
        ({"subsampling": "striding"}, "subsampling"),
    ],
)
def test_what_the_native_runtime_cannot_compute_is_named(
    change: dict[str, Any], named: str, make_example: Callable[[str], Any], tmp_path: Path
) -> None:
    from orchestrator.engines.parakeet import ParakeetRecognizer

    rewrite_config(make_example("tdt").path, tmp_path / "model.nemo", change)
    with pytest.raises(UnsupportedModelError, match=named) as caught:
        ParakeetRecognizer(EngineSource(tmp_path, options={"runtime": "native"}))
    assert "runtime" in str(caught.value.fix)
    assert str(tmp_path / "model.nemo") in str(caught.value)


def rewrite_config(source: Path, target: Path, encoder: dict[str, Any]) -> None:
    """Copy a checkpoint with some keys of its encoder's configuration changed."""
    with tarfile.open(source) as old, tarfile.open(target, "w") as new:
        for member in old.getmembers():
            file = old.extractfile(member)
            if file is None:
                continue
            content = file.read()
            if member.name.endswith("model_config.yaml"):
                config = yaml.safe_load(content)
                config["encoder"] |= encoder
                content = yaml.safe_dump(config).encode()
            member.size = len(content)
            new.addfile(member, io.BytesIO(content))


def test_the_model_is_at_rest_after_loading(load: Load) -> None:
    model = load("tdt")._model.model
    assert not any(module.training for module in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert (model.preprocessor.featurizer.dither, model.preprocessor.featurizer.pad_to) == (0.0, 0)


def test_recognition_needs_no_files(
    load: Load, clips: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    recognizer = load("tdt")
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    monkeypatch.setattr("builtins.open", lambda *args, **kwargs: pytest.fail(f"opened {args[0]}"))
    assert recognizer.recognize(clips[6:8])[1].words


class CrampedEncoder:
    """The encoder of a device that fits ``limit`` recordings."""

    def __init__(self, encoder: Any, limit: int) -> None:
        self.encoder = encoder
        self.limit = limit
        self.sizes: list[int] = []

    def __call__(self, *, audio_signal: Any, length: Any) -> Any:
        import torch

        self.sizes.append(len(length))
        if len(length) > self.limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.encoder(audio_signal=audio_signal, length=length)


@pytest.fixture
def cramp(load: Load, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], tuple[Any, CrampedEncoder]]:
    def cramped(limit: int) -> tuple[Any, CrampedEncoder]:
        recognizer = load("tdt")
        encoder = CrampedEncoder(recognizer._model.model.encoder, limit)
        monkeypatch.setitem(recognizer._model.model._modules, "encoder", encoder)
        return recognizer, encoder

    return cramped


def test_a_batch_that_does_not_fit_into_memory_is_split(
    load: Load, clips: list[np.ndarray], cramp: Callable[[int], tuple[Any, CrampedEncoder]]
) -> None:
    expected = plain(load("tdt").recognize(clips[:6]))
    recognizer, encoder = cramp(2)
    assert plain(recognizer.recognize(clips[:6])) == expected
    assert max(encoder.sizes) == 6
    assert sum(size for size in encoder.sizes if size <= 2) == 6


def test_a_recording_that_does_not_fit_into_memory_is_an_error_that_says_so(
    clips: list[np.ndarray], cramp: Callable[[int], tuple[Any, CrampedEncoder]]
) -> None:
    recognizer, _ = cramp(0)
    with pytest.raises(InferenceError, match="does not fit into the memory of cpu"):
        recognizer.recognize(clips[:2])


def test_a_failing_model_is_an_inference_error(
    load: Load, clips: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    recognizer = load("tdt")

    def broken(**kwargs: Any) -> Any:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied\nlong story")

    monkeypatch.setitem(recognizer._model.model._modules, "encoder", broken)
    with pytest.raises(InferenceError, match="mat1 and mat2") as caught:
        recognizer.recognize(clips[:1])
    assert "long story" not in str(caught.value)


def test_audio_is_bounded_per_step(
    load: Load, clips: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    recognizer = load("tdt", max_padded_s=8.0)
    encoder = CrampedEncoder(recognizer._model.model.encoder, limit=99)
    monkeypatch.setitem(recognizer._model.model._modules, "encoder", encoder)
    assert plain(recognizer.recognize(clips)) == plain(load("tdt").recognize(clips))
    # Two of 4.0 s fit, 6.4 s and 7.3 s go alone; eight of up to 1 s fit.
    assert encoder.sizes[:2] == [1, 1]
    assert max(encoder.sizes) > 2


def test_memory_that_runs_out_splits_the_batch_in_the_native_runtime_too(
    load: Load, clips: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    recognizer = load("tdt", runtime="lean")
    expected = plain(recognizer.recognize(clips))
    compute = recognizer._model._compute
    encode, sizes, released = compute.encode, [], []

    def cramped(audio: Any, lengths: Any) -> Any:
        sizes.append(len(audio))
        if len(audio) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return encode(audio, lengths)

    monkeypatch.setattr(compute, "encode", cramped)
    monkeypatch.setattr(compute, "release", lambda: released.append(None))
    assert plain(recognizer.recognize(clips)) == expected
    assert max(sizes) > 3
    assert len(released) == sum(size > 3 for size in sizes)
    monkeypatch.setattr(compute, "encode", lambda audio, lengths: cramped(audio.repeat(4, 1), lengths))
    with pytest.raises(InferenceError, match="does not fit into the memory"):
        recognizer.recognize(clips[:1])


def test_a_bfloat16_release_says_what_a_float32_one_says(
    tmp_path_factory: pytest.TempPathFactory, load: Load
) -> None:
    """On the dialogue: the same words at the same times; confidences differ by less than 0.02."""
    from dataclasses import replace

    from orchestrator.engines.fastconformer import artifact, checkpoint
    from orchestrator.engines.parakeet import ParakeetRecognizer

    folder = tmp_path_factory.mktemp("bfloat16")
    description, weights = checkpoint.read(TRAINED)
    artifact.save(folder, replace(description, precision="bfloat16"), weights)
    whole = audio.decode(TRAINED.with_name("dialogue.flac")).samples[0]
    expected = load("trained").recognize([whole, *dialogue_turns()])
    assert (folder / "model.safetensors").stat().st_size < 0.55 * 4 * sum(w.numel() for w in weights.values())
    for precision in ("auto", "bfloat16"):
        source = EngineSource(folder, threads=1, options={"precision": precision})
        found = ParakeetRecognizer(source).recognize([whole, *dialogue_turns()])
        assert plain(found) == plain(expected)
        for have, want in zip(found, expected, strict=True):
            assert [w.confidence for w in have.words] == pytest.approx(
                [w.confidence for w in want.words], abs=0.02
            )


@pytest.fixture
def graphs_on_cpu(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the TDT model's head go through what it does for graphs, with nothing captured."""
    from orchestrator.engines import nemo_decoding

    monkeypatch.setattr(nemo_decoding, "_new_pool", object)
    monkeypatch.setattr(nemo_decoding, "_allocating_from", lambda pool: contextlib.nullcontext())
    head = load("tdt")._model.head
    for name, value in (("_graphs", True), ("_captured", (0, 0)), ("_pool", None)):
        monkeypatch.setattr(head, name, value)


def test_decoding_goes_on_without_cuda_graphs_when_they_fail(
    load: Load,
    graphs_on_cpu: None,
    clips: list[np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    recognizer = load("tdt")
    expected = plain(recognizer.recognize(clips))
    shapes: list[tuple[int, ...]] = []

    def capture_fails(*, x: Any, out_len: Any) -> Any:
        shapes.append(tuple(x.shape[:2]))
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(recognizer._model.head, "_computer", capture_fails)
    with caplog.at_level(logging.WARNING):
        assert plain(recognizer.recognize(clips)) == expected
        assert plain(recognizer.recognize(clips)) == expected
    assert len(shapes) == 1, "tried again after a failure"
    assert caplog.text.count("without") == 1


def test_captured_graphs_only_ever_grow_and_hold_their_memory(
    load: Load, graphs_on_cpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    head = load("tdt")._model.head
    pools: list[Any] = []

    def decoded(rows: int, frames: int) -> tuple[tuple[int, ...], list[int]]:
        seen: list[tuple[tuple[int, ...], list[int]]] = []

        def note(encoded: Any, lengths: Any, kept: int) -> str:
            seen.append((tuple(encoded.shape), lengths.tolist()))
            assert kept == rows
            return "tokens"

        monkeypatch.setattr(head, "_decode", note)
        assert head.decode(torch.ones(rows, 32, frames), torch.full((rows,), frames)) == "tokens"
        pools.append(head._pool)
        return seen[0]

    assert decoded(2, 10) == ((2, 32, 10), [10, 10])
    assert decoded(1, 20) == ((2, 32, 20), [20, 0])
    assert decoded(1, 5) == ((1, 32, 5), [5])  # fits what was captured
    assert decoded(3, 5) == ((3, 32, 20), [5, 5, 5])
    assert [pools[0] is pools[1], pools[1] is pools[2], pools[2] is pools[3]] == [False, True, False]


def test_memory_that_runs_out_in_a_graph_lets_go_of_the_graph(
    load: Load, graphs_on_cpu: None, clips: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    recognizer = load("tdt")
    expected = plain(recognizer.recognize(clips[:6]))
    computer = recognizer._model.head._computer
    reset: list[None] = []

    class Cramped:
        _blank_index = computer._blank_index

        def __call__(self, *, x: Any, out_len: Any) -> Any:
            if len(x) > 3:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return computer(x=x, out_len=out_len)

        def reset_cuda_graphs_state(self) -> None:
            reset.append(None)

    monkeypatch.setattr(recognizer._model.head, "_computer", Cramped())
    assert plain(recognizer.recognize(clips[:6])) == expected
    assert len(reset) == 1
    assert recognizer._model.head._captured[0] == 3


@pytest.mark.parametrize(
    ("options", "named"),
    [({"langs": ["en"]}, "langs"), ({"max_batch": 0}, "max_batch"), ({"head": "x"}, "head")],
)
def test_wrong_options_are_named(
    make_example: Callable[[str], Any], options: dict[str, Any], named: str
) -> None:
    from orchestrator.engines.parakeet import load as load_engine

    with pytest.raises(ConfigurationError, match=named):
        load_engine(EngineSource(make_example("tdt").folder, options=options))


@pytest.mark.parametrize(
    ("device", "error"),
    [("gpu", ConfigurationError), ("cuda:99", ModelLoadError), ("meta:x", ConfigurationError)],
)
def test_a_wrong_device_is_named(
    make_example: Callable[[str], Any], device: str, error: type[Exception]
) -> None:
    from orchestrator.engines.parakeet import load as load_engine

    with pytest.raises(error, match=device):
        load_engine(EngineSource(make_example("tdt").folder, device=device))


@pytest.mark.parametrize(
    "samples",
    [
        np.array([0.1, np.nan], dtype=np.float32),
        np.array([0.1, np.inf], dtype=np.float32),
        np.zeros((2, 100), dtype=np.float32),
        np.zeros(100, dtype=np.int32),
    ],
)
def test_unusable_samples_are_refused(load: Load, clips: list[np.ndarray], samples: np.ndarray) -> None:
    with pytest.raises(AudioValueError, match="Recording 1"):
        load("tdt").recognize([clips[0], samples])


def rewrite(source: Path, target: Path, mode: str = "w:", **contents: bytes) -> None:
    """Copy an archive with other ``contents`` of its files, named up to the dot."""
    with tarfile.open(source) as old, tarfile.open(target, mode) as new:
        for member in old.getmembers():
            data = old.extractfile(member).read() if member.isfile() else b""
            data = contents.get(Path(member.name).stem, data)
            member.size = len(data)
            new.addfile(member, io.BytesIO(data) if member.isfile() else None)


def _weights(source: Path) -> bytes:
    with tarfile.open(source) as archive:
        return archive.extractfile("./model_weights.ckpt").read()


@pytest.mark.parametrize("fault", ["garbage", "truncated", "another model's"])
def test_corrupt_weights_are_refused_by_name(
    make_example: Callable[[str], Any],
    tmp_path: Path,
    fault: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    from orchestrator.engines.parakeet import load as load_engine

    source = make_example("tdt").path
    weights = {
        "garbage": lambda: b"not weights",
        "truncated": lambda: _weights(source)[:-5000],
        "another model's": lambda: _weights(make_example("rnnt").path),
    }[fault]()
    rewrite(source, tmp_path / "model.nemo", model_weights=weights)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    with pytest.raises(ModelLoadError) as caught:
        load_engine(EngineSource(tmp_path))
    assert str(tmp_path / "model.nemo") in str(caught.value)
    assert caught.value.fix
    assert list(temporary.iterdir()) == []
    # The next load is not harmed by the failed one.
    load_engine(EngineSource(make_example("tdt").folder))
    assert list(temporary.iterdir()) == []
    assert "Traceback" not in "".join(capfd.readouterr())


def test_an_old_gzipped_checkpoint_loads(
    load: Load, make_example: Callable[[str], Any], tmp_path: Path, clips: list[np.ndarray]
) -> None:
    from orchestrator.engines.parakeet import load as load_engine

    rewrite(make_example("tdt").path, tmp_path / "model.nemo", mode="w:gz")
    assert plain(load_engine(EngineSource(tmp_path)).recognize(clips)) == plain(load("tdt").recognize(clips))


def test_loading_says_nothing_and_leaves_the_callers_folder(
    make_example: Callable[[str], Any], capfd: pytest.CaptureFixture[str]
) -> None:
    from orchestrator.engines.parakeet import load as load_engine

    before = Path.cwd()
    capfd.readouterr()
    recognizer = load_engine(EngineSource(make_example("rnnt").folder))
    recognizer.recognize([np.ones(16_000, dtype=np.float32)])
    assert capfd.readouterr() == ("", "")
    assert Path.cwd() == before


def test_compiling_a_cuda_graph_leaves_pythons_spaces_alone(
    load: Load, graphs_on_cpu: None, clips: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    from nemo.core.utils import cuda_python_utils

    class Compiler:
        """Notes the buffers it is given for its log; the real one writes into them."""

        class nvrtcResult:  # noqa: N801
            NVRTC_SUCCESS = 0

        written: ClassVar[list[bytes]] = []

        def nvrtcGetProgramLog(self, program: object, log: bytes) -> tuple[int]:  # noqa: N802
            self.written.append(log)
            return (0,)

        def nvrtcGetPTXSize(self, program: object) -> tuple[int, int]:  # noqa: N802
            return (0, 7)

    compiler = Compiler()
    monkeypatch.setattr(cuda_python_utils, "nvrtc", compiler)
    recognizer = load("tdt")
    computer = recognizer._model.head._computer
    seen: list[tuple[int, int]] = []

    def capture(*, x: Any, out_len: Any) -> Any:
        nvrtc = cuda_python_utils.nvrtc
        assert nvrtc.nvrtcGetProgramLog(None, b" " * 1) == (nvrtc.nvrtcResult.NVRTC_SUCCESS,)
        seen.append(nvrtc.nvrtcGetPTXSize(None))
        return computer(x=x, out_len=out_len)

    monkeypatch.setattr(recognizer._model.head, "_computer", capture)
    monkeypatch.setattr(capture, "_blank_index", computer._blank_index, raising=False)
    assert recognizer.recognize(clips[8:9])[0].words
    assert seen == [(0, 7)]
    assert compiler.written == []
    assert cuda_python_utils.nvrtc is compiler
