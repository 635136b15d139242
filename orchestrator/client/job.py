"""One recording's way through the server: windows and diarization at the same time, then one transcript."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from orchestrator.audio import Audio
from orchestrator.client import assemble, windows
from orchestrator.client.alignment import WordTimer
from orchestrator.client.assemble import About
from orchestrator.client.catalog import ModelCard
from orchestrator.client.concurrent import gather
from orchestrator.client.engines.board import Done, EngineBoard
from orchestrator.client.options import TranscribeOptions
from orchestrator.client.routing import Decision
from orchestrator.client.transport import SpeechTransport
from orchestrator.client.windows import Window
from orchestrator.diarization.base import Diarization, DiarizationOptions
from orchestrator.engines.base import Recognition, RecognitionOptions, Samples
from orchestrator.progress import ProgressTask
from orchestrator.settings import ClientSettings
from orchestrator.transcript.models import Transcript


class Job:
    """Transcribes one recording with the engines that a router chose, each where those before it fail."""

    def __init__(
        self,
        transport: SpeechTransport,
        settings: ClientSettings,
        options: TranscribeOptions,
        board: EngineBoard,
        decision: Decision,
        diarizers: Sequence[ModelCard] = (),
        timer: WordTimer | None = None,
    ) -> None:
        """Prepare; without ``diarizers`` nobody is named, without ``timer`` estimated word times stay."""
        self._transport = transport
        self._settings = settings
        self._options = options
        self._board = board
        self._decision = decision
        self._diarizers = diarizers
        self._timer = timer

    async def run(self, recording: Audio, task: ProgressTask) -> Transcript:
        """Send everything at once (the transport bounds what is in flight) and join the answers.

        ``task`` counts requests answered. An engine that fails loses nothing: the next one gets all audio.
        """
        steps = _Steps(task, bool(self._diarizers))
        recognised: list[Done[list[Recognition]]] = []
        diarized: list[Done[Diarization]] = []

        async def diarize() -> None:
            if self._diarizers:
                act = partial(self._diarize, recording.samples[0], steps)
                diarized.append(await self._board.first(self._diarizers, act))

        async def recognise() -> None:
            act = partial(self._recognise, tuple(recording.samples), steps)
            recognised.append(await self._board.first(self._decision.cards, act))

        # The diarizer first: it is the longest request and must not queue behind hundreds of windows.
        await gather(diarize, recognise)
        done = recognised[0]
        about = About(recording.name, recording.duration_s, done.card.engine)
        if self._options.channels == "separate":
            transcript = assemble.channel_transcript(done.result, about)
        else:
            diarization = diarized[0].result if diarized else None
            transcript = assemble.transcript(done.result[0], diarization, about)
        failed = (*done.failed, *(one for each in diarized for one in each.failed))
        record = self._decision.record().model_copy(
            update={"engine": done.card.engine, "model": done.card.name, "failed": failed}
        )
        transcript = transcript.model_copy(update={"routing": record})
        return transcript if self._timer is None else self._timer.recorded(transcript)

    async def _recognise(
        self, channels: Sequence[Samples], steps: _Steps, recogniser: ModelCard
    ) -> list[Recognition]:
        """All channels by one recogniser."""
        longest_s = min(self._settings.window_s, recogniser.max_window_s)
        plans = [windows.plan(samples, longest_s, self._settings.overlap_s) for samples in channels]
        steps.recognise(sum(len(plan) for plan in plans))
        jobs = [
            partial(self._channel, recogniser, samples, plan, steps)
            for samples, plan in zip(channels, plans, strict=True)
        ]
        return await gather(*jobs)

    async def _channel(
        self, recogniser: ModelCard, samples: Samples, plan: tuple[Window, ...], steps: _Steps
    ) -> Recognition:
        """Recognise all windows of one channel at the same time, so that the server can batch them."""
        options = RecognitionOptions(language=self._decision.job.language)
        # A server of an older release knows float32 alone.
        pcm16 = self._settings.encoding == "pcm16" and recogniser.takes_pcm16

        async def one(window: Window) -> Recognition:
            recognition = await self._transport.recognize(
                recogniser.name,
                window.of(samples),
                options,
                version=self._options.model_version,
                pcm16=pcm16,
            )
            if self._timer is not None:
                recognition = await self._timer.timed(
                    window.of(samples), recognition, pcm16=self._settings.encoding == "pcm16"
                )
            steps.recognised()
            return recognition

        recognitions = await gather(*(partial(one, window) for window in plan))
        return assemble.join_windows(plan, recognitions)

    async def _diarize(self, samples: Samples, steps: _Steps, diarizer: ModelCard) -> Diarization:
        asked = self._options
        options = DiarizationOptions(
            num_speakers=asked.num_speakers, min_speakers=asked.min_speakers, max_speakers=asked.max_speakers
        )
        diarization = await self._transport.diarize(diarizer.name, samples, options)
        steps.diarized()
        return diarization


class _Steps:
    """Counts answers on a line of progress."""

    def __init__(self, task: ProgressTask, diarize: bool) -> None:
        self._task = task
        self._diarize = diarize
        self._windows = 0
        self._recognised = 0
        self._diarized = 0

    def recognise(self, windows: int) -> None:
        """So many windows are to be recognised, from the first on."""
        self._windows, self._recognised = windows, 0
        self._tell()

    def recognised(self) -> None:
        """One window more is done."""
        self._recognised += 1
        self._tell()

    def diarized(self) -> None:
        """The speakers are found."""
        self._diarized = 1
        self._tell()

    def _tell(self) -> None:
        self._task.update(completed=self._recognised + self._diarized, total=self._windows + self._diarize)
