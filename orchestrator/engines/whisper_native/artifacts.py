"""What torch.compile made, kept from start to start.

``torch.compiler.save_cache_artifacts`` packs everything compiled in a process into bytes, and
``load_cache_artifacts`` gives it to the next one, also on another machine of the same kind. They fit only the
torch, Triton, GPU and network that they were made with, so a file's name carries all of these. The bytes hold
pickled objects: they come from the release or from this service's own cache, never from elsewhere.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import logging
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import torch

from orchestrator.engines.whisper_native.checkpoint import WhisperShape

SUFFIX: Final = ".compiled"
RELEASE_FOLDER: Final = "compiled"
"""Below an engine's folder: artifacts that were made before the release was built."""
_DIGEST_BYTES: Final = 32
_GENERATION: Final = 1
"""Of this project's own code that is compiled; torch looks at that closer itself."""

_LOG: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Key:
    """What compiled code fits."""

    torch: str
    triton: str
    device: str
    network: str

    @property
    def name(self) -> str:
        """A file's name: readable, and different for different keys."""
        whole = hashlib.sha256("\n".join(asdict(self).values()).encode()).hexdigest()[:16]
        plain = "-".join(f"{part}" for part in (f"torch{self.torch}", f"triton{self.triton}", self.device))
        return (
            "".join(char if char.isalnum() or char in "-." else "_" for char in plain) + f"-{whole}{SUFFIX}"
        )


def key_for(shape: WhisperShape, device: torch.device, dtype: torch.dtype) -> Key:
    """The key of what is compiled here for a network of ``shape``."""
    network = f"{_GENERATION} {dtype} " + " ".join(str(number) for number in asdict(shape).values())
    return Key(torch.__version__, _triton(), device_kind(device), network)


def device_kind(device: torch.device) -> str:
    """A GPU's name and architecture, or a CPU's instruction set."""
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        return f"{torch.cuda.get_device_name(device)} sm_{major}{minor}"
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


def cache_folder(environment: Mapping[str, str] | None = None) -> Path | None:
    """Where a server keeps this: beside ``TORCHINDUCTOR_CACHE_DIR``; None where that is not set."""
    own = (os.environ if environment is None else environment).get("TORCHINDUCTOR_CACHE_DIR")
    return Path(own).parent / "whisper_torch" if own else None


def compiled_anew() -> bool:
    """Whether this process compiled anything that was not kept."""
    from torch._dynamo.utils import counters

    return bool(counters["inductor"]["fxgraph_cache_miss"])


class Store:
    """Artifacts of one key: read from the service's own folder or from a release, kept in the former."""

    def __init__(self, key: Key, own: Path | None, release: Path | None = None) -> None:
        self._key = key
        self._own = own
        self._folders: Sequence[Path] = [folder for folder in (own, release) if folder is not None]

    def load(self) -> bool:
        """Hand what fits to torch; whether there was any. What is damaged or refused is told and left
        alone."""
        for folder in self._folders:
            path = folder / self._key.name
            try:
                data = path.read_bytes()
            except FileNotFoundError:
                continue
            except OSError as error:
                _LOG.warning("%s cannot be read, compiling anew: %s", path, error.strerror)
                continue
            digest, payload = data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]
            if hashlib.sha256(payload).digest() != digest:
                _LOG.warning("%s is damaged, compiling anew", path)
                continue
            if torch.compiler.load_cache_artifacts(payload) is not None:
                return True
            _LOG.warning("torch does not take %s, compiling anew", path)
        return False

    def save(self) -> Path | None:
        """Keep what this process has compiled; None where there is nothing, or nowhere to keep it."""
        if self._own is None:
            return None
        made = torch.compiler.save_cache_artifacts()
        if made is None:
            return None
        payload = made[0]
        path = self._own / self._key.name
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            part.write_bytes(hashlib.sha256(payload).digest() + payload)
            part.replace(path)
        except OSError as error:
            part.unlink(missing_ok=True)
            _LOG.warning("compiled code cannot be kept in %s: %s", path.parent, error.strerror)
            return None
        return path


def _triton() -> str:
    try:
        return importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        return "none"
