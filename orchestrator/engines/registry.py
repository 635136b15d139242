"""Which engines there are, whether this machine can run them, and how to load one.

Nothing here imports an engine's libraries until `load` is called, so planners and the command line can
ask about an engine that is not installed. An engine's module exports `load(source)`, which returns a
`Recognizer`, or a `StreamingRecognizer` for the engines of live streams.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, cast

from orchestrator.engines import early
from orchestrator.engines.alignment.base import Aligner
from orchestrator.engines.base import EngineSource, Recognizer
from orchestrator.engines.streaming import StreamingRecognizer
from orchestrator.engines.whisper.languages import CODES, tags_of
from orchestrator.errors import ConfigurationError, MissingDependencyError


@dataclass(frozen=True, slots=True)
class Package:
    """A package an engine stands on: its distribution's name and its top-level module's.

    ``by_hand``: how it is installed where no extra brings it, as it must fit the machine that serves.
    """

    distribution: str
    module: str
    by_hand: str | None = None


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """What is known of an engine without loading it.

    Attributes:
        name: the engine's name in settings, config.pbtxt and `load`.
        module: the Python module that exports ``load``.
        extra: the optional dependencies of this project that the engine needs.
        packages: whose versions decide what the engine answers; a release's manifest records them.
        languages: BCP-47 primary tags that ``default_source`` recognises; other weights may know others,
            and a loaded engine's `EngineInfo.languages` says which.
        times_estimated: True where word times are spread inside longer spans, not measured.
        max_window_s: the longest audio in seconds that one call takes well.
        default_source: what `build` uses when the settings name none: ``embedded`` or a model hub's id.
        artifacts: names of the files that a source of weights holds; a build may prepare them for serving.
        streams: it takes live streams.
        detects_language: it finds out what is spoken where it is not told.
        setting: of an engine outside Triton: the setting that brings it in.
        inspector: the Python module that exports ``inspect(files)``, which says from weights' files, by name,
            what languages (BCP-47 primary tags) they know, and raises ModelLoadError where they are of
            another kind; it imports no engine's library. None: weights do not say.
    """

    name: str
    module: str
    extra: str
    packages: tuple[Package, ...]
    languages: tuple[str, ...]
    times_estimated: bool
    max_window_s: float
    default_source: str
    artifacts: tuple[str, ...]
    streams: bool = False
    detects_language: bool = False
    setting: str | None = None
    inspector: str | None = None

    @property
    def distributions(self) -> tuple[str, ...]:
        """The distributions that an extra brings, by the names that ``importlib.metadata`` takes."""
        return tuple(package.distribution for package in self.packages if package.by_hand is None)

    @property
    def install_command(self) -> str:
        """The command that installs what the engine needs."""
        return f"pip install 'spark-speech[{self.extra}]'"


@dataclass(frozen=True, slots=True)
class Availability:
    """Whether an engine can run in this Python.

    Attributes:
        missing: distributions that are not installed.
        install: the command that installs them, None where nothing is missing.
    """

    engine: str
    missing: tuple[str, ...]
    install: str | None

    @property
    def ready(self) -> bool:
        """Whether nothing is missing."""
        return not self.missing


# The 25 European languages of nvidia/parakeet-tdt-0.6b-v3, from its model card.
_PARAKEET_V3_LANGUAGES: Final = (
    *("bg", "cs", "da", "de", "el", "en", "es", "et", "fi", "fr", "hr", "hu", "it"),
    *("lt", "lv", "mt", "nl", "pl", "pt", "ro", "ru", "sk", "sl", "sv", "uk"),
)

# Speech to Text in docs.sarvam.ai: 22 Indian languages and English.
_SARVAM_LANGUAGES: Final = (
    *("as", "bn", "brx", "doi", "en", "gu", "hi", "kn", "kok", "ks", "mai", "ml", "mni", "mr", "ne"),
    *("or", "pa", "sa", "sat", "sd", "ta", "te", "ur"),
)

_WHISPER_LANGUAGES: Final = tags_of(CODES)
_WHISPER_S: Final = 600.0
"""Recordings of any length are cut into windows of 30 s; this bounds the audio of one call."""
_VOICE_ACTIVITY: Final = (Package("silero-vad", "silero_vad"), Package("torch", "torch"))
"""What finds the windows of speech."""


def _whisper(
    name: str,
    extra: str,
    *packages: Package,
    source: str,
    inspector: str,
    artifacts: tuple[str, ...] = (),
    times_estimated: bool = False,
) -> EngineSpec:
    """An engine for Whisper's weights; no ``artifacts``: the source's folder as it is."""
    return EngineSpec(
        name=name,
        module=f"orchestrator.engines.{name}",
        extra=extra,
        packages=(*packages, *_VOICE_ACTIVITY),
        languages=_WHISPER_LANGUAGES,
        times_estimated=times_estimated,
        max_window_s=_WHISPER_S,
        default_source=source,
        artifacts=artifacts,
        detects_language=True,
        inspector=inspector,
    )


_SPECS: Final = {
    spec.name: spec
    for spec in (
        EngineSpec(
            name="moonshine",
            module="orchestrator.engines.moonshine",
            extra="serve",
            packages=(Package("moonshine-voice", "moonshine_voice"),),
            languages=("en",),
            times_estimated=True,
            # It cuts audio at silences by itself, so a window costs time in proportion and no more memory.
            max_window_s=60.0,
            default_source="embedded",
            artifacts=("encoder_model.ort", "decoder_model_merged.ort", "tokenizer.bin"),
        ),
        EngineSpec(
            name="parakeet",
            module="orchestrator.engines.parakeet",
            extra="serve",
            # NeMo only for checkpoints that the native runtime cannot compute; those the engine tells itself.
            packages=(Package("safetensors", "safetensors"), Package("torch", "torch")),
            languages=_PARAKEET_V3_LANGUAGES,
            times_estimated=False,
            # Full attention: time and memory grow with the square of the length.
            max_window_s=300.0,
            default_source="nvidia/parakeet-tdt-0.6b-v3",
            artifacts=("model.nemo",),
        ),
        _whisper(
            "whisper_cpp",
            "serve,whisper-cpp",
            Package("pywhispercpp", "pywhispercpp"),
            source="a ggml file",
            inspector="orchestrator.engines.whisper.ggml",
            artifacts=("ggml-model.bin",),
            times_estimated=True,
        ),
        _whisper(
            "whisper_ct2",
            "serve,whisper-ct2",
            Package("ctranslate2", "ctranslate2"),
            Package("faster-whisper", "faster_whisper"),
            source="a CTranslate2 folder",
            inspector="orchestrator.engines.whisper.ct2_folder",
        ),
        _whisper(
            "whisper_torch",
            "serve",
            Package("safetensors", "safetensors"),
            source="a transformers folder",
            inspector="orchestrator.engines.whisper_native.inspection",
        ),
        # The graphs are exported on the target, with the TensorRT that is there.
        _whisper(
            "whisper_trt",
            "serve,whisper-trt",
            Package("onnx", "onnx"),
            Package("safetensors", "safetensors"),
            Package("tensorrt", "tensorrt", by_hand="pip install tensorrt-cu13"),
            source="a transformers folder",
            inspector="orchestrator.engines.whisper_native.inspection",
        ),
    )
}
_STREAMING_SPECS: Final = {
    spec.name: spec
    for spec in (
        EngineSpec(
            name="parakeet_streaming",
            module="orchestrator.engines.parakeet_streaming",
            extra=_SPECS["parakeet"].extra,
            packages=_SPECS["parakeet"].packages,
            languages=_SPECS["parakeet"].languages,
            times_estimated=False,
            # A stream has no end; this is the longest chunk that a client should send at once.
            max_window_s=60.0,
            default_source=_SPECS["parakeet"].default_source,
            artifacts=_SPECS["parakeet"].artifacts,
            streams=True,
        ),
    )
}
_ALIGNING_SPECS: Final = {
    spec.name: spec
    for spec in (
        EngineSpec(
            name="aligner",
            module="orchestrator.engines.aligner",
            extra="align",
            packages=(
                Package("onnxruntime", "onnxruntime"),
                Package("safetensors", "safetensors"),
                Package("torch", "torch"),
                Package("torchaudio", "torchaudio"),
            ),
            languages=("en",),
            times_estimated=False,
            max_window_s=60.0,
            default_source="embedded",
            # A checkpoint, a folder of transformers, or the embedded head: the files tell.
            artifacts=(),
        ),
    )
}
_OUTSIDE_SPECS: Final = {
    spec.name: spec
    for spec in (
        EngineSpec(
            name="riva",
            module="orchestrator.client.engines.riva",
            extra="gateway",
            packages=(Package("nvidia-riva-client", "riva"),),
            languages=(),  # those of the server's models
            times_estimated=False,
            max_window_s=30.0,
            default_source="a Riva or NIM server",
            artifacts=(),
            streams=True,
            setting="riva.url",
        ),
        EngineSpec(
            name="sarvam",
            module="orchestrator.client.engines.sarvam",
            extra="sarvam",
            packages=(Package("httpx", "httpx"),),
            languages=_SARVAM_LANGUAGES,
            times_estimated=True,
            max_window_s=28.0,
            default_source="Sarvam's service",
            artifacts=(),
            detects_language=True,
            setting="sarvam.api_key",
        ),
    )
}


def names() -> tuple[str, ...]:
    """All recognisers' names, sorted."""
    return tuple(sorted(_SPECS))


