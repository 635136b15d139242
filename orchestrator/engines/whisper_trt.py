"""Whisper in TensorRT: a checkpoint as transformers saves it, exported to ONNX and built into plans on the
target.

The first start on a machine exports and builds, which takes minutes for the large network; the plans are
kept, and later starts read them. A plan for another model, TensorRT or GPU is refused. Decoding is this
project's own loop over the plans, with the tokens that transformers' ``generate`` finds.
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

import torch
from pydantic import Field

from orchestrator.engines.base import EngineSource
from orchestrator.engines.checks import options_in
from orchestrator.engines.torch_device import device_of
from orchestrator.engines.whisper.ct2_folder import files_in
from orchestrator.engines.whisper_native import export, plans, tensorrt
from orchestrator.engines.whisper_native.checkpoint import WhisperShape, shape_in
from orchestrator.engines.whisper_native.graphs import Graph, GraphRuntime
from orchestrator.engines.whisper_native.onnx_runtime import OnnxGraph
from orchestrator.engines.whisper_native.recognizer import DecodingSetup, NativeWhisper
from orchestrator.engines.whisper_native.tokens import WhisperTokens, tokens_in
from orchestrator.engines.whisper_native.weights import network_in
from orchestrator.errors import ConfigurationError, ModelLoadError
from orchestrator.settings_engines import WhisperSettings

ENGINE: Final = "whisper_trt"
RELEASE_FOLDER: Final = "plans"
"""Below an engine's folder: plans that were built on the target before the release was."""
_ROWS: Final = 16
_OPTIONS_LEFT: Final = ("auto", "int8", "int8_float16")

_LOG: Final = logging.getLogger(__name__)


class WhisperTrtOptions(WhisperSettings):
    """What `EngineSource.options` may hold: the settings of all Whisper engines, and those of this one."""

    backend: Literal["tensorrt", "onnxruntime"] = "tensorrt"
    """``onnxruntime`` computes the same graphs on a CPU, in float32: for tests, and slow."""
    plans_folder: Path | None = None
    """Where plans are kept; None: beside ``TORCHINDUCTOR_CACHE_DIR`` if that is set, else below
    ``~/.cache``."""
    max_rows: int = Field(default=_ROWS, ge=1, le=256)
    """Windows times beams in one step; the plans are built for up to this many."""
    max_tokens: int = Field(default=224, ge=1, le=448)
    """Most tokens of a window of 30 s."""


def load(source: EngineSource) -> WhisperTrt:
    """Load a checkpoint from ``source.folder``, and the plans that fit it here; builds them where there are
    none.

    Raises:
        MissingDependencyError: TensorRT is not installed.
        ModelLoadError: a file is missing or damaged, plans are for another target, or TensorRT cannot build.
        ConfigurationError: an unknown or invalid option.
    """
    return WhisperTrt(source)


