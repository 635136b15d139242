"""What Triton tells a Python model when it loads: which model, where its files are, and on which device."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.contract import Parameter
from orchestrator.engines.base import EngineSource
from orchestrator.errors import ModelLoadError


@dataclass(frozen=True, slots=True)
class ModelContext:
    """One model instance.

    Attributes:
        name: the model's name in Triton.
        engine: what recognises, a name of `orchestrator.engines`.
        folder: the version folder, which holds the weights.
        device: ``cpu`` or ``cuda:<n>``.
        threads: CPU threads, None for the library's own default.
        options: what only this engine knows, see `EngineSource.options`.
        max_window_s: the longest audio of one request, in seconds.
        chunk_ms: for live streams, the audio that clients send at once; 0 elsewhere.
        idle_timeout_s: for live streams, how long one may send nothing; infinite elsewhere.
    """

    name: str
    engine: str
    folder: Path
    device: str
    threads: int | None
    options: Mapping[str, Any]
    max_window_s: float
    chunk_ms: int = 0
    idle_timeout_s: float = math.inf

    @classmethod
    def from_args(cls, args: Mapping[str, str]) -> ModelContext:
        """Read what Triton hands to ``TritonPythonModel.initialize``.

        Raises:
            ModelLoadError: config.pbtxt lacks a parameter of `contract.Parameter`, or one makes no sense.
        """
        config = json.loads(args["model_config"])
        name = str(args["model_name"])
        given = {key: value["string_value"] for key, value in config.get("parameters", {}).items()}
        try:
            engine = given[Parameter.ENGINE]
            window_s = float(given[Parameter.MAX_WINDOW_S])
            options: Any = json.loads(given.get(Parameter.ENGINE_OPTIONS, "{}"))
            chunk_ms = int(given.get(Parameter.CHUNK_MS, "0"))
            idle_timeout_s = float(given.get(Parameter.IDLE_TIMEOUT_S, "inf"))
            threads = options.pop("threads", None)
            if not (threads is None or (isinstance(threads, int) and threads > 0)):
                raise ValueError(f"threads is {threads!r}, not a whole number above 0")
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise ModelLoadError(
                f"the parameters in config.pbtxt of {name} cannot be used: {error}",
                model=name,
                fix="build the release again: spark-speech build",
            ) from error
        on_gpu = args["model_instance_kind"].upper().endswith("GPU")
        return cls(
            name=name,
            engine=engine,
            folder=Path(args["model_repository"]) / args["model_version"],
            device=f"cuda:{args['model_instance_device_id']}" if on_gpu else "cpu",
            threads=threads,
            options=options,
            max_window_s=window_s,
            chunk_ms=chunk_ms,
            idle_timeout_s=idle_timeout_s,
        )

    @property
    def source(self) -> EngineSource:
        """What `orchestrator.engines.load` takes."""
        return EngineSource(self.folder, self.device, self.threads, self.options)
