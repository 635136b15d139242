"""One recording's way through the server: windows and diarization at the same time, then one transcript."""

from __future__ import annotations

from functools import partial

from orchestrator.audio import Audio
from orchestrator.client import assemble, windows
from orchestrator.client.assemble import About
from orchestrator.client.catalog import ModelCard
from orchestrator.client.concurrent import gather
from orchestrator.client.options import TranscribeOptions
from orchestrator.client.transport import SpeechTransport
from orchestrator.client.windows import Window
from orchestrator.diarization.base import Diarization, DiarizationOptions
from orchestrator.engines.base import Recognition, RecognitionOptions, Samples
from orchestrator.progress import ProgressTask
from orchestrator.settings import ClientSettings
from orchestrator.transcript.models import Transcript


class Job:
    """Transcribes one recording with models that were chosen before."""

    def __init__(
        self,
        transport: SpeechTransport,
        settings: ClientSettings,
        options: TranscribeOptions,
        recogniser: ModelCard,
        diarizer: ModelCard | None,
    ) -> None:
        self._transport = transport
        self._settings = settings
        self._options = options
        self._recogniser = recogniser
        self._diarizer = diarizer

    async def run(self, recording: Audio, task: ProgressTask) -> Transcript:
        """Send everything at once (the transport bounds what is in flight) and join the answers.

        ``task`` counts requests answered.
        """
        channels = [(samples, self._plan(samples)) for samples in recording.samples]
        steps = _Steps(task, sum(len(plan) for _, plan in channels) + (self._diarizer is not None))
        recognitions: list[Recognition] = []
        diarizations: list[Diarization] = []

        async def diarize() -> None:
            if self._diarizer is not None:
                diarizations.append(await self._diarize(self._diarizer, recording.samples[0], steps))

        async def recognise() -> None:
            jobs = [partial(self._recognise, samples, plan, steps) for samples, plan in channels]
            recognitions.extend(await gather(*jobs))

        # The diarizer first: it is the longest request and must not queue behind hundreds of windows.
        await gather(diarize, recognise)
        about = About(recording.name, recording.duration_s, self._recogniser.engine)
        if self._options.channels == "separate":
            return assemble.channel_transcript(recognitions, about)
        return assemble.transcript(recognitions[0], diarizations[0] if diarizations else None, about)

    def _plan(self, samples: Samples) -> tuple[Window, ...]:
        longest_s = min(self._settings.window_s, self._recogniser.max_window_s)
        return windows.plan(samples, longest_s, self._settings.overlap_s)

    async def _recognise(self, samples: Samples, plan: tuple[Window, ...], steps: _Steps) -> Recognition:
        """Recognise all windows of one channel at the same time, so that the server can batch them."""
        options = RecognitionOptions(language=self._options.language)
        # A server of an older release knows float32 alone.
        pcm16 = self._settings.encoding == "pcm16" and self._recogniser.takes_pcm16

        async def one(window: Window) -> Recognition:
            recognition = await self._transport.recognize(
                self._recogniser.name,
                window.of(samples),
                options,
                version=self._options.model_version,
                pcm16=pcm16,
            )
            steps.one_done()
            return recognition

        recognitions = await gather(*(partial(one, window) for window in plan))
        return assemble.join_windows(plan, recognitions)

    async def _diarize(self, diarizer: ModelCard, samples: Samples, steps: _Steps) -> Diarization:
        asked = self._options
        options = DiarizationOptions(
            num_speakers=asked.num_speakers, min_speakers=asked.min_speakers, max_speakers=asked.max_speakers
        )
        diarization = await self._transport.diarize(diarizer.name, samples, options)
        steps.one_done()
        return diarization


class _Steps:
    """Counts answers on a line of progress."""

    def __init__(self, task: ProgressTask, total: int) -> None:
        self._task = task
        self._done = 0
        task.update(completed=0, total=total)

    def one_done(self) -> None:
        self._done += 1
        self._task.update(completed=self._done)
