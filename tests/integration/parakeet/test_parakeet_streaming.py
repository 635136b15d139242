"""Live streams on real checkpoints, against the same checkpoint on the whole recording."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator import audio
from orchestrator.engines import EngineSource, RecognizedWord
from orchestrator.engines.endpointing import EndpointingOptions
from orchestrator.engines.streaming import Chunk, StreamOptions
from orchestrator.errors import ConfigurationError, ModelLoadError

pytestmark = pytest.mark.integration

CHECKPOINT = Path(__file__).parents[3] / "orchestrator" / "training" / "checkpoint"
PRESETS = ("low_latency", "balanced", "throughput")
NEVER = StreamOptions(endpointing=EndpointingOptions(stop_history_ms=600_000, max_utterance_s=120))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    (folder / "model.nemo").symlink_to(CHECKPOINT / "parakeet-tiny.nemo")
    return folder


@pytest.fixture(scope="module")
def dialogue() -> np.ndarray:
    return audio.decode(CHECKPOINT / "dialogue.flac").samples[0]


@pytest.fixture(scope="module")
def text() -> str:
    said: str = json.loads((CHECKPOINT / "dialogue.json").read_text())["text"]
    return said


def streaming(folder: Path, *, device: str = "cpu", **options: Any) -> Any:
    from orchestrator.engines import load_streaming

    return load_streaming("parakeet_streaming", EngineSource(folder, device, threads=1, options=options))


def offline(folder: Path, clips: Sequence[np.ndarray], **options: Any) -> list[tuple[RecognizedWord, ...]]:
    from orchestrator.engines import load

    source = EngineSource(folder, threads=1, options={"runtime": "native", **options})
    return [found.words for found in load("parakeet", source).recognize(clips)]


def spoken(
    engine: Any, recordings: Sequence[np.ndarray], sizes: Callable[[int], int], options: StreamOptions
) -> list[list[RecognizedWord]]:
    """The finals of all recordings, streamed at once; stream ``k`` sends ``sizes(k)`` samples a step."""
    streams = [engine.open(options) for _ in recordings]
    found: list[list[RecognizedWord]] = [[] for _ in recordings]
    sent = [0] * len(recordings)
    ended: set[int] = set()
    while len(ended) < len(recordings):
        chunks, rows = [], []
        for row, recording in enumerate(recordings):
            if row in ended:
                continue
            end = sent[row] + sizes(row)
            chunks.append(Chunk(streams[row], recording[sent[row] : end], last=end >= recording.size))
            sent[row] = end
            rows.append(row)
        for row, chunk, update in zip(rows, chunks, engine.step(chunks), strict=True):
            found[row] += [word for segment in update.segments if segment.final for word in segment.words]
            if chunk.last:
                ended.add(row)
    return found


def same(found: Sequence[RecognizedWord], wanted: Sequence[RecognizedWord]) -> None:
    assert [(w.text, w.start_ms, w.end_ms) for w in found] == [(w.text, w.start_ms, w.end_ms) for w in wanted]
    assert [w.confidence for w in found] == pytest.approx([w.confidence for w in wanted], abs=1e-4)


def test_words_times_and_confidences_are_those_of_the_recording_where_the_context_covers_it(
    trained: Path, dialogue: np.ndarray, text: str
) -> None:
    engine = streaming(trained, chunk_ms=560, left_ms=24_000, right_ms=24_000, max_streams=1)
    (wanted,) = offline(trained, [dialogue])
    (found,) = spoken(engine, [dialogue], lambda _: 8960, NEVER)
    same(found, wanted)
    assert " ".join(word.text for word in found) == text


@pytest.mark.parametrize("kind", ["tdt", "rnnt", "ctc", "hybrid-rnnt-ctc"])
def test_every_head_says_the_same_live_and_from_a_file(
    kind: str, make_example: Callable[[str], Any], clips: list[np.ndarray]
) -> None:
    folder = make_example(kind).folder
    for head in ("transducer", "ctc") if "-" in kind else ("transducer",):
        engine = streaming(
            folder, chunk_ms=400, left_ms=8000, right_ms=8000, max_streams=len(clips), head=head
        )
        wanted = offline(folder, clips, head=head)
        assert sum(map(len, wanted)) > 30
        for found, words in zip(spoken(engine, clips, lambda _: 6400, NEVER), wanted, strict=True):
            same(found, words)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_hears_the_dialogue(trained: Path, dialogue: np.ndarray, text: str, preset: str) -> None:
    engine = streaming(trained, preset=preset, max_streams=1)
    (found,) = spoken(engine, [dialogue], lambda _: engine.info.chunk_ms * 16, StreamOptions())
    assert " ".join(word.text for word in found) == text
    (wanted,) = offline(trained, [dialogue])
    assert max(abs(a.start_ms - b.start_ms) for a, b in zip(found, wanted, strict=True)) <= 160


def test_many_streams_say_what_each_says_alone(trained: Path, dialogue: np.ndarray) -> None:
    recordings = [dialogue[begin : begin + 70_000] for begin in range(0, 280_000, 40_000)]
    engine = streaming(trained, preset="balanced", max_streams=len(recordings))
    alone = [spoken(engine, [one], lambda _: 8960, StreamOptions())[0] for one in recordings]
    together = spoken(engine, recordings, lambda row: 3000 + 2777 * row, StreamOptions())
    assert sum(map(len, alone)) > 50
    for one, other in zip(alone, together, strict=True):
        assert [(w.text, w.start_ms, w.end_ms) for w in one] == [
            (w.text, w.start_ms, w.end_ms) for w in other
        ]


def test_a_detector_finds_the_turns_of_the_dialogue(trained: Path, dialogue: np.ndarray) -> None:
    engine = streaming(trained, preset="balanced", max_streams=1)
    options = StreamOptions(endpointing=EndpointingOptions(speech_from="vad", stop_history_ms=320))
    stream = engine.open(options)
    turns = json.loads((CHECKPOINT / "dialogue.json").read_text())["turns"]
    finals: list[str] = []
    for begin in range(0, dialogue.size, 8960):
        last = begin + 8960 >= dialogue.size
        update = engine.step([Chunk(stream, dialogue[begin : begin + 8960], last=last)])[0]
        finals += [" ".join(w.text for w in s.words) for s in update.segments if s.final]
    assert finals == [turn["text"] for turn in turns]


def test_a_lean_folder_serves_live_streams_too(trained: Path, dialogue: np.ndarray, tmp_path: Path) -> None:
    from orchestrator.engines.fastconformer import artifact, checkpoint

    artifact.save(tmp_path, *checkpoint.read(trained / "model.nemo"))
    recordings = [dialogue[:100_000]]
    lean, full = (
        spoken(streaming(folder, max_streams=1), recordings, lambda _: 8960, StreamOptions())
        for folder in (tmp_path, trained)
    )
    assert lean == full


def test_what_cannot_be_loaded_is_said(tmp_path: Path, trained: Path) -> None:
    with pytest.raises(ModelLoadError):
        streaming(tmp_path)
    with pytest.raises(ConfigurationError, match="chunk_ms"):
        streaming(trained, chunk_ms=100)
    with pytest.raises(ModelLoadError, match="not there"):
        streaming(trained, device="cuda:99")
    with pytest.raises(ConfigurationError, match="no torch device"):
        streaming(trained, device="gpu7")


@pytest.mark.parametrize("preset", ["low_latency", "balanced"])
def test_a_stream_begun_anew_where_the_rest_is_needed_loses_and_repeats_no_word(
    trained: Path, dialogue: np.ndarray, text: str, preset: str
) -> None:
    engine = streaming(trained, preset=preset)
    # So short a pause that utterances end between the words of a sentence, where voices do not stop.
    options = StreamOptions(endpointing=EndpointingOptions(stop_history_ms=320))
    step = engine.info.chunk_ms * 16
    stream = engine.open(options)
    cuts: dict[int, int] = {}
    said: list[str] = []
    for begin in range(0, dialogue.size, step):
        last = begin + step >= dialogue.size
        (update,) = engine.step([Chunk(stream, dialogue[begin : begin + step], last=last)])
        said += [word.text for segment in update.segments if segment.final for word in segment.words]
        if not last:
            cuts[update.final_ms * 16] = len(said)
    assert " ".join(said) == text
    assert len(cuts) > 10
    rests = spoken(engine, [dialogue[cut:] for cut in cuts], lambda _: step, options)
    assert {
        cut: [*said[:count], *(word.text for word in rest)]
        for (cut, count), rest in zip(cuts.items(), rests, strict=True)
    } == dict.fromkeys(cuts, said)
