"""DER of speakers found while a recording is heard as a live stream, beside the diarizer on the whole of it.

The recording is cut into utterances as a live stream cuts it: Silero's voice activity in frames of 80 ms,
and the endpointing that streams have by default. Each utterance goes through the client's own
`orchestrator.client.stream.speakers`, with a diarizer in this process. Four DERs of the same recording:

- ``der_live``: each utterance with the speakers it was first given;
- ``der_corrected``: after the corrections inside the horizon;
- ``der_relabelled``: after the pass over the whole stream at its end, as 16-bit audio;
- ``der_offline``: the diarizer on the recording.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from orchestrator import audio
from orchestrator.bench.diarization import PACKAGES, Span, score
from orchestrator.bench.recordings import Recording, packaged
from orchestrator.bench.report import Cell, Report, versions
from orchestrator.client.stream.codec import Pcm16
from orchestrator.client.stream.speakers import LiveSpeakers, SpeakerOptions
from orchestrator.contract import SAMPLE_RATE_HZ
from orchestrator.diarization.base import Diarization, DiarizationOptions, SpeakerTurn
from orchestrator.diarization.labels import NO_SPEAKER
from orchestrator.engines.base import Samples
from orchestrator.engines.endpointing import Endpointer, EndpointingOptions
from orchestrator.progress import ProgressReporter, SilentProgress
from orchestrator.transcript.models import Segment

if TYPE_CHECKING:
    from orchestrator.diarization.pipeline import Diarizer

FRAME_MS: Final = 80
PARTIAL_MS: Final = 560
"""How often a partial comes, as with the streaming model's preset "balanced"."""
MS_PER_S: Final = 1000
_SAMPLES_PER_MS: Final = SAMPLE_RATE_HZ // MS_PER_S
_PATIENCE_S: Final = 600.0
"""The answer is waited for, however long it takes: how long is what is measured."""


@dataclass(frozen=True, slots=True)
class LiveResult:
    """What a stream's speakers were.

    Attributes:
        first: turns as each utterance was first given them.
        corrected: turns at the end of the stream.
        relabelled: turns after the pass over the whole.
        waits_s: for each utterance, how long its speakers took.
    """

    first: tuple[SpeakerTurn, ...]
    corrected: tuple[SpeakerTurn, ...]
    relabelled: tuple[SpeakerTurn, ...]
    waits_s: tuple[float, ...]


def run(
    model: Path,
    recordings: Iterable[Recording] | None = None,
    *,
    device: str = "cpu",
    threads: int | None = None,
    progress: ProgressReporter | None = None,
) -> Report:
    """Measure every recording that has turns.

    Args:
        model: the diarizer's folder, as for `orchestrator.diarization.load`.
        recordings: `orchestrator.bench.recordings`; by default the one that pyannote.audio carries.
        device: a torch device name.
        threads: CPU threads for torch.
        progress: where the share done is reported.

    Raises:
        MissingDependencyError: pyannote or silero-vad is not installed.
        ModelLoadError: the model cannot be loaded.
        AudioDecodeError, TranscriptFormatError: a recording or its turns cannot be read.
    """
    from orchestrator.diarization import load

    chosen = [item for item in (recordings or [packaged()]) if item.rttm is not None]
    diarizer = load(model, device, threads)
    diarizer.diarize(np.zeros(SAMPLE_RATE_HZ, np.float32))  # the first call of a model is slower
    task = (progress or SilentProgress()).task("online speakers", total=len(chosen))
    rows = []
    for done, recording in enumerate(chosen, start=1):
        rows.append(_row(diarizer, recording, audio.decode(recording.audio).samples[0]))
        task.update(completed=done)
    task.finish()
    return Report(
        title="Speakers of live streams",
        command="spark-speech bench online-speakers --recordings FOLDER",
        rows=rows,
        notes=(
            "DER without collar, overlap counted: live as first told, then corrected inside the horizon, "
            "then relabelled from the whole stream at its end; offline is the diarizer on the recording.",
            "wait: from an utterance's end to its speakers, with a diarizer in this process that does "
            "nothing else; share is the sum of the waits over the recording's length.",
        ),
        versions=versions((*PACKAGES, "silero-vad")),
    )


def utterances(samples: Samples, options: EndpointingOptions | None = None) -> list[tuple[int, int]]:
    """Where the utterances of a recording begin and end, in ms: first to last frame of speech.

    Raises:
        MissingDependencyError: silero-vad is not installed.
    """
    import torch

    from orchestrator.engines.vad import VoiceActivity

    options = options or EndpointingOptions()
    detector = VoiceActivity(1, torch.device("cpu"))
    (likely,) = detector.push([0], [samples])
    return list(_spans(_speech(likely, options), options))


def _speech(likely: NDArray[np.float32], options: EndpointingOptions) -> NDArray[np.bool_]:
    speech = np.zeros(likely.size, dtype=np.bool_)
    speaking = False
    for frame, value in enumerate(likely.tolist()):
        speaking = value >= (options.vad_offset if speaking else options.vad_onset)
        speech[frame] = speaking
    return speech


