from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.errors import DiskFullError
from orchestrator.gateway.http.errors import ApiError
from orchestrator.gateway.http.form import (
    MAX_FIELD_BYTES,
    MAX_FIELDS,
    OVERHEAD_BYTES,
    Form,
    FormLimits,
    receive,
    safe_name,
)

LIMITS = FormLimits(max_file_bytes=1000, timeout_s=60)


async def pieces(body: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(body), size):
        yield body[start : start + size]


def read(
    body: bytes,
    spool: Path,
    content_type: str = "multipart/form-data; boundary=gggg",
    *,
    size: int = 1 << 16,
    limits: FormLimits = LIMITS,
    headers: Mapping[str, str] | None = None,
) -> Form:
    given = {"content-type": content_type, **(headers or {})}
    return asyncio.run(receive(given, pieces(body, size), spool, limits))


def refused(*args: Any, **kwargs: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        read(*args, **kwargs)
    return caught.value


@pytest.mark.parametrize("size", [1, 7, 1 << 16])
def test_fields_and_file_however_the_body_is_cut(tools: Any, tmp_path: Path, size: int) -> None:
    recording = bytes(range(256)) + b"\r\n--ggg\r\n--gggX" * 3
    with read(tools.multipart({"model": "auto", "a": "é"}, recording), tmp_path, size=size) as form:
        assert form.fields == {"model": ["auto"], "a": ["é"]}
        assert form.path is not None
        assert form.path.name == "meeting.wav"
        assert form.path.read_bytes() == recording
        assert form.size == len(recording)
    assert list(tmp_path.iterdir()) == []


def test_repeated_fields_keep_their_order(tools: Any, tmp_path: Path) -> None:
    body = tools.multipart({"x": "1"}).replace(
        b"--gggg--", b'--gggg\r\nContent-Disposition: form-data; name="x"\r\n\r\n2\r\n--gggg--'
    )
    with read(body, tmp_path) as form:
        assert form.fields["x"] == ["1", "2"]


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("talk.wav", "talk.wav"),
        ("../../etc/passwd", "passwd"),
        ("C:\\x\\talk.wav", "talk.wav"),
        ("..", "recording"),
        ("", "recording"),
        ("a\x00b\n.wav", "ab.wav"),
        ("x" * 300 + ".wav", "x" * 56 + ".wav"),
    ],
)
def test_a_name_cannot_lead_elsewhere(name: str, kept: str) -> None:
    assert safe_name(name) == kept


@given(st.text())
def test_any_name_is_one_that_files_can_have(name: str) -> None:
    kept = safe_name(name)
    assert 0 < len(kept) <= 60
    assert "/" not in kept
    assert kept.strip(".") != ""


def test_a_file_over_the_limit_is_refused_while_it_arrives(tools: Any, tmp_path: Path) -> None:
    seen = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal seen
        yield tools.multipart({}, b"").partition(b"\r\n--gggg--")[0]
        while True:
            seen += 100
            yield b"x" * 100

    headers = {"content-type": tools.CONTENT_TYPE}
    with pytest.raises(ApiError) as caught:
        asyncio.run(receive(headers, endless(), tmp_path, LIMITS))
    assert (caught.value.status, caught.value.param) == (413, "file")
    assert seen <= 1100
    assert list(tmp_path.iterdir()) == []


def test_a_body_declared_too_large_is_not_read(tools: Any, tmp_path: Path) -> None:
    async def untouched() -> AsyncIterator[bytes]:
        pytest.fail("the body was read")
        yield b""

    headers = {"content-type": tools.CONTENT_TYPE, "content-length": str(1001 + OVERHEAD_BYTES)}
    with pytest.raises(ApiError) as caught:
        asyncio.run(receive(headers, untouched(), tmp_path, LIMITS))
    assert caught.value.status == 413


def test_a_file_of_exactly_the_limit_is_taken(tools: Any, tmp_path: Path) -> None:
    with read(tools.multipart({}, b"x" * 1000), tmp_path) as form:
        assert form.size == 1000


