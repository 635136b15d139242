"""Small Python models and releases of them, for tests of the server that need no speech model."""

from __future__ import annotations

import io
from pathlib import Path

from orchestrator.repository.blobs import BlobStore
from orchestrator.repository.manifest import FileEntry, Manifest, ModelEntry
from orchestrator.repository.release import Release, ReleaseStore

TYPES = ("FP32", "INT32", "INT64", "BOOL", "STRING")
"""Every tensor type of the contract."""
CONFIG = """
name: "{name}"
backend: "python"
max_batch_size: 0
{tensors}
instance_group {{ kind: KIND_CPU count: 1 }}
"""
TENSOR = '{kind} {{ name: "{name}_{type}" data_type: TYPE_{type} dims: [ -1 ] {optional} }}'
ECHO = """
import os
import sys

import orchestrator.contract  # as the real models do: the server must find this package
import tritonclient
import triton_python_backend_utils as pb

if sys.prefix != {prefix!r}:
    raise RuntimeError(f"the model runs in {{sys.prefix}}")


class TritonPythonModel:
    def execute(self, requests):
        return [pb.InferenceResponse(list(self.answer(request))) for request in requests]

    def answer(self, request):
        for tensor in request.inputs():
            yield pb.Tensor(tensor.name().replace("IN_", "OUT_"), tensor.as_numpy()[::-1])
"""
BROKEN = """
class TritonPythonModel:
    def initialize(self, args):
        raise ValueError("the weights are of another kind")
"""
SLOW = """
import time


class TritonPythonModel:
    def initialize(self, args):
        time.sleep(120)
"""
DYING = """
import os
import sys

print("MemoryError: no room for the weights", file=sys.stderr, flush=True)
os._exit(3)
"""


def echo() -> str:
    """A model that turns each of its inputs round, in the interpreter and environment that runs the tests."""
    import sys

    return ECHO.format(prefix=sys.prefix)


def files_of(name: str, source: str) -> dict[str, str]:
    """One model's files by their path below the model repository."""
    tensors = [
        TENSOR.format(kind="input", name="IN", type=type_, optional="optional: true") for type_ in TYPES
    ]
    tensors += [TENSOR.format(kind="output", name="OUT", type=type_, optional="") for type_ in TYPES]
    config = CONFIG.format(name=name, tensors="\n".join(tensors))
    return {f"{name}/config.pbtxt": config, f"{name}/1/model.py": source}


def write_repository(folder: Path, **models: str) -> Path:
    """A model repository of ``models``, name to the source of model.py."""
    for name, source in models.items():
        for path, text in files_of(name, source).items():
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
    return folder


def publish_release(home: Path, **models: str) -> Release:
    """A release of ``models`` in ``home``, made current."""
    blobs = BlobStore(home / "cache" / "blobs" / "sha256")
    texts = {path: text for name, source in models.items() for path, text in files_of(name, source).items()}
    files = {path: blobs.add_stream(io.BytesIO(text.encode())) for path, text in texts.items()}
    manifest = Manifest.create(
        target="x86_64",
        device="cpu",
        packages={},
        models=tuple(
            ModelEntry(
                name=name,
                task="recognize",
                engine="test",
                source="local",
                revision=None,
                packages={},
                settings={},
            )
            for name in models
        ),
        files=tuple(FileEntry(path=path, sha256=blob.sha256, size=blob.size) for path, blob in files.items()),
    )
    store = ReleaseStore(home)
    with store.locked():
        release = store.publish(manifest, files)
        store.activate(release.id)
    return release