def streaming_names() -> tuple[str, ...]:
    """All streaming engines' names, sorted."""
    return tuple(sorted(_STREAMING_SPECS))


def aligner_names() -> tuple[str, ...]:
    """The names of what gives words their times, sorted."""
    return tuple(sorted(_ALIGNING_SPECS))


def outside_names() -> tuple[str, ...]:
    """The names of all engines that live outside Triton, sorted; `load` knows none of them."""
    return tuple(sorted(_OUTSIDE_SPECS))


def spec(name: str) -> EngineSpec:
    """What is known of engine ``name``, of any kind, without loading it.

    Raises:
        ConfigurationError: there is no such engine; the message names the nearest.
    """
    return _find(name, _SPECS | _STREAMING_SPECS | _ALIGNING_SPECS | _OUTSIDE_SPECS)


def _find(name: str, specs: Mapping[str, EngineSpec]) -> EngineSpec:
    try:
        return specs[name]
    except KeyError:
        known = sorted(specs)
        near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ConfigurationError(
            f"There is no engine {name!r}: {hint}the engines are {', '.join(known)}.",
            fix=f"use {near[0] if near else 'one of ' + ', '.join(known)}.",
        ) from None


def availability(name: str) -> Availability:
    """Whether engine ``name`` can run here, without importing its libraries.

    Raises:
        ConfigurationError: there is no such engine.
    """
    return _availability(spec(name))