def test_a_body_that_takes_too_long(tools: Any, tmp_path: Path) -> None:
    async def slow() -> AsyncIterator[bytes]:
        for byte in tools.multipart({"model": "auto"}):
            yield bytes([byte])
            await asyncio.sleep(0.05)

    headers = {"content-type": tools.CONTENT_TYPE}
    with pytest.raises(ApiError) as caught:
        asyncio.run(receive(headers, slow(), tmp_path, FormLimits(1000, 0.2)))
    assert caught.value.status == 408
    assert caught.value.headers == {"Connection": "close"}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("", 415),
        ("application/json", 415),
        ("application/x-www-form-urlencoded", 415),
        ("multipart/mixed; boundary=gggg", 415),
        ("multipart/form-data", 400),
        ("multipart/form-data; boundary=", 400),
        ("multipart/form-data; boundary=" + "g" * 5000, 400),
        ("multipart/form-data; boundary=other", 400),
    ],
)
def test_other_bodies(tools: Any, tmp_path: Path, content_type: str, status: int) -> None:
    assert refused(tools.multipart({}), tmp_path, content_type).status == status
    assert list(tmp_path.iterdir()) == []


def part(head: str, content: bytes = b"x") -> bytes:
    return f"--gggg\r\n{head}\r\n\r\n".encode() + content + b"\r\n--gggg--\r\n"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "malformed_body"),
        (b"--gggg", "malformed_body"),
        (b"no form at all", "malformed_body"),
        (part("X-Other: 1"), "malformed_body"),
        (part("Content-Disposition: form-data"), "malformed_body"),
        (part('Content-Disposition: attachment; name="a"'), "malformed_body"),
        (part('Content-Disposition: form-data; name="file"'), "invalid_value"),
        (part('Content-Disposition: form-data; name="model"; filename="a"'), "invalid_value"),
        (part('Content-Disposition: form-data; name="model"', b"\xff\xfe"), "invalid_encoding"),
        (part('Content-Disposition: form-data; name="m"', b"x" * (MAX_FIELD_BYTES + 1)), "invalid_value"),
        (part('Content-Disposition: form-data; name="m"\r\nX: ' + "y" * 70_000), "malformed_body"),
        (part("X: y\r\n" * 10_000), "malformed_body"),
    ],
)
def test_malformed_bodies(tmp_path: Path, body: bytes, code: str) -> None:
    error = refused(body, tmp_path)
    assert (error.status, error.code) == (400, code)
    assert list(tmp_path.iterdir()) == []


def test_too_many_fields(tools: Any, tmp_path: Path) -> None:
    body = tools.multipart({f"f{number}": "" for number in range(MAX_FIELDS + 1)})
    assert refused(body, tmp_path).code == "too_many_fields"


def test_two_files(tools: Any, tmp_path: Path) -> None:
    one = tools.multipart({}).partition(b"--gggg--")[0]
    assert refused(one + tools.multipart({}), tmp_path).param == "file"


def test_a_full_disk(tools: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(DiskFullError, match="No space left"):
        read(tools.multipart({}), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("cut", [10, 60, 100, -3, -12])
def test_a_body_that_ends_early(tools: Any, tmp_path: Path, cut: int) -> None:
    assert refused(tools.multipart({"model": "auto"})[:cut], tmp_path).code == "malformed_body"
    assert list(tmp_path.iterdir()) == []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=150)
@given(data=st.data())
def test_damaged_bodies_are_a_form_or_a_clear_refusal(
    tools: Any, tmp_path: Path, data: st.DataObject
) -> None:
    body = bytearray(tools.multipart({"model": "auto", "language": "en"}))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(body) - 1))
        body[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
    status = None
    try:
        read(bytes(body), tmp_path, size=data.draw(st.integers(1, 80))).remove()
    except ApiError as error:
        status = error.status
    assert status in (None, 400)
    assert list(tmp_path.iterdir()) == []
