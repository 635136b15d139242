from __future__ import annotations

import importlib.util
import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from orchestrator.errors import (
    ArtifactNotFoundError,
    DigestMismatchError,
    DiskFullError,
    GatedModelError,
    HubUnreachableError,
)
from orchestrator.repository.blobs import BlobStore
from orchestrator.repository.hub import Hub
from orchestrator.repository.sources import HubSource

pytest.importorskip("huggingface_hub", reason="the serve extra is not installed")


def _load(name: str) -> ModuleType:
    """A helper module beside this file: tests are imported by path, not from a package."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


hub_server = _load("hub_server")
COMMIT = hub_server.COMMIT
WEIGHTS = os.urandom(300_000)
FILES = {"model.nemo": WEIGHTS, "README.md": b"# hello", "sub/config.yaml": b"a: 1\n"}
SOURCE = HubSource("org/model")


@pytest.fixture
def fake() -> Iterator[Any]:
    with hub_server.serve(hub_server.FakeHub(dict(FILES), lfs=frozenset({"model.nemo"}))) as hub:
        yield hub


@pytest.fixture(autouse=True)
def _small_pieces_quick_retries_no_login(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    # The library hands over whole pieces of 10 MB and loses one that is cut: with small ones, small files do.
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 10_000)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)


@pytest.fixture
def connect(tmp_path: Path) -> Callable[..., Hub]:
    """Make a `Hub` over one cache; called again, it is another build on the same machine."""

    def make(fake: Any, **options: Any) -> Hub:
        url = fake if isinstance(fake, str) else fake.url
        return Hub(tmp_path / "cache", BlobStore(tmp_path / "blobs"), endpoint=url, **options)

    return make


def partials(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "cache" / "partial").glob("*"))


def fetch(hub: Hub, name: str = "model.nemo", source: HubSource = SOURCE) -> tuple[bytes, list[int]]:
    sizes: list[int] = []
    snapshot = hub.snapshot(source, "parakeet")
    (file,) = (file for file in snapshot.files if file.path == name)
    blob = hub.fetch(snapshot, file, "parakeet", sizes.append)
    return blob.path.read_bytes(), sizes


def test_a_branch_becomes_its_commit_and_files_come_with_progress(
    fake: Any, connect: Callable[..., Hub]
) -> None:
    snapshot = connect(fake).snapshot(SOURCE, "parakeet")
    assert snapshot.commit == COMMIT
    assert {file.path: file.size for file in snapshot.files} == {k: len(v) for k, v in FILES.items()}
    data, sizes = fetch(connect(fake))
    assert data == WEIGHTS
    assert sum(sizes) == len(WEIGHTS)
    assert fetch(connect(fake), "sub/config.yaml")[0] == b"a: 1\n"


def test_a_pinned_commit_is_built_again_without_asking(fake: Any, connect: Callable[..., Hub]) -> None:
    pinned = HubSource("org/model", COMMIT)
    for name in ("model.nemo", "README.md"):
        fetch(connect(fake), name, pinned)
    asked = len(fake.requests)
    for name in ("model.nemo", "README.md"):
        assert fetch(connect(fake, offline=True), name, pinned)[0] == FILES[name]
    assert len(fake.requests) == asked


def test_a_connection_cut_in_the_middle_is_resumed(fake: Any, connect: Callable[..., Hub]) -> None:
    fake.cuts = [100_000, 50_000]
    data, sizes = fetch(connect(fake))
    assert data == WEIGHTS
    assert sum(sizes) == len(WEIGHTS)
    assert fake.downloads == [None, "bytes=100000-", "bytes=150000-"]


def test_another_process_goes_on_where_one_was_cut(
    fake: Any, connect: Callable[..., Hub], tmp_path: Path
) -> None:
    fake.cuts = [120_000, *[0] * 6]  # then the server gives nothing, until the library gives up
    with pytest.raises(HubUnreachableError):
        fetch(connect(fake))
    (partial,) = partials(tmp_path)
    assert partial.read_bytes() == WEIGHTS[:120_000]
    fake.cuts, before = [], len(fake.downloads)
    data, sizes = fetch(connect(fake))
    assert data == WEIGHTS
    assert fake.downloads[before:] == ["bytes=120000-"]
    assert sum(sizes) == len(WEIGHTS)
    assert partials(tmp_path) == []


def test_a_server_that_cannot_resume_starts_over(fake: Any, connect: Callable[..., Hub]) -> None:
    fake.cuts, fake.ranges = [100_000], False
    data, sizes = fetch(connect(fake))
    assert data == WEIGHTS
    assert sum(sizes) == len(WEIGHTS)


@pytest.mark.parametrize("name", ["model.nemo", "sub/config.yaml"])
def test_altered_bytes_are_fetched_once_more_and_then_refused(
    fake: Any, connect: Callable[..., Hub], tmp_path: Path, name: str
) -> None:
    fake.tampered = 1
    assert fetch(connect(fake), name)[0] == FILES[name]
    for path in (tmp_path / "blobs").rglob("*"):
        if path.is_file():
            path.unlink()
    fake.tampered = 2
    with pytest.raises(DigestMismatchError, match=name):
        fetch(connect(fake), name)
    assert partials(tmp_path) == []


def test_a_corrupted_cache_file_is_fetched_again(
    fake: Any, connect: Callable[..., Hub], tmp_path: Path
) -> None:
    pinned = HubSource("org/model", COMMIT)
    fetch(connect(fake), source=pinned)
    (blob,) = (path for path in (tmp_path / "blobs").rglob("*") if path.is_file())
    blob.chmod(0o644)
    blob.write_bytes(b"x" * len(WEIGHTS))
    before = len(fake.downloads)
    assert fetch(connect(fake), source=pinned)[0] == WEIGHTS
    assert len(fake.downloads) == before + 1


def test_a_damaged_list_of_files_is_asked_for_again(
    fake: Any, connect: Callable[..., Hub], tmp_path: Path
) -> None:
    pinned = HubSource("org/model", COMMIT)
    connect(fake).snapshot(pinned, "parakeet")
    (index,) = (tmp_path / "cache" / "hub").rglob("*.json")
    index.write_text("{")
    assert connect(fake).snapshot(pinned, "parakeet").commit == COMMIT


def test_a_gated_model_says_how_to_pass_the_token(fake: Any, connect: Callable[..., Hub]) -> None:
    fake.token = "hf_secret"
    with pytest.raises(GatedModelError, match="licence") as caught:
        fetch(connect(fake))
    assert "SPARK_SPEECH__BUILD__HUB_TOKEN" in str(caught.value)
    assert caught.value.model == "parakeet"
    with pytest.raises(GatedModelError):
        fetch(connect(fake, token="hf_wrong"))
    assert fetch(connect(fake, token="hf_secret"))[0] == WEIGHTS


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (HubSource("org/model", "v9"), "no such revision of org/model@v9"),
        (HubSource("org/model", "0" * 40), "no such revision"),
        (HubSource("org/other"), "no model org/other"),
    ],
)
def test_what_the_hub_does_not_have_is_named(
    fake: Any, connect: Callable[..., Hub], source: HubSource, reason: str
) -> None:
    with pytest.raises(ArtifactNotFoundError, match=reason) as caught:
        connect(fake).snapshot(source, "parakeet")
    assert caught.value.fix


def test_an_unreachable_hub_names_the_ways_without_one(connect: Callable[..., Hub]) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(HubUnreachableError) as caught:
            connect(url).snapshot(SOURCE, "parakeet")
    assert caught.value.host == url.removeprefix("http://")
    assert "parakeet=/path" in str(caught.value)
    assert "parakeet=embedded" in str(caught.value)


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_hub_in_trouble_is_unreachable(fake: Any, connect: Callable[..., Hub], status: int) -> None:
    fake.status = status
    with pytest.raises(HubUnreachableError, match=str(status)):
        connect(fake).snapshot(SOURCE, "parakeet")


@pytest.mark.parametrize("page", [b"<html>Please log in</html>", b"[]", b"{}"])
def test_what_answers_in_the_hubs_place_is_told(fake: Any, connect: Callable[..., Hub], page: bytes) -> None:
    fake.page = page
    with pytest.raises(HubUnreachableError, match="no model hub"):
        connect(fake).snapshot(SOURCE, "parakeet")


def test_offline_asks_nothing(fake: Any, connect: Callable[..., Hub]) -> None:
    with pytest.raises(HubUnreachableError, match="offline"):
        connect(fake, offline=True).snapshot(SOURCE, "parakeet")
    assert fake.requests == []


def test_a_full_disk_is_told_as_one(
    fake: Any, connect: Callable[..., Hub], monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def full(partial: Path, size: int) -> Iterator[Any]:
        with Path("/dev/full").open("r+b", buffering=0) as sink:  # every write finds no space
            yield sink

    monkeypatch.setattr("orchestrator.repository.hub_transfer._open_partial", full)
    with pytest.raises(DiskFullError, match="no space"):
        fetch(connect(fake))


def test_the_token_is_not_sent_to_another_host(
    fake: Any, connect: Callable[..., Hub], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Large files lie at a signed address elsewhere; `localhost` stands in for it."""
    seen: list[dict[str, str]] = []
    from huggingface_hub import file_download

    original = file_download.http_get

    def spy(url: str, sink: Any, **options: Any) -> None:
        seen.append(options["headers"])
        original(url, sink, **options)

    monkeypatch.setattr(file_download, "http_get", spy)
    elsewhere = connect(fake.url.replace("127.0.0.1", "localhost"), token="hf_secret")
    fetch(elsewhere)
    fetch(elsewhere, "README.md")
    assert ["authorization" in headers for headers in seen] == [False, True]
