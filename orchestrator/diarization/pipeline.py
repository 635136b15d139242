"""pyannote.audio's `SpeakerDiarization` in this process: samples in, turns and voices out.

A model folder is one of

- a copy of ``pyannote/speaker-diarization-community-1`` (``config.yaml`` with its ``segmentation``,
  ``embedding`` and ``plda`` folders), which runs with the parameters of its own configuration;
- the offline set: ``pytorch_model.bin`` (segmentation-3.0), ``campplus_cn_en_common.pt`` and
  ``camplusplus.py`` (CAM++), which runs with agglomerative clustering and `DiarizerParameters`.

Loading unpickles the segmentation checkpoint and runs ``camplusplus.py``: load only folders whose digests
were checked.
"""

from __future__ import annotations

import pickle
import threading
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from orchestrator.contract import SAMPLE_RATE_HZ
from orchestrator.diarization.base import LOCAL_WINDOW_S, Diarization, DiarizationOptions, SpeakerTurn
from orchestrator.diarization.parameters import DEFAULTS, DiarizerParameters
from orchestrator.diarization.pyannote_import import import_pyannote
from orchestrator.errors import AudioTooLongError, AudioValueError, InferenceError, ModelLoadError
from orchestrator.progress import ProgressReporter, SilentProgress

PIPELINE_FILE: Final = "config.yaml"
MIN_SAMPLES: Final = SAMPLE_RATE_HZ // 10
"""Recordings under 0.1 s hold no word and are answered without asking the model."""
MS_PER_S: Final = 1000


class Diarizer:
    """A loaded diarizer. Build one with `load`. Threads may share it: they take turns."""

    def __init__(self, pipeline: Any) -> None:
        self._pipeline = pipeline
        self._lock = threading.Lock()

    @property
    def embedding_size(self) -> int:
        """Values in one speaker embedding."""
        return int(self._pipeline._embedding.dimension)

    def diarize(
        self,
        samples: NDArray[np.float32],
        options: DiarizationOptions | None = None,
        progress: ProgressReporter | None = None,
    ) -> Diarization:
        """Find who speaks when in one recording.

        A number of speakers that was asked for is kept where the recording holds enough speech to tell as
        many voices apart (0.25 s alone for each, and more for a good answer); otherwise there are fewer.
        Silence, and recordings under 0.1 s, give no turns and no speakers.

        Args:
            samples: float32 ``[n]``, mono, 16 kHz, full scale +-1.
            options: bounds on the number of speakers, or that this is one local window.
            progress: where the share done is reported; a local window is too short to.

        Raises:
            AudioValueError: the samples have another shape, or are not finite.
            AudioTooLongError: a local window of more than `LOCAL_WINDOW_S`.
            ConfigurationError: the bounds contradict one another.
            InferenceError: the model failed.
        """
        options = options or DiarizationOptions()
        options.check()
        samples = _checked(samples)
        if samples.size < MIN_SAMPLES:
            return Diarization((), (), np.zeros((0, self.embedding_size), dtype=np.float32))
        if options.mode == "local" and samples.size > LOCAL_WINDOW_S * SAMPLE_RATE_HZ:
            raise AudioTooLongError(
                f"a local window has {LOCAL_WINDOW_S:g} s at most, not {samples.size / SAMPLE_RATE_HZ:.1f} s",
                fix='send less audio, or leave mode="local" out',
            )
        return self._run(samples, options, progress or SilentProgress())

    def _run(
        self, samples: NDArray[np.float32], options: DiarizationOptions, progress: ProgressReporter
    ) -> Diarization:
        import torch

        from orchestrator.diarization.local import diarize_window

        audio = {"waveform": torch.from_numpy(samples)[None], "sample_rate": SAMPLE_RATE_HZ, "uri": "audio"}
        duration_ms = samples.size * MS_PER_S // SAMPLE_RATE_HZ
        hook = _ProgressHook(progress)
        try:
            with self._lock, torch.inference_mode(), warnings.catch_warnings():
                # pyannote warns about what the contract above already says: too few speakers, empty means.
                warnings.simplefilter("ignore")
                if options.mode == "local":
                    return diarize_window(self._pipeline, audio, duration_ms)
                bounds = options.model_dump(exclude_none=True, exclude={"mode"})
                return _to_diarization(self._pipeline(audio, hook=hook, **bounds), duration_ms)
        except (RuntimeError, ValueError, IndexError, MemoryError) as error:
            raise InferenceError(
                f"diarization failed on {samples.size / SAMPLE_RATE_HZ:.1f} s of audio: {error}",
                model="diarizer",
            ) from error
        finally:
            hook.finish()