def _spans(speech: NDArray[np.bool_], options: EndpointingOptions) -> Iterator[tuple[int, int]]:
    endpointer = Endpointer(options, FRAME_MS)
    longest = int(options.max_utterance_s * MS_PER_S) // FRAME_MS
    history = -(-options.start_history_ms // FRAME_MS)
    begin: int | None = None
    heard_to = 0  # frames of earlier utterances do not belong to this one
    for frame in range(speech.size):
        endpoints = endpointer.push(speech[frame : frame + 1])
        if begin is not None and frame - begin >= longest:
            endpoints += endpointer.force(frame + 1)
        for endpoint in endpoints:
            if endpoint.kind == "start":
                since = max(heard_to, endpoint.frame - history + 1)
                begin = since + int(speech[since : endpoint.frame + 1].argmax())
            elif endpoint.kind == "stop" and begin is not None:
                heard_to = begin + int(np.flatnonzero(speech[begin : frame + 1])[-1]) + 1
                yield begin * FRAME_MS, heard_to * FRAME_MS
                begin = None
    if begin is not None:
        last = begin + int(np.flatnonzero(speech[begin:])[-1]) + 1
        yield begin * FRAME_MS, last * FRAME_MS


async def live(diarizer: Diarizer, samples: Samples, spans: Sequence[tuple[int, int]]) -> LiveResult:
    """Hear a recording as a stream of the given utterances, one after the other."""
    options = SpeakerOptions(wait_s=_PATIENCE_S, finish_s=_PATIENCE_S, relabel=True)
    pcm: Pcm16 = np.rint(np.clip(samples, -1, 1) * np.float32(32_767)).astype(np.int16)

    def heard(begin_ms: int, stop_ms: int) -> Pcm16:
        return pcm[begin_ms * _SAMPLES_PER_MS : stop_ms * _SAMPLES_PER_MS]

    async def ask(window: Samples, asked: DiarizationOptions) -> Diarization:
        return await asyncio.to_thread(diarizer.diarize, window, asked)

    speakers = LiveSpeakers(ask, options)
    first: list[SpeakerTurn] = []
    waits: list[float] = []
    try:
        for number, (start_ms, end_ms) in enumerate(spans):
            for now_ms in range(start_ms, end_ms, PARTIAL_MS):
                speakers.ongoing(_segment(start_ms, now_ms), heard)
                await speakers.settle()  # a stream at the speed of speech leaves seconds for it
            begin = time.perf_counter()
            speakers.submit(number, _segment(start_ms, end_ms), heard(start_ms, end_ms))
            await speakers.final(number)
            waits.append(time.perf_counter() - begin)
            first += _within(speakers.turns(), start_ms, end_ms)
        corrected = speakers.turns()
        speakers.hear(0, pcm)
        await speakers.finish()
        return LiveResult(tuple(first), corrected, speakers.turns(), tuple(waits))
    finally:
        await speakers.aclose()


def _segment(start_ms: int, end_ms: int) -> Segment:
    return Segment(start=start_ms / MS_PER_S, end=end_ms / MS_PER_S, text="")


def _within(turns: Iterable[SpeakerTurn], start_ms: int, end_ms: int) -> Iterator[SpeakerTurn]:
    for turn in turns:
        begin, end = max(start_ms, turn.start_ms), min(end_ms, turn.end_ms)
        if begin < end:
            yield SpeakerTurn(begin, end, turn.speaker)


def _row(diarizer: Diarizer, recording: Recording, samples: Samples) -> dict[str, Cell]:
    duration_s = samples.size / SAMPLE_RATE_HZ
    spans = utterances(samples)
    result = asyncio.run(live(diarizer, samples, spans))
    offline = diarizer.diarize(samples).turns

    def der(turns: Sequence[SpeakerTurn]) -> Cell:
        return score(recording, _scored(turns), duration_s)["der"]

    speakers = score(recording, [], duration_s)["speakers"]
    found = len({turn.speaker for turn in result.corrected} - {NO_SPEAKER})
    waits = np.array(result.waits_s or (0.0,))
    return {
        "recording": recording.name,
        "seconds": round(duration_s, 1),
        "utterances": len(spans),
        "speakers": speakers,
        "found": found,
        "der_live": der(result.first),
        "der_corrected": der(result.corrected),
        "der_relabelled": der(result.relabelled),
        "der_offline": der(offline),
        "wait_p50_s": round(float(np.percentile(waits, 50)), 3),
        "wait_p95_s": round(float(np.percentile(waits, 95)), 3),
        "wait_share": round(float(waits.sum()) / duration_s, 4),
    }


def _scored(turns: Sequence[SpeakerTurn]) -> Iterator[Span]:
    """Turns of somebody unknown are speakers of their own: no credit for naming nobody."""
    for turn in turns:
        unknown = turn.speaker == NO_SPEAKER
        speaker = f"unknown at {turn.start_ms}" if unknown else turn.speaker
        yield turn.start_ms / MS_PER_S, turn.end_ms / MS_PER_S, speaker