class WhisperTrt(NativeWhisper):
    """A checkpoint in TensorRT; raises as `load` does."""

    def __init__(self, source: EngineSource) -> None:
        options = options_in(source, WhisperTrtOptions, ENGINE)
        files = files_in(source.folder)
        shape = shape_in(files, ENGINE)
        tokens = tokens_in(files, shape.vocabulary, ENGINE)
        rows = max(options.max_rows, options.beam_size)
        if options.backend == "onnxruntime":
            device, dtype = torch.device("cpu"), torch.float32
            graphs = _onnx_graphs(files, shape, tokens, source.threads)
        else:
            trt = tensorrt.library()
            device, dtype = device_of(source.device, ENGINE), _dtype(options)
            if device.type != "cuda":
                raise ConfigurationError(
                    f"{ENGINE} runs on a GPU, not on {source.device!r}.",
                    fix="build the release with device cuda, or use whisper_torch.",
                    model=ENGINE,
                )
            folders = (source.folder / RELEASE_FOLDER, options.plans_folder or _cache(os.environ))
            graphs = _tensorrt_graphs(trt, files, shape, tokens, device, dtype, rows, folders)
        setup = DecodingSetup(
            windows=max(1, min(options.batch_size, rows // options.beam_size)),
            beams=options.beam_size,
            max_tokens=options.max_tokens,
            temperatures=options.temperatures,
        )
        super().__init__(ENGINE, GraphRuntime(shape, graphs, device, dtype), tokens, device, setup)


def _onnx_graphs(
    files: Mapping[str, Path], shape: WhisperShape, tokens: WhisperTokens, threads: int | None
) -> dict[str, Graph]:
    with tempfile.TemporaryDirectory(prefix="spark-speech-onnx-") as scratch:
        paths = _exported(files, shape, tokens, torch.float32, Path(scratch))
        return {name: OnnxGraph(path, threads) for name, path in paths.items()}


def _tensorrt_graphs(
    trt: Any,
    files: Mapping[str, Path],
    shape: WhisperShape,
    tokens: WhisperTokens,
    device: torch.device,
    dtype: torch.dtype,
    rows: int,
    folders: tuple[Path, Path],
) -> dict[str, Graph]:
    release, own = folders
    target = target_for(trt, files, device, dtype, rows)
    plans.refuse_others(release, target)
    kept = plans.read(release / target.name, target) or plans.read(own / target.name, target)
    if kept is None:
        kept = _built(trt, files, shape, tokens, dtype, rows)
        plans.write(own / target.name, target, kept)
    return {name: tensorrt.TensorRtGraph(trt, name, plan, device) for name, plan in kept.items()}


def _built(
    trt: Any,
    files: Mapping[str, Path],
    shape: WhisperShape,
    tokens: WhisperTokens,
    dtype: torch.dtype,
    rows: int,
) -> dict[str, bytes]:
    ranges = export.limits(shape, rows)
    built = {}
    with tempfile.TemporaryDirectory(prefix="spark-speech-onnx-") as scratch:
        for name, path in _exported(files, shape, tokens, dtype, Path(scratch)).items():
            begin = time.perf_counter()
            built[name] = tensorrt.build(trt, path, ranges[name])
            _LOG.info("TensorRT built %s in %.0f s", name, time.perf_counter() - begin)
    return built


def _exported(
    files: Mapping[str, Path],
    shape: WhisperShape,
    tokens: WhisperTokens,
    dtype: torch.dtype,
    folder: Path,
) -> dict[str, Path]:
    network = network_in(files, shape, torch.device("cpu"), dtype, ENGINE)
    return export.export(network, tokens.alignment_heads, folder)


def target_for(
    trt: Any, files: Mapping[str, Path], device: torch.device, dtype: torch.dtype, rows: int
) -> plans.Target:
    """What plans made here fit."""
    weights = [path for name, path in files.items() if name.endswith((".safetensors", ".json"))]
    major, minor = torch.cuda.get_device_capability(device)
    return plans.Target(
        model=plans.digest_of(weights),
        tensorrt=str(trt.__version__),
        gpu=torch.cuda.get_device_name(device),
        architecture=f"sm_{major}{minor}",
        precision=str(dtype).removeprefix("torch."),
        rows=rows,
    )


def _dtype(options: WhisperTrtOptions) -> torch.dtype:
    if options.compute_type in _OPTIONS_LEFT:
        return torch.float16
    dtype: torch.dtype = getattr(torch, options.compute_type)
    return dtype


def _cache(environment: Mapping[str, str]) -> Path:
    """Where plans are kept: beside the server's other caches, or in the user's."""
    if own := environment.get("TORCHINDUCTOR_CACHE_DIR"):
        return Path(own).parent / ENGINE
    try:
        return Path(environment.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "spark-speech" / ENGINE
    except RuntimeError as error:
        raise ModelLoadError(
            "there is no home folder to keep TensorRT's plans in",
            fix="name one with the engine's option plans_folder.",
            model=ENGINE,
        ) from error
