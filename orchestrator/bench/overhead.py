"""What Triton and the client add to an engine: the same audio through both, side by side.

Each round recognises a batch of equal recordings in this process and then through the server, one request a
recording, all at once. The figure is the ratio within a round, so that a machine whose speed drifts does not
decide it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from orchestrator.bench.report import Report, Row, versions
from orchestrator.client import SpeechClient
from orchestrator.contract import SAMPLE_RATE_HZ
from orchestrator.engines.base import Recognizer, Samples
from orchestrator.errors import AudioValueError
from orchestrator.progress import ProgressReporter, SilentProgress

BATCHES: Final = (1, 2, 4, 8)
ROUNDS: Final = 5


def run(
    recognizer: Recognizer,
    client: SpeechClient,
    speech: Samples,
    *,
    batches: Sequence[int] = BATCHES,
    rounds: int = ROUNDS,
    progress: ProgressReporter | None = None,
) -> Report:
    """Measure.

    Args:
        recognizer: the engine in this process; the server must serve the same under its name.
        client: connected to that server.
        speech: one recording, shorter than a window of the client.
        batches: recordings at once.
        rounds: for each batch size, after one that is not counted.
        progress: where to say how far it is.

    Raises:
        AudioValueError: the two sides did not hear the same words, so that there is nothing to compare.
        ServiceError: the server failed.
    """
    task = (progress or SilentProgress()).task("overhead", total=len(batches) * (rounds + 1))
    rows: list[Row] = []
    engine = recognizer.info.name
    with ThreadPoolExecutor(max(batches)) as pool:
        for done, size in enumerate(batches):
            pairs = []
            for turn in range(rounds + 1):
                begin = time.perf_counter()
                here = [found.text for found in recognizer.recognize([speech] * size)]
                middle = time.perf_counter()
                there = list(pool.map(lambda _: _through(client, engine, speech), range(size)))
                end = time.perf_counter()
                if here != there:
                    raise AudioValueError(
                        f"{engine} heard other words through the server than in this process",
                        fix="build and start the release again",
                        model=engine,
                    )
                pairs.append((middle - begin, end - middle))
                task.update(completed=done * (rounds + 1) + turn + 1)
            rows.append(_row(size, len(speech) / SAMPLE_RATE_HZ, pairs[1:]))
    task.finish()
    return Report(
        title=f"{engine}: Triton and the client over the engine in this process",
        command="spark-speech bench overhead",
        rows=rows,
        notes=(f"Medians of {rounds} rounds; overhead is the median of the ratios within a round, minus 1.",),
        versions=versions(("moonshine-voice", "nemo_toolkit", "torch", "tritonclient")),
    )


def _through(client: SpeechClient, engine: str, speech: Samples) -> str:
    return client.transcribe(speech, sample_rate=SAMPLE_RATE_HZ, engine=engine, diarize=False).text


def _row(size: int, audio_s: float, pairs: Sequence[tuple[float, float]]) -> Row:
    ratios = sorted(there / here for here, there in pairs)
    through_s = statistics.median(there for _, there in pairs)
    return {
        "batch": size,
        "audio_s": round(audio_s * size, 1),
        "in_process_s": statistics.median(here for here, _ in pairs),
        "through_triton_s": through_s,
        "overhead": statistics.median(ratios) - 1,
        "lowest": ratios[0] - 1,
        "highest": ratios[-1] - 1,
        "RTFx": audio_s * size / through_s,
    }
