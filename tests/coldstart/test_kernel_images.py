"""Images as archives: layers that hide one another, compressed ones, and archives that are none."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.coldstart import kernel_images
from orchestrator.coldstart.compatibility import JitPolicy, Outcome, Platform
from orchestrator.coldstart.gpu_target import GpuTarget
from orchestrator.coldstart.kernel_report import audit
from orchestrator.errors import AuditError
from tests.coldstart.fatbins import BINARIES

NATIVE = (BINARIES / "two_modules.so").read_bytes()
FOREIGN = (BINARIES / "linked.so").read_bytes()
CONFIG = {"config": {"Env": ["PATH=/usr/bin", "CUDA_FORCE_PTX_JIT=1"]}}


def tar_of(files: Mapping[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return out.getvalue()


def docker_archive(*layers: bytes) -> bytes:
    names = [f"layer{number}/layer.tar" for number in range(len(layers))]
    manifest = [{"Config": "config.json", "Layers": names}]
    return tar_of(
        {
            **dict(zip(names, layers, strict=True)),
            "config.json": json.dumps(CONFIG).encode(),
            "manifest.json": json.dumps(manifest).encode(),
        }
    )


def oci_archive(*layers: bytes) -> bytes:
    blobs: dict[str, bytes] = {}

    def put(data: bytes) -> dict[str, str]:
        digest = hashlib.sha256(data).hexdigest()
        blobs[f"blobs/sha256/{digest}"] = data
        return {"digest": f"sha256:{digest}"}

    manifest = {"config": put(json.dumps(CONFIG).encode()), "layers": [put(layer) for layer in layers]}
    platforms = {"manifests": [put(json.dumps(manifest).encode())]}
    index = {"manifests": [put(json.dumps(platforms).encode())]}
    return tar_of({**blobs, "index.json": json.dumps(index).encode()})


LOWER = tar_of(
    {
        "usr/lib/kept.so": NATIVE,
        "usr/lib/replaced.so": FOREIGN,
        "usr/lib/removed.so": FOREIGN,
        "opt/old/gone.so": FOREIGN,
        "etc/passwd": b"root" * 50,
    }
)
UPPER = tar_of(
    {
        "usr/lib/replaced.so": NATIVE,
        "usr/lib/.wh.removed.so": b"",
        "opt/old/.wh..wh..opq": b"",
        "opt/old/new.so": NATIVE,
    }
)


@pytest.mark.parametrize("make", [docker_archive, oci_archive])
@pytest.mark.parametrize("layers", ["plain", "compressed"])
@pytest.mark.parametrize("outer", ["plain", "compressed"])
def test_an_image_is_seen_as_its_containers_see_it(
    make: object, layers: str, outer: str, tmp_path: Path
) -> None:
    assert callable(make)
    data = make(*(gzip.compress(one) if layers == "compressed" else one for one in (LOWER, UPPER)))
    path = tmp_path / "image.tar"
    path.write_bytes(gzip.compress(data) if outer == "compressed" else data)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    assert kernel_images.is_archive(path)
    found = kernel_images.of_archive(path, scratch)
    assert found.environment is not None
    assert found.environment["CUDA_FORCE_PTX_JIT"] == "1"
    platform = Platform(GpuTarget(12, 1))
    report = audit("image", found, platform)
    assert {verdict.path: verdict.outcome for verdict in report.files} == {
        "/usr/lib/kept.so": Outcome.NATIVE,
        "/usr/lib/replaced.so": Outcome.NATIVE,
        "/opt/old/new.so": Outcome.NATIVE,
    }
    forced = Platform(GpuTarget(12, 1), jit=JitPolicy.of(found.environment))
    assert audit("image", found, forced).count(Outcome.JIT) == 3


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (tar_of({"readme.txt": b"x" * 100}), "neither manifest.json nor index.json"),
        (tar_of({"manifest.json": b"[]"}), "no container image"),
        (tar_of({"manifest.json": b"not json"}), "no container image"),
        (tar_of({"manifest.json": b'[{"Config": "c.json", "Layers": []}]'}), "lacks its part c.json"),
        (gzip.compress(docker_archive(LOWER))[:-600], "cannot be read|no container image"),
        (docker_archive(LOWER)[:3000], "no container image|lacks its part"),
        (docker_archive(b"\x28\xb5\x2f\xfd" + bytes(600)), "Zstandard"),
        (docker_archive(gzip.compress(LOWER)[:200]), "no container image"),
        (docker_archive(b"nonsense" * 100), "no container image"),
    ],
)
def test_what_is_no_image_is_an_error_with_a_way_out(data: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "image.tar"
    path.write_bytes(data)
    with pytest.raises(AuditError, match=said) as caught:
        kernel_images.of_archive(path, tmp_path)
    assert caught.value.fix is not None


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, 1 << 16), st.binary(min_size=1, max_size=8)), min_size=1, max_size=6)
)
def test_damaged_archives_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, edits: list[tuple[int, bytes]]
) -> None:
    folder = tmp_path_factory.mktemp("image")
    data = bytearray(docker_archive(LOWER, gzip.compress(UPPER)))
    for at, new in edits:
        at %= len(data)
        data[at : at + len(new)] = new
    path = folder / "image.tar"
    path.write_bytes(bytes(data))
    try:
        found = kernel_images.of_archive(path, folder)
    except AuditError:
        return
    audit("image", found, Platform(GpuTarget(12, 1)))


def test_a_folder_is_no_archive(tmp_path: Path) -> None:
    assert not kernel_images.is_archive(tmp_path)
    assert not kernel_images.is_archive(tmp_path / "nothing")
    assert not kernel_images.is_archive(BINARIES / "linked.so")


def test_an_image_by_name_comes_from_the_container_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tmp_path / "made.tar"
    archive.write_bytes(docker_archive(LOWER))
    program = tmp_path / "bin" / "docker"
    program.parent.mkdir()
    program.write_text(
        "#!/bin/sh\n"
        '[ "$1 $2 $3 $5" = "image save --output --" ] || exit 9\n'
        '[ "$6" = "triton:25.11" ] || { echo "no such image" >&2; exit 1; }\n'
        f'cp {archive} "$4"\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    assert kernel_images.saved("triton:25.11", scratch).read_bytes() == archive.read_bytes()
    with pytest.raises(AuditError, match="no such image"):
        kernel_images.saved("triton:other", scratch)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(AuditError, match="no docker or podman"):
        kernel_images.saved("triton:25.11", scratch)
