"""Read a multipart form as it arrives: the one file to disk, small fields to memory, everything bounded."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final, Self

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from orchestrator.errors import DiskFullError
from orchestrator.gateway.http.errors import ApiError, refuse

FILE_FIELD: Final = "file"
MAX_FIELD_BYTES: Final = 64 * 1024
"""Of one field that is not the file, and of the heads of all parts together."""
MAX_FIELDS: Final = 64
OVERHEAD_BYTES: Final = MAX_FIELD_BYTES * 4
"""What a body may hold beside the file: fields, part heads and boundaries."""
_NAME_CHARACTERS: Final = 60


@dataclass(frozen=True, slots=True)
class FormLimits:
    """Bytes of the file, and seconds for the whole body to arrive."""

    max_file_bytes: int
    timeout_s: float


@dataclass(slots=True)
class Form:
    """A form as it was sent; a context manager that removes the file.

    Attributes:
        fields: the values of each field in order.
        path: the file under a safe form of its own name, None if none was sent.
        size: its bytes.
    """

    folder: Path
    fields: dict[str, list[str]] = field(default_factory=dict)
    path: Path | None = None
    size: int = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def remove(self) -> None:
        """Remove the file; safe to call again."""
        shutil.rmtree(self.folder, ignore_errors=True)


def boundary_of(content_type: str) -> bytes:
    """The boundary in a Content-Type.

    Raises:
        ApiError: 415 for another kind of body, 400 without a boundary.
    """
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data":
        raise ApiError(
            "The body must be multipart/form-data with the recording in the field 'file'.",
            status=415,
            code="unsupported_media_type",
        )
    boundary = options.get(b"boundary", b"")
    if not boundary:
        raise _malformed("its Content-Type has no boundary")
    return boundary


async def receive(
    headers: Mapping[str, str], chunks: AsyncIterator[bytes], spool: Path, limits: FormLimits
) -> Form:
    """Read a form from ``chunks``; when it cannot be had, nothing is left in ``spool``.

    Raises:
        ApiError: 413 as soon as it is known to be too large, 408 when it takes too long, 415 or 400 when it
            is not a form.
        DiskFullError: no space for the file.
    """
    boundary = boundary_of(headers.get("content-type", ""))
    declared = headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limits.max_file_bytes + OVERHEAD_BYTES:
        raise too_large(limits.max_file_bytes)
    form = Form(Path(tempfile.mkdtemp(dir=spool)))
    try:
        with _Reader(form, boundary, limits.max_file_bytes) as reader:
            async with asyncio.timeout(limits.timeout_s):
                async for chunk in chunks:
                    reader.write(chunk)
            reader.end()
    except TimeoutError as error:
        form.remove()
        raise ApiError(
            f"The body did not arrive within {limits.timeout_s:g} s.",
            status=408,
            code="upload_timeout",
            headers={"Connection": "close"},
        ) from error
    except BaseException:
        form.remove()
        raise
    return form


def too_large(max_bytes: int) -> ApiError:
    """413 for a file over the limit."""
    return ApiError(
        f"The recording is larger than {max_bytes:,} bytes, the most that this gateway takes.",
        status=413,
        param=FILE_FIELD,
        code="file_too_large",
    )


def safe_name(name: str) -> str:
    """``name`` as the name of a file: no folders, nothing unprintable, not too long, never empty."""
    base = name.replace("\\", "/").rpartition("/")[2]
    kept = "".join(char for char in base if char.isprintable()).strip(" .")
    return kept[-_NAME_CHARACTERS:] or "recording"


class _Reader:
    """Turns python-multipart's callbacks into a `Form`."""

    def __init__(self, form: Form, boundary: bytes, max_file_bytes: int) -> None:
        self._form = form
        self._max_file_bytes = max_file_bytes
        self._file: BinaryIO | None = None
        self._name = ""
        self._value: bytearray | None = None
        self._header: tuple[bytearray, bytearray] = (bytearray(), bytearray())
        self._headers: dict[bytes, bytes] = {}
        self._head_bytes = 0
        self._parts = 0
        self._ended = False
        callbacks: dict[str, Callable[..., Any]] = {
            "on_part_begin": self._part_begin,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_part_data": self._part_data,
            "on_part_end": self._part_end,
            "on_end": self._end,
        }
        try:
            self._parser = MultipartParser(boundary, callbacks)  # type: ignore[arg-type]
        except FormParserError as error:
            raise _malformed("its boundary is too long") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def write(self, chunk: bytes) -> None:
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise _malformed("its parts cannot be told apart") from error
        except OSError as error:
            raise DiskFullError(
                f"The recording cannot be kept while it arrives: {error.strerror}.",
                fix="make room for temporary files on the gateway's machine.",
            ) from error

    def end(self) -> None:
        if not self._ended:
            raise _malformed("it ends before its last boundary")

    def _part_begin(self) -> None:
        self._headers = {}
        self._parts += 1
        if self._parts > MAX_FIELDS:
            raise ApiError(f"The form has more than {MAX_FIELDS} fields.", code="too_many_fields")

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header[0].extend(self._counted(data[start:end]))

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._header[1].extend(self._counted(data[start:end]))

    def _counted(self, data: bytes) -> bytes:
        self._head_bytes += len(data)
        if self._head_bytes > MAX_FIELD_BYTES:
            raise _malformed("the heads of its parts are too long")
        return data

    def _header_end(self) -> None:
        key, value = self._header
        self._headers[bytes(key).lower()] = bytes(value)
        self._header = (bytearray(), bytearray())

    def _headers_finished(self) -> None:
        kind, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        name = options.get(b"name", b"")
        if kind != b"form-data" or not name:
            raise _malformed("a part has no name")
        self._name = _text(name, "the name of a part")
        filename = options.get(b"filename")
        if self._name != FILE_FIELD:
            if filename is not None:
                raise refuse(self._name[:100], f"{self._name[:100]!r} must be a value, not a file.")
            self._value = bytearray()
            return
        if filename is None:
            raise refuse(FILE_FIELD, "'file' must be sent as a file, with a filename.")
        if self._form.path is not None:
            raise refuse(FILE_FIELD, "Only one recording can be sent in a request.")
        self._form.path = self._form.folder / safe_name(filename.decode("utf-8", errors="replace"))
        self._file = self._form.path.open("xb")

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._value is not None:
            self._value += data[start:end]
            if len(self._value) > MAX_FIELD_BYTES:
                raise refuse(self._name[:100], f"A field may hold {MAX_FIELD_BYTES:,} bytes at most.")
        elif self._file is not None:
            self._form.size += end - start
            if self._form.size > self._max_file_bytes:
                raise too_large(self._max_file_bytes)
            self._file.write(memoryview(data)[start:end])

    def _part_end(self) -> None:
        if self._value is not None:
            text = _text(bytes(self._value), f"{self._name[:100]!r}", self._name[:100])
            self._form.fields.setdefault(self._name, []).append(text)
            self._value = None
        elif self._file is not None:
            self._file.close()
            self._file = None

    def _end(self) -> None:
        self._ended = True


def _text(data: bytes, what: str, param: str | None = None) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ApiError(f"{what} is not UTF-8 text.", param=param, code="invalid_encoding") from error


def _malformed(reason: str) -> ApiError:
    return ApiError(f"This is no sound multipart/form-data: {reason}.", code="malformed_body")
