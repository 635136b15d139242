"""What the server's log says."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.backend.faults import encode
from orchestrator.errors import ModelLoadError
from orchestrator.runtime.log import ModelPhase, error_lines, explain, facts, last_error, tail

STAMP = "1122 15:02:39.244658 11564"
HARMLESS = (
    f'E{STAMP} server.cc:241] "CudaDriverHelper has not been initialized."\n'
    "Error: Failed to initialize NVML\n"
)
LOADING = f'I{STAMP} model_lifecycle.cc:472] "loading: {{}}:1"\n'
READY = f"I{STAMP} model_lifecycle.cc:839] \"successfully loaded '{{}}'\"\n"
FAILED = f"E{STAMP} model_lifecycle.cc:642] \"failed to load '{{}}' version 1: {{}}\"\n"
STACK = (
    r"Internal: ValueError: no weights: w.bin\n\nAt:\n"
    r"  <frozen importlib>(1): x\n  /r/m/1/model.py(5): initialize\n"
)


def test_phases_follow_the_log() -> None:
    log = HARMLESS + LOADING.format("a") + LOADING.format("b") + LOADING.format("c")
    log += READY.format("a") + FAILED.format("b", STACK)
    found = facts(log)
    assert found.phases == {"a": ModelPhase.READY, "b": ModelPhase.FAILED, "c": ModelPhase.LOADING}
    assert found.reasons == {"b": "ValueError: no weights: w.bin [/r/m/1/model.py(5): initialize]"}


def test_a_model_that_is_loaded_again_is_loading_again() -> None:
    log = LOADING.format("a") + READY.format("a") + LOADING.format("a")
    assert facts(log).phases == {"a": ModelPhase.LOADING}


def test_a_model_the_repository_lacks_has_failed() -> None:
    said = "failed to poll model 'a': model not found in any model repository."
    log = f'E{STAMP} model_repository_manager.cc:1415] "{said}"\n'
    assert facts(log).reasons == {"a": "model not found in any model repository."}


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        (r"Internal: ValueError: x\n\nAt:\n  /r/1/model.py(5): f\n", "ValueError: x [/r/1/model.py(5): f]"),
        ("Internal: ValueError: x\n\nAt:\n  /r/1/model.py(5): f\n", "ValueError: x [/r/1/model.py(5): f]"),
        ("SyntaxError: invalid syntax (model.py, line 1)", "SyntaxError: invalid syntax (model.py, line 1)"),
        (r"Internal: ImportError: a\nb\n\nAt:\n  <frozen x>(1): y\n", "ImportError: a b"),
        ("", ""),
    ],
)
def test_the_reason_is_one_line_without_the_stack(reason: str, expected: str) -> None:
    assert explain(reason) == expected


def test_an_error_of_this_project_is_told_with_its_fix() -> None:
    sent = encode(ModelLoadError("the weights are damaged", fix="Build the release again"))
    reason = rf"Internal: TritonModelException: {sent}\n\nAt:\n  /r/1/model.py(5): f\n"
    assert explain(reason) == "the weights are damaged. Build the release again"


def test_a_dead_model_process_is_explained_by_what_it_printed() -> None:
    log = "Traceback (most recent call last):\n  File x\nMemoryError: no room\n"
    assert explain("Internal: Stub process 'a_0_0' is not healthy.", log) == (
        "the model's process died: MemoryError: no room"
    )
    assert explain("Internal: Stub process 'a_0_0' is not healthy.") == "the model's process died"


def test_the_last_error_prefers_the_python_exception_and_skips_the_harmless() -> None:
    triton = f'E{STAMP} grpc_server.cc:1] "failed to start GRPC service"\n'
    assert last_error(HARMLESS) is None
    assert last_error(HARMLESS + triton) == "failed to start GRPC service"
    assert last_error("OSError: broken\n" + triton) == "OSError: broken"
    missing = (
        "stub: error while loading shared libraries: libpython3.12.so.1.0: cannot open shared object file"
    )
    assert last_error(missing + "\n" + triton) == missing


def test_words_that_end_in_error_are_no_exception() -> None:
    assert last_error("I saw a TimeoutError: yesterday\nNoErrors here\n") is None


def test_tail_reads_the_end_and_minds_no_missing_file(tmp_path: Path) -> None:
    path = tmp_path / "log"
    assert tail(path) == ""
    path.write_bytes(b"a" * 100 + b"\xffend")
    assert tail(path, 4).endswith("end")
    assert len(tail(path, 4)) == 4


def test_lines_that_tell_an_error() -> None:
    text = """
I1122 01:02:03.4 7 server.cc:1] "all ERRORs are gone"
E1122 01:02:03.4 7 model.cc:12] "boom"
E1122 01:02:03.4 7 cuda.cc:3] "CudaDriverHelper has not been initialized"
triton-1  | E1122 01:02:04.4 7 model.cc:13] "in a container"
Traceback (most recent call last):
ValueError: no weights
2026-11-22 10:00:00 ERROR uvicorn: lost
{"level": "error", "status": 500}
{"level": "info", "text": "no error"}
an error that nobody means
E1122 01:02:03.4 7 model.cc:12] "boom"
"""
    assert error_lines(text) == [
        'E1122 01:02:03.4 7 model.cc:12] "boom"',
        'E1122 01:02:04.4 7 model.cc:13] "in a container"',
        "Traceback (most recent call last):",
        "ValueError: no weights",
        "2026-11-22 10:00:00 ERROR uvicorn: lost",
        '{"level": "error", "status": 500}',
    ]
