"""What a build will put into a release: pure, from settings to `BuildPlan`.

Nothing here touches the disk, the network or the machine: whether there is a GPU and which machine is the
target are inputs. `builder` carries a plan out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

from orchestrator.contract import CONTRACTS, Parameter, Task, outputs_of
from orchestrator.errors import ConfigurationError
from orchestrator.repository.catalog import (
    MODEL_VERSION,
    ModelKind,
    PackageFile,
    WheelFile,
    kind_of,
)
from orchestrator.repository.config import Device, InstanceGroup, ModelConfig
from orchestrator.repository.live import stream_config
from orchestrator.repository.sources import EmbeddedSource, HubSource, Source, parse_source
from orchestrator.settings import StreamingSettings
from orchestrator.settings_engines import WhisperSettings

Architecture = Literal["x86_64", "aarch64"]
DEFAULT_MODELS: Final[Mapping[str, str]] = {"moonshine": "embedded", "diarizer": "embedded"}
_MULTILINGUAL: Final = {"nvidia/parakeet-tdt-0.6b-v3"}
"""Hub ids whose weights know every language of their engine; others are taken to be English."""
_DEFAULT_LANGUAGES: Final = ("en",)
_MOST_INSTANCES: Final = 16
Precision = Literal["auto", "float32", "bfloat16"]


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """What a build may set for one model; None keeps the catalogue's value.

    Attributes:
        max_window_s: longest audio of one request, in seconds, above 0.
        max_batch_size: most requests in one engine call, at least 1.
        languages: BCP-47 primary tags the weights know.
        instances: processes that serve the model, 1 to 16, each with the weights of its own.
    """

    max_window_s: float | None = None
    max_batch_size: int | None = None
    languages: tuple[str, ...] | None = None
    instances: int | None = None


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """One model of the release. ``embedded`` is empty unless the source is `EmbeddedSource`."""

    kind: ModelKind
    source: Source
    config: ModelConfig
    embedded: tuple[WheelFile | PackageFile, ...]
    precision: Precision = "auto"
    """Of weights that the build prepares for serving, see `lean.precision_of`."""

    @property
    def name(self) -> str:
        """The model's name, which is its folder's."""
        return self.kind.name

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON-ready data."""
        return {
            "name": self.name,
            "task": str(self.kind.task),
            "engine": self.kind.engine,
            "source": str(self.source),
            "pinned": not isinstance(self.source, HubSource) or self.source.pinned,
            "files": [
                {"name": file.name, "sha256": file.sha256, "size": file.size}
                if isinstance(file, WheelFile)
                else {"name": file.name, "sha256": None, "size": None}
                for file in self.embedded
            ],
            "packages": list(self.kind.packages),
            "max_batch_size": self.config.max_batch_size,
            "instances": sum(group.count for group in self.config.instances),
            "parameters": dict(self.config.parameters),
        }


