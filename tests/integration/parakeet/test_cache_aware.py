"""Cache-aware checkpoints: the encoder against NeMo's, at once and chunk by chunk, and live streams on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.engines import EngineSource
from orchestrator.engines.endpointing import EndpointingOptions
from orchestrator.engines.streaming import Chunk, StreamOptions
from orchestrator.errors import ConfigurationError

pytestmark = pytest.mark.integration

KINDS = ("causal-rnnt", "causal-tdt")
NEVER = StreamOptions(endpointing=EndpointingOptions(stop_history_ms=600_000, max_utterance_s=120))
CHUNK = 2560
FRAME_MS = 80


def nemo(path: Path) -> Any:
    from nemo.collections.asr.models import ASRModel

    model = ASRModel.restore_from(str(path), map_location="cpu").eval()
    model.preprocessor.featurizer.dither = 0.0
    model.preprocessor.featurizer.pad_to = 0
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_the_encoder_is_nemos(kind: str, make_example: Callable[[str], Any], clips: list[np.ndarray]) -> None:
    import torch

    from orchestrator.engines.fastconformer import checkpoint

    example = make_example(kind)
    model = nemo(example.path)
    network, _ = checkpoint.load(example.path, torch.device("cpu"), prefer_ctc=False)
    for clip in clips:
        samples, length = torch.from_numpy(clip)[None], torch.tensor([clip.size])
        with torch.inference_mode():
            features, frames = model.preprocessor(input_signal=samples, length=length)
            wanted, count = model.encoder(audio_signal=features, length=frames)
            found, found_count = network.encoder(*network.features(samples, length))
        assert found_count.tolist() == count.tolist()
        torch.testing.assert_close(
            found[:, : int(count)], wanted.transpose(1, 2)[:, : int(count)], atol=1e-4, rtol=0
        )


def streamed_by_nemo(model: Any, clip: np.ndarray) -> tuple[list[int], list[int]]:
    """Ids and frames of the tokens that NeMo's own cache-aware streaming finds."""
    import torch
    from nemo.collections.asr.parts.utils.streaming_utils import CacheAwareStreamingAudioBuffer

    buffer = CacheAwareStreamingAudioBuffer(model=model)
    buffer.append_audio(clip, stream_id=-1)
    caches = model.encoder.get_initial_cache_state(batch_size=1)
    hypotheses = predictions = None
    for number, (chunk, lengths) in enumerate(buffer):
        drop = 0 if number == 0 else model.encoder.streaming_cfg.drop_extra_pre_encoded
        with torch.inference_mode():
            predictions, _, *caches, hypotheses = model.conformer_stream_step(
                processed_signal=chunk,
                processed_signal_length=lengths,
                cache_last_channel=caches[0],
                cache_last_time=caches[1],
                cache_last_channel_len=caches[2],
                keep_all_outputs=buffer.is_buffer_empty(),
                previous_hypotheses=hypotheses,
                previous_pred_out=predictions,
                drop_extra_pre_encoded=drop,
            )
    assert hypotheses is not None
    (hypothesis,) = hypotheses
    frames = hypothesis.timestamp
    frames = frames["timestep"] if isinstance(frames, dict) else frames
    return [int(token) for token in hypothesis.y_sequence], [int(frame) for frame in frames]


def streaming(folder: Path, **options: Any) -> Any:
    from orchestrator.engines import load_streaming

    return load_streaming("parakeet_streaming", EngineSource(folder, threads=1, options=options))


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_has_the_tokens_of_nemos_own_streaming(
    kind: str,
    make_example: Callable[[str], Any],
    clips: list[np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    example = make_example(kind)
    model = nemo(example.path)
    engine = streaming(example.folder, max_streams=1)
    found: list[tuple[int, int]] = []
    step = engine._pool.step

    def listening(*args: Any, **kwargs: Any) -> Any:
        heard = step(*args, **kwargs)
        found.extend((token[0], token[1]) for part in heard for token in part.committed)
        return heard

    monkeypatch.setattr(engine._pool, "step", listening)
    compared = 0
    for clip in clips:
        found.clear()
        stream = engine.open(NEVER)
        for begin in range(0, clip.size, CHUNK):
            engine.step([Chunk(stream, clip[begin : begin + CHUNK], last=begin + CHUNK >= clip.size)])
        ids, frames = streamed_by_nemo(model, clip)
        # NeMo's last chunk is another: it gives one or two frames more, after the end of the audio.
        end = clip.size // CHUNK * 2
        wanted = [pair for pair in zip(ids, frames, strict=True) if pair[1] < end]
        assert [pair for pair in found if pair[1] < end] == wanted
        compared += len(wanted)
    assert compared > 50


@pytest.mark.parametrize("kind", KINDS)
def test_streams_together_say_what_each_says_alone(
    kind: str, make_example: Callable[[str], Any], clips: list[np.ndarray]
) -> None:
    engine = streaming(make_example(kind).folder, max_streams=5, max_batch=3)
    recordings = clips[-5:]

    def said(rows: list[int], size: Callable[[int], int]) -> list[list[tuple[str, int]]]:
        streams = {row: engine.open(NEVER) for row in rows}
        found: dict[int, list[tuple[str, int]]] = {row: [] for row in rows}
        sent = dict.fromkeys(rows, 0)
        while streams:
            chunks = []
            for row, stream in streams.items():
                end = sent[row] + size(row)
                chunks.append(Chunk(stream, recordings[row][sent[row] : end], end >= recordings[row].size))
                sent[row] = end
            for (row, _), chunk, update in zip(
                list(streams.items()), chunks, engine.step(chunks), strict=True
            ):
                found[row] += [
                    (word.text, word.start_ms) for s in update.segments if s.final for word in s.words
                ]
                if chunk.last:
                    del streams[row]
        return [found[row] for row in rows]

    alone = [said([row], lambda _: CHUNK)[0] for row in range(5)]
    assert sum(map(len, alone)) > 10
    assert said(list(range(5)), lambda row: 1111 + 1777 * row) == alone
    assert said(list(range(5)), lambda _: CHUNK) == alone


def test_the_chunk_is_the_checkpoints(make_example: Callable[[str], Any]) -> None:
    folder = make_example("causal-rnnt").folder
    info = streaming(folder, max_streams=1).info
    assert (info.chunk_ms, info.left_ms, info.right_ms) == (2 * FRAME_MS, 8 * FRAME_MS, 0)
    with pytest.raises(ConfigurationError, match="chunks of 160 ms"):
        streaming(folder, max_streams=1, chunk_ms=560)
