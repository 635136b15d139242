"""The measurements: the engine here, then the same recordings through Triton, in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from orchestrator.bench.throughput.clients import Clients, Outcome, request_bytes
from orchestrator.bench.throughput.clips import batch, clips, write_wav
from orchestrator.bench.throughput.rows import Line, latencies, timed
from orchestrator.bench.throughput.server import MODEL, Asked
from orchestrator.client import SpeechClient
from orchestrator.contract import SAMPLE_RATE_HZ
from orchestrator.engines.base import PCM16_SCALE, Pcm16, Recognizer
from orchestrator.progress import ProgressTask
from orchestrator.settings import Settings

ENGINE: Final = "engine in this process"
ALONE_S: Final = 10.0
ALONE_TIMES: Final = 50
_WARM_TIMES: Final = 3
_LONG_TIMES: Final = 3
_NS_PER_MS: Final = 1e6


@dataclass(frozen=True, slots=True)
class Measure:
    """How much is measured.

    Attributes:
        batches: recordings in one call of the engine; the server's largest batch is the last.
        clip_s: length of each, in seconds.
        repeats: calls for one figure of the engine, after one that is not counted.
        rounds: turns of engine and server.
        fill: recordings sent in a turn, in largest batches.
        in_flight: recordings sent at once; more than a batch, so that the next one waits already.
        long_s: length of the long recording, in seconds; 0 leaves it out.
    """

    batches: tuple[int, ...]
    clip_s: float = 20.0
    repeats: int = 5
    rounds: int = 3
    fill: int = 10
    in_flight: int = 256
    long_s: float = 3600.0

    @property
    def most(self) -> int:
        """The largest batch."""
        return max(self.batches)


def engine_alone(
    recognizer: Recognizer, sound: Pcm16, measure: Measure, task: ProgressTask, *, what: str = ENGINE
) -> list[Line]:
    """The engine's time for each size of batch, and for 10 s alone."""
    lines = []
    pieces = clips(sound, measure.clip_s)
    for size in measure.batches:
        walls, words = _walls(recognizer, batch(pieces, size), measure.repeats)
        lines.append(timed(what, measure.clip_s, size, walls, words))
        task.update(description=f"{what}: batch {size}")
    walls, words = _walls(recognizer, clips(sound, ALONE_S)[:1], ALONE_TIMES)
    return [*lines, timed(f"{what}: one alone", ALONE_S, 1, walls, words)]


def through_triton(
    recognizer: Recognizer,
    server: Asked,
    clients: Clients,
    sound: Pcm16,
    measure: Measure,
    task: ProgressTask,
    *,
    what: str,
) -> list[Line]:
    """Recordings through the server beside the engine here, turn by turn; then what carrying them costs."""
    pieces = clips(sound, measure.clip_s)
    whole = batch(pieces, measure.most)
    count = measure.fill * measure.most
    audio_s = count * measure.clip_s
    _send(server, clients, pieces, count, measure)  # all instances meet all sizes of batches
    ratios, walls, words, cores, calls = [], [], 0, 0.0, 0
    for turn in range(measure.rounds):
        task.update(description=f"{what}: turn {turn + 1}")
        here = statistics.median(_walls(recognizer, whole, measure.repeats, warm=0)[0])
        before = server.counts()
        outcome = _send(server, clients, pieces, count, measure)
        calls += server.counts_after(before, count).calls
        walls.append(outcome.end - outcome.start)
        ratios.append(walls[-1] / (here * measure.fill) - 1)
        words, cores = outcome.words, outcome.cpu_s / walls[-1]
    wall = statistics.median(walls)
    line = Line(
        what=what,
        clip_s=measure.clip_s,
        batch=measure.rounds * count / calls,
        audio_s=audio_s,
        wall_s=wall,
        rtfx=audio_s / wall,
        versus_engine=statistics.median(ratios),
        words_per_s=words / audio_s,
        client_cores=cores,
    )
    return [line, _carried(server, clients, measure, what)]


