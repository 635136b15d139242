"""Whisper in torch: a checkpoint as transformers saves it, compiled by torch.compile.

The tokens are those that transformers' ``generate`` finds. The decoder's cache has a fixed size, so that a
step is the same work at every position: one compiled layer, and on CUDA one replayed graph. What torch
compiles is kept (`whisper_native.artifacts`), in the server's cache and, where it was put there, in the
release.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Final

import torch
from pydantic import Field

from orchestrator.engines.base import EngineSource
from orchestrator.engines.checks import options_in
from orchestrator.engines.torch_device import device_of
from orchestrator.engines.whisper.ct2_folder import files_in
from orchestrator.engines.whisper_native import artifacts
from orchestrator.engines.whisper_native.checkpoint import shape_in
from orchestrator.engines.whisper_native.compiled import TorchRuntime
from orchestrator.engines.whisper_native.decoding import read_prompt
from orchestrator.engines.whisper_native.recognizer import DecodingSetup, NativeWhisper
from orchestrator.engines.whisper_native.runtime import rows_of
from orchestrator.engines.whisper_native.tokens import tokens_in
from orchestrator.engines.whisper_native.weights import network_in
from orchestrator.settings_engines import WhisperSettings

ENGINE: Final = "whisper_torch"
_CPU_ROWS: Final = 20
_GPU_ROWS: Final = 32
"""Windows, or beams of them: of the large-v3 shape each takes 0.3 GB beside the weights."""

_LOG: Final = logging.getLogger(__name__)


class WhisperTorchOptions(WhisperSettings):
    """What `EngineSource.options` may hold: the settings of all Whisper engines, and those of this one."""

    cuda_graphs: bool = True
    """Replay captured graphs where the device is CUDA."""
    compiled_folder: Path | None = None
    """Where compiled code is kept between starts; None: beside ``TORCHINDUCTOR_CACHE_DIR``, if set."""
    max_rows: int | None = Field(default=None, ge=1, le=256)
    """Windows times beams in one step; None: 20 on a CPU, 32 on a GPU."""
    max_tokens: int = Field(default=224, ge=1, le=448)
    """Most tokens of a window of 30 s."""
    warm_up: bool = True
    """Compile, and capture graphs, while loading: for one window, and for as many as fit."""


def load(source: EngineSource) -> WhisperTorch:
    """Load a checkpoint from ``source.folder``: config.json, a tokenizer and model.safetensors.

    Raises:
        ModelLoadError: a file is missing or damaged, or it is no Whisper checkpoint.
        ConfigurationError: an unknown or invalid option.
    """
    return WhisperTorch(source)


class WhisperTorch(NativeWhisper):
    """A loaded checkpoint.

    Raises:
        ModelLoadError: a file is missing or damaged, or the device is not there.
        ConfigurationError: an unknown or invalid option.
    """

    def __init__(self, source: EngineSource) -> None:
        options = options_in(source, WhisperTorchOptions, ENGINE)
        files = files_in(source.folder)
        shape = shape_in(files, ENGINE)
        tokens = tokens_in(files, shape.vocabulary, ENGINE)
        device = device_of(source.device, ENGINE)
        if source.threads is not None:
            torch.set_num_threads(source.threads)
        dtype = dtype_of(options, device)
        compiled = device.type == "cuda" if options.compile is None else options.compile
        rows = options.max_rows or (_CPU_ROWS if device.type == "cpu" else _GPU_ROWS)
        setup = DecodingSetup(
            windows=max(1, min(options.batch_size, rows // options.beam_size)),
            beams=options.beam_size,
            max_tokens=options.max_tokens,
            temperatures=options.temperatures,
        )
        self._torch = TorchRuntime(
            network_in(files, shape, device, dtype, ENGINE),
            device,
            heads=tokens.alignment_heads,
            compiled=compiled,
            cuda_graphs=options.cuda_graphs,
            least_rows=options.beam_size,
        )
        super().__init__(ENGINE, self._torch, tokens, device, setup)
        own = options.compiled_folder or artifacts.cache_folder()
        key = artifacts.key_for(shape, device, dtype)
        self._store = artifacts.Store(key, own, source.folder / artifacts.RELEASE_FOLDER)
        if options.warm_up and (compiled or device.type == "cuda"):
            self.warm_up()

    def warm_up(self) -> None:
        """Compile, from what was kept where it fits, capture graphs, and keep what is new.

        Raises:
            InferenceError: the model failed.
        """
        begin = time.perf_counter()
        runtime, setup = self._torch, self._setup
        found = runtime.compiled and self._store.load()
        prompt = torch.tensor([self._tokens.start], device=self._device)
        for windows in sorted({1, setup.windows}):
            audio = runtime.encode(torch.zeros((windows, runtime.shape.mels, runtime.shape.frames)))
            rows = torch.arange(windows, device=self._device).repeat_interleave(setup.beams)
            read_prompt(runtime.begin(rows_of(audio, rows)), prompt.expand(rows.numel(), -1))
        if runtime.compiled and (not found or artifacts.compiled_anew()):
            self._store.save()
        took = time.perf_counter() - begin
        _LOG.info("ready after %.1f s, kept code %s", took, "found" if found else "none")


def dtype_of(options: WhisperSettings, device: torch.device) -> torch.dtype:
    """What the network is computed in; 8-bit integers are for whisper_ct2 alone."""
    if options.compute_type in ("float32", "float16", "bfloat16"):
        dtype: torch.dtype = getattr(torch, options.compute_type)
        return dtype
    if options.compute_type != "auto":
        _LOG.warning("%s is for whisper_ct2; as if it were auto", options.compute_type)
    return torch.float32 if device.type == "cpu" else torch.float16