def require(name: str) -> None:
    """Return where engine ``name`` can run here.

    Raises:
        MissingDependencyError: a package is missing; the error names the command that installs it.
    """
    wanted = spec(name)
    state = _availability(wanted)
    if not state.ready:
        by_hand = {package.distribution for package in wanted.packages if package.by_hand}
        target = " on the target" if by_hand & set(state.missing) else ""
        raise MissingDependencyError(
            f"The engine {wanted.name} needs {', '.join(state.missing)}{target}, "
            "not installed in this Python.",
            fix=f"run: {state.install}",
            model=wanted.name,
        )


def _availability(wanted: EngineSpec) -> Availability:
    missing = [package for package in wanted.packages if importlib.util.find_spec(package.module) is None]
    commands = dict.fromkeys(package.by_hand or wanted.install_command for package in missing)
    names = tuple(package.distribution for package in missing)
    return Availability(wanted.name, names, " && ".join(commands) or None)


def load(name: str, source: EngineSource) -> Recognizer:
    """Load engine ``name`` from ``source``. Imports the engine's libraries, which may take seconds.

    Raises:
        ConfigurationError: there is no such engine.
        MissingDependencyError: the engine's libraries are not installed or cannot be imported.
        ModelLoadError: the files in ``source`` are missing, corrupt or of another kind.
    """
    return cast("Callable[[EngineSource], Recognizer]", _loader(_find(name, _SPECS), source))(source)


def load_streaming(name: str, source: EngineSource) -> StreamingRecognizer:
    """Load streaming engine ``name`` from ``source``; raises as `load` does."""
    wanted = _find(name, _STREAMING_SPECS)
    return cast("Callable[[EngineSource], StreamingRecognizer]", _loader(wanted, source))(source)


def load_aligner(name: str, source: EngineSource) -> Aligner:
    """Load aligner ``name`` from ``source``; raises as `load` does."""
    return cast("Callable[[EngineSource], Aligner]", _loader(_find(name, _ALIGNING_SPECS), source))(source)


def _loader(wanted: EngineSpec, source: EngineSource) -> Callable[[EngineSource], object]:
    """The ``load`` of an engine's module."""
    require(wanted.name)
    if any(package.module == "torch" for package in wanted.packages):
        early.begin(source)
    try:
        module = importlib.import_module(wanted.module)
    except (ImportError, OSError) as error:  # OSError: a library that a compiled module links to
        raise MissingDependencyError(
            f"The engine {wanted.name} cannot be imported: {error}",
            fix=f"repair the installation with: {wanted.install_command}",
            model=wanted.name,
        ) from error
    return cast("Callable[[EngineSource], object]", module.load)
