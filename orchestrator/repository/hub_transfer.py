"""One file from a Hugging Face hub into a partial file, from where an earlier try ended.

The hub library's own download keeps nothing of a transfer that failed, so this uses its two lower steps: ask
for the file's address and size, then stream from an offset. It retries a cut connection by itself.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final, cast
from urllib.parse import urljoin, urlsplit

from orchestrator.repository.sources import HubSource
from orchestrator.repository.storage import CHUNK_BYTES, storage_errors

TIMEOUT_S: Final = 20.0
OnBytes = Callable[[int], None]


def transfer(
    source: HubSource,
    path: str,
    size: int,
    partial: Path,
    endpoint: str | None,
    token: str | None,
    on_bytes: OnBytes | None = None,
) -> None:
    """Fill ``partial`` up to ``size`` bytes with the file ``path`` of ``source``.

    Raises:
        OSError: what the hub library raises (see `hub_errors`); ``partial`` keeps what came.
        DiskFullError, RepositoryError: see `storage.storage_errors`.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    url = hf_hub_url(source.id, path, revision=source.revision, endpoint=endpoint)
    metadata = get_hf_file_metadata(url, token=token, timeout=TIMEOUT_S)
    location = urljoin(url, metadata.location)
    headers = build_hf_headers(token=token)
    if urlsplit(location).netloc != urlsplit(url).netloc:
        headers.pop("authorization", None)  # a signed address elsewhere must not see the token
    with _open_partial(partial, size) as sink, _quiet("huggingface_hub"):
        start = sink.tell()
        if on_bytes is not None and start:
            on_bytes(start)
        http_get(
            location,
            cast("Any", _Counting(sink, on_bytes)),
            resume_size=start,
            headers=headers,
            expected_size=size,
            displayed_filename=path,
            tqdm_class=cast("Any", _NoBar),
        )


class _Counting:
    """What the hub library writes into: the file, with each piece told of; starting over takes it back."""

    def __init__(self, sink: BinaryIO, on_bytes: OnBytes | None) -> None:
        self._sink = sink
        self._on_bytes = on_bytes or (lambda size: None)

    def write(self, data: bytes) -> int:
        # Here and not around the transfer: the hub library's own errors are OSErrors too.
        with storage_errors(Path(self._sink.name)):
            written = self._sink.write(data)
        self._on_bytes(written)
        return written

    def tell(self) -> int:
        return self._sink.tell()

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._sink.seek(offset, whence)

    def truncate(self, size: int | None = None) -> int:
        before = os.fstat(self._sink.fileno()).st_size
        after = self._sink.truncate(size)
        self._on_bytes(after - max(before, after))
        return after


class _NoBar:
    """Stands in for the hub library's own bar: progress goes through this project's reporter."""

    def __init__(self, **settings: Any) -> None:
        pass

    def __enter__(self) -> _NoBar:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def update(self, size: int) -> None:
        pass


@contextmanager
def _open_partial(partial: Path, size: int) -> Iterator[BinaryIO]:
    """The partial file, at its end; one that is longer than the whole is started over."""
    with storage_errors(partial):
        partial.touch()
        if partial.stat().st_size > size:
            partial.write_bytes(b"")
        sink = partial.open("r+b", buffering=CHUNK_BYTES)
    try:
        sink.seek(0, os.SEEK_END)
        yield sink
        with storage_errors(partial):
            sink.flush()
            os.fsync(sink.fileno())
    finally:
        with storage_errors(partial):
            sink.close()


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Keep a library's retry warnings, which repeat signed addresses, out of the terminal."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
