from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator import errors
from orchestrator.backend.faults import PREFIX, decode, encode


@given(
    message=st.text(max_size=500),
    fix=st.none() | st.text(max_size=100),
    model=st.none() | st.text(max_size=20),
    before=st.text(max_size=20).filter(lambda text: PREFIX not in text),
    after=st.text(max_size=20),
)
def test_errors_survive_the_wire_wherever_triton_puts_them(
    message: str, fix: str | None, model: str | None, before: str, after: str
) -> None:
    sent = errors.UnsupportedLanguageError(message, fix=fix, model=model)
    got = decode(before + encode(sent) + after, host="spark:8001")
    assert type(got) is errors.UnsupportedLanguageError
    assert (got.message, got.fix, got.model, got.host) == (message, fix, model, "spark:8001")


@pytest.mark.parametrize(
    "message", ["", "Socket closed", PREFIX, PREFIX + "{", PREFIX + "[]", PREFIX + '{"message": 3}']
)
def test_other_messages_are_not_taken_for_ours(message: str) -> None:
    assert decode(message) is None


def test_an_inference_error_is_a_remote_one_to_its_reader() -> None:
    assert type(decode(encode(errors.InferenceError("out of memory")))) is errors.RemoteInferenceError


def test_a_class_from_a_newer_server_becomes_a_remote_inference_error() -> None:
    got = decode(PREFIX + '{"error": "FromTheFutureError", "message": "no"}', model="parakeet")
    assert type(got) is errors.RemoteInferenceError
    assert got.model == "parakeet"


def test_paths_of_the_server_stay_there_and_long_messages_fit_a_header() -> None:
    text = encode(errors.ModelLoadError("x" * 100_000, path="/srv/secret", fix="y" * 100_000))
    assert "/srv/secret" not in text
    assert len(text) < 8_000


def test_the_client_can_import_it_without_anything_heavy() -> None:
    heavy = "{'torch', 'numpy', 'tritonclient'}"
    code = f"import sys, orchestrator.backend.faults; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