@dataclass(frozen=True, slots=True)
class BuildPlan:
    """A release to build: its models by name, the device they run on and the machine they are for."""

    models: tuple[ModelPlan, ...]
    device: Device
    target: Architecture
    packages: tuple[str, ...] = field(default=())
    """Distributions whose versions decide what the release answers, sorted."""

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON-ready data."""
        return {
            "target": self.target,
            "device": self.device,
            "packages": list(self.packages),
            "models": [model.to_dict() for model in self.models],
        }


def make_plan(
    models: Mapping[str, str] = DEFAULT_MODELS,
    *,
    device: Device = "cpu",
    target: Architecture = "x86_64",
    options: Mapping[str, ModelOptions] | None = None,
    streaming: StreamingSettings | None = None,
    whisper: WhisperSettings | None = None,
    precision: Precision = "auto",
) -> BuildPlan:
    """Plan a release of ``models``, a map of model names to sources (see `sources`).

    ``streaming`` and ``whisper`` say how models of live streams, and of Whisper, are set up; None: as the
    settings' defaults do.
    ``precision`` is that of weights which are prepared for serving; ``auto``: bfloat16 on a GPU, or float32.

    Raises:
        ConfigurationError: no models, an unknown one, a source that is none, an option out of range, or
            options for a model that is not built.
    """
    if not models:
        raise ConfigurationError(
            "there are no models to build", fix="name one: spark-speech build --model moonshine=embedded"
        )
    given = options or {}
    for name in given:
        if name not in models:
            raise ConfigurationError(
                f"there are options for {name}, which is not among the models to build",
                fix=f"add it with --model {kind_of(name).name}=SOURCE",
            )
    plans = tuple(
        _model(
            kind_of(name),
            parse_source(models[name]),
            device,
            given.get(name, ModelOptions()),
            streaming or StreamingSettings(),
            whisper or WhisperSettings(),
        )
        for name in sorted(models)
    )
    if not any(plan.kind.task in (Task.RECOGNIZE, Task.STREAM) for plan in plans):
        raise ConfigurationError(
            "the release would have no recogniser", fix="add one: --model moonshine=embedded"
        )
    plans = tuple(replace(plan, precision=precision) for plan in plans)
    packages = {"spark-speech"}.union(*(plan.kind.packages for plan in plans))
    return BuildPlan(plans, device, target, tuple(sorted(packages)))


def with_models(base: Mapping[str, str], given: list[str]) -> dict[str, str]:
    """``base`` with each ``NAME=SOURCE`` of ``given`` added, or put in place of the same name's.

    Raises:
        ConfigurationError: an entry is not ``NAME=SOURCE``.
    """
    models = dict(base)
    for entry in given:
        name, equals, source = entry.partition("=")
        if not (name.strip() and equals and source.strip()):
            raise ConfigurationError(
                f"{entry!r} is not NAME=SOURCE", fix="for example --model parakeet=/srv/model.nemo"
            )
        models[name.strip()] = source.strip()
    return models


def _model(
    kind: ModelKind,
    source: Source,
    device: Device,
    options: ModelOptions,
    streaming: StreamingSettings,
    whisper: WhisperSettings,
) -> ModelPlan:
    embedded = kind.embedded if isinstance(source, EmbeddedSource) else ()
    if isinstance(source, EmbeddedSource) and not embedded:
        raise ConfigurationError(
            f"{kind.name} has no embedded weights",
            fix=f"name a source: --model {kind.name}=<hub id or path>",
        )
    config = _config(kind, source, device, options)
    if kind.task is Task.STREAM:
        config = stream_config(config, streaming)
    if kind.whisper:
        given = json.dumps(whisper.model_dump(mode="json", exclude_none=True))
        config = _with_parameters(config, {Parameter.ENGINE_OPTIONS: given})
    return ModelPlan(kind, source, config, embedded)


def with_languages(plan: ModelPlan, known: Sequence[str]) -> ModelPlan:
    """``plan`` for weights that know the languages ``known``, at least one."""
    planned = plan.config.parameters[Parameter.LANGUAGES].split(",")
    languages = [tag for tag in planned if tag in known] or list(known)
    config = _with_parameters(plan.config, {Parameter.LANGUAGES: ",".join(languages)})
    if plan.kind.detects_language and len(known) == 1:
        config = _with_parameters(config, {Parameter.DETECTS_LANGUAGE: "false"})
        config = replace(config, outputs=outputs_of(plan.kind.task, detects_language=False))
    return replace(plan, config=config)


def _with_parameters(config: ModelConfig, parameters: Mapping[Parameter, str]) -> ModelConfig:
    texts = {str(key): text for key, text in parameters.items()}
    return replace(config, parameters={**config.parameters, **texts})


def _config(kind: ModelKind, source: Source, device: Device, options: ModelOptions) -> ModelConfig:
    contract = CONTRACTS[kind.task]
    batch = options.max_batch_size
    if batch is None:
        batch = kind.batching.gpu if device == "cuda" else kind.batching.cpu
    window_s = kind.max_window_s if options.max_window_s is None else options.max_window_s
    count = options.instances
    if count is None:
        count = kind.batching.gpu_instances if device == "cuda" and kind.uses_gpu else 1
    if batch < 1 or not 0 < window_s < float("inf") or not 1 <= count <= _MOST_INSTANCES:
        raise ConfigurationError(
            f"{kind.name}: max_batch_size {batch}, max_window_s {window_s:g} or instances {count} is "
            "out of range",
            fix=f"use a batch of at least 1, a window above 0 s, and 1 to {_MOST_INSTANCES} instances",
        )
    languages = options.languages or _languages(kind, source)
    parameters = {
        Parameter.TASK: str(kind.task),
        Parameter.ENGINE: kind.engine,
        Parameter.ENGINE_OPTIONS: json.dumps({"languages": languages} if kind.told_languages else {}),
        Parameter.MAX_WINDOW_S: f"{window_s:g}",
        Parameter.RANK: str(kind.rank),
    }
    if kind.task in (Task.RECOGNIZE, Task.STREAM, Task.ALIGN):
        parameters[Parameter.LANGUAGES] = ",".join(languages)
    if kind.task in (Task.RECOGNIZE, Task.STREAM):
        parameters[Parameter.WORD_TIMES] = "estimated" if kind.times_estimated else "measured"
    if kind.detects_language:
        parameters[Parameter.DETECTS_LANGUAGE] = "true"
    return ModelConfig(
        name=kind.name,
        inputs=contract.inputs,
        outputs=outputs_of(kind.task, detects_language=kind.detects_language),
        instances=(InstanceGroup(device if kind.uses_gpu else "cpu", count),),
        max_batch_size=batch,
        ragged=batch > 1,
        queue_delay_us=kind.batching.queue_delay_us if batch > 1 else None,
        parameters={str(key): value for key, value in parameters.items()},
    )


def _languages(kind: ModelKind, source: Source) -> tuple[str, ...]:
    if isinstance(source, EmbeddedSource):
        return kind.embedded_languages or kind.languages
    # What inspected weights do not know is taken out once they are here, see `with_languages`.
    if kind.inspector or (isinstance(source, HubSource) and source.id in _MULTILINGUAL):
        return kind.languages
    return tuple(tag for tag in kind.languages if tag in _DEFAULT_LANGUAGES)


def version_folder(model: str) -> str:
    """A model's version folder, relative to the model repository."""
    return f"{model}/{MODEL_VERSION}"