def load(
    folder: Path, device: str = "cpu", threads: int | None = None, parameters: DiarizerParameters = DEFAULTS
) -> Diarizer:
    """Load the diarizer from a model folder.

    Args:
        folder: the official copy or the offline set, see this module.
        device: a torch device name.
        threads: CPU threads for torch, which has one such setting for the whole process; None leaves it.
        parameters: for the offline set; the official pipeline brings its own.

    Raises:
        MissingDependencyError: pyannote.audio is not installed.
        ModelLoadError: files are missing or damaged, or the device is not there.
    """
    pyannote_audio = import_pyannote()
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the checkpoints were written by older versions of lightning
            if (folder / PIPELINE_FILE).is_file():
                pipeline = pyannote_audio.Pipeline.from_pretrained(folder)
            else:
                from orchestrator.diarization.offline import build_pipeline

                pipeline = build_pipeline(folder, parameters)
            pipeline.to(torch.device(device))
            return Diarizer(pipeline)
    except _load_errors() as error:
        raise ModelLoadError(
            f"the diarizer cannot be loaded from {folder} on {device}: {error}",
            path=folder,
            fix="check the device's name, and run `spark-speech verify` to check the model's files",
        ) from error


def _load_errors() -> tuple[type[Exception], ...]:
    """What torch, lightning, yaml, numpy and pyannote raise on files that are damaged or of another kind."""
    import yaml  # type: ignore[import-untyped]

    return (
        OSError,
        EOFError,
        RuntimeError,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        ImportError,
        pickle.UnpicklingError,
        zipfile.BadZipFile,
        yaml.YAMLError,
    )


def _checked(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    if samples.ndim != 1 or not np.issubdtype(samples.dtype, np.floating):
        raise AudioValueError(
            f"the diarizer takes float samples [n], not {samples.dtype} {list(samples.shape)}",
            fix="pass one channel of float32 samples at 16 kHz",
        )
    if not np.isfinite(samples).all():
        raise AudioValueError("the samples hold NaN or infinite values", fix="decode the recording again")
    return np.require(samples, dtype=np.float32, requirements=["C", "W"])


def _to_diarization(output: Any, duration_ms: int) -> Diarization:
    """pyannote's answer in this project's terms: whole ms inside the recording, speakers by appearance."""
    turns = _spans(output.speaker_diarization, duration_ms)
    exclusive = _spans(output.exclusive_speaker_diarization, duration_ms)
    number = {label: index for index, label in enumerate(dict.fromkeys(label for *_, label in turns))}
    for *_, label in exclusive:
        number.setdefault(label, len(number))
    rows = {label: row for row, label in enumerate(output.speaker_diarization.labels())}
    embeddings = np.full((len(number), output.speaker_embeddings.shape[1]), np.nan, dtype=np.float32)
    for label, index in number.items():
        # pyannote stands in zeros for a speaker that it could not embed.
        if label in rows and np.any(output.speaker_embeddings[rows[label]]):
            embeddings[index] = output.speaker_embeddings[rows[label]]
    return Diarization(_turns(turns, number), _turns(exclusive, number), embeddings)


def _spans(annotation: Any, duration_ms: int) -> list[tuple[int, int, str]]:
    spans = [
        (max(0, round(span.start * MS_PER_S)), min(duration_ms, round(span.end * MS_PER_S)), label)
        for span, _, label in annotation.itertracks(yield_label=True)
    ]
    return sorted(span for span in spans if span[0] < span[1])


def _turns(spans: Sequence[tuple[int, int, str]], number: dict[str, int]) -> tuple[SpeakerTurn, ...]:
    return tuple(SpeakerTurn(start, end, number[label]) for start, end, label in spans)


class _ProgressHook:
    """Turns pyannote's callbacks into one line of progress: two long steps, each half of it."""

    def __init__(self, progress: ProgressReporter) -> None:
        self._task = progress.task("diarizing", total=2.0)
        self._steps = {"segmentation": 0.0, "embeddings": 1.0}

    def __call__(  # called with more completed than total after a last, partly filled batch
        self,
        step: str,
        artifact: Any,
        file: Any = None,
        total: int | None = None,
        completed: int | None = None,
    ) -> None:
        if step in self._steps and total and completed is not None:
            self._task.update(completed=self._steps[step] + min(1.0, completed / total))

    def finish(self) -> None:
        self._task.finish()