def alone(server: Asked, sound: Pcm16, *, what: str) -> list[Line]:
    """One recording of 10 s at a time: in the server (queue and model), and as its client sees it."""
    request = request_bytes(MODEL, clips(sound, ALONE_S)[0].tobytes())
    inside, outside = [], []
    for number in range(ALONE_TIMES + _WARM_TIMES):
        before = server.counts()
        begin = time.perf_counter()
        server.infer(request)
        end = time.perf_counter()
        spent = server.counts_after(before, 1)
        if number >= _WARM_TIMES:
            inside.append((spent.queue_ns + spent.compute_ns) / _NS_PER_MS)
            outside.append(1000 * (end - begin))
    return [
        latencies(f"{what}: one alone, time in the server", ALONE_S, inside),
        latencies(f"{what}: one alone, time for its client", ALONE_S, outside),
    ]


def long_recording(
    settings: Settings, server: Asked, sound: Pcm16, folder: Path, seconds: float, *, what: str
) -> Line:
    """One long WAV file through `SpeechClient.transcribe`, file to transcript."""
    path = folder / "long.wav"
    write_wav(path, sound, seconds)
    walls, words = [], 0
    with SpeechClient(server.url, settings=settings) as client:
        for number in range(1 + _LONG_TIMES):
            begin, cpu = time.perf_counter(), time.process_time()
            words = len(client.transcribe(path, diarize=False, engine=MODEL).words)
            wall = time.perf_counter() - begin
            cores = (time.process_time() - cpu) / wall
            if number:
                walls.append(wall)
    wall = statistics.median(walls)
    return Line(
        what=f"{what}: one recording, SpeechClient, file to transcript",
        clip_s=seconds,
        audio_s=seconds,
        wall_s=wall,
        rtfx=seconds / wall,
        words_per_s=words / seconds,
        client_cores=cores,
    )


def _carried(server: Asked, clients: Clients, measure: Measure, what: str) -> Line:
    """Digital silence, which the engine answers at once: what is left is the way there and back."""
    silence = [np.zeros(round(measure.clip_s * SAMPLE_RATE_HZ), np.int16)]
    count = measure.fill * measure.most
    _send(server, clients, silence, measure.in_flight, measure)
    before = server.counts()
    outcome = _send(server, clients, silence, count, measure)
    calls = server.counts_after(before, count).calls
    wall, audio_s = outcome.end - outcome.start, count * measure.clip_s
    return Line(
        what=f"{what}: transport alone (silence)",
        clip_s=measure.clip_s,
        batch=count / calls,
        audio_s=audio_s,
        wall_s=wall,
        rtfx=audio_s / wall,
        words_per_s=outcome.words / audio_s,
        client_cores=outcome.cpu_s / wall,
    )


def _send(server: Asked, clients: Clients, pieces: Sequence[Pcm16], count: int, measure: Measure) -> Outcome:
    return clients.send(server.url, MODEL, pieces, count=count, in_flight=measure.in_flight)


def _walls(
    recognizer: Recognizer, recordings: Sequence[Pcm16], repeats: int, *, warm: int = 1
) -> tuple[list[float], int]:
    """Times of ``repeats`` calls, in seconds, and the words that one found."""
    walls, words = [], 0
    for number in range(warm + repeats):
        begin = time.perf_counter()
        found = recognizer.recognize(_taken(recognizer, recordings))
        if number >= warm:
            walls.append(time.perf_counter() - begin)
        words = sum(len(recognition.words) for recognition in found)
    return walls, words


def _taken(recognizer: Recognizer, recordings: Sequence[Pcm16]) -> Sequence[Any]:
    if recognizer.takes_pcm16:
        return recordings
    return [recording.astype(np.float32) / np.float32(PCM16_SCALE) for recording in recordings]
