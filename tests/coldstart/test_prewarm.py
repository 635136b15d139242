from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.cli.app import main
from orchestrator.coldstart import compiled
from orchestrator.coldstart.prewarm import PrewarmReport, Row, prewarm
from orchestrator.coldstart.shapes import LENGTHS_S, ServedModel, Shape, shapes_of
from orchestrator.coldstart.warmup_calls import WarmupCalls
from orchestrator.contract import Task
from orchestrator.errors import RemoteInferenceError, SpeechError
from tests.client.conftest import Model, recognition
from tests.client.stream.conftest import FakeStreams

GPU = ServedModel("parakeet", Task.RECOGNIZE, True, 8, 30.0)
CPU = ServedModel("moonshine", Task.RECOGNIZE, False, 8, 12.0)
LIVE = ServedModel("ears", Task.STREAM, True, 16, 2.0, chunk_ms=560)


class Machine:
    """Work that takes ``cold_s`` longer the first time a shape comes, and a clock that goes with it."""

    def __init__(self, cold_s: float = 5.0, late: int = 0) -> None:
        self.now, self.cold_s, self.late = 0.0, cold_s, late
        self.asked: Counter[tuple[str, Shape]] = Counter()

    def work(self, model: ServedModel, shape: Shape) -> float:
        self.asked[model.name, shape] += 1
        first = self.asked[model.name, shape] <= 1 + self.late
        took = shape.seconds / 10 + (self.cold_s if first else 0.0)
        self.now += took
        return took

    def clock(self) -> float:
        return self.now


@given(st.builds(ServedModel, st.just("m"), st.sampled_from(Task), st.booleans(), st.integers(0, 512),
                 st.floats(0.5, 120), st.integers(10, 2000)))  # fmt: skip
def test_every_size_is_there_once(model: ServedModel) -> None:
    shapes = shapes_of(model)
    assert shapes
    assert len(set(shapes)) == len(shapes)
    assert list(shapes) == sorted(shapes, key=lambda shape: (shape.seconds, shape.batch))
    assert all(1 <= shape.batch <= max(1, model.max_batch) for shape in shapes)
    if model.task is not Task.STREAM:
        assert all(0 < shape.seconds <= model.max_window_s for shape in shapes)


def test_a_gpu_gets_all_sizes_and_a_cpu_few() -> None:
    assert set(shapes_of(GPU)) == {Shape(batch, s) for batch in (1, 2, 3, 4, 6, 8) for s in LENGTHS_S}
    assert shapes_of(CPU) == (Shape(1, 1.0), Shape(1, 5.0))
    assert shapes_of(ServedModel("d", Task.DIARIZE, True, 8, 15.0))[-1] == Shape(1, 15.0)


def test_streams_leave_half_the_places_to_users() -> None:
    assert shapes_of(LIVE) == tuple(Shape(batch, 0.56) for batch in (1, 2, 3, 4, 6, 8))


def test_the_first_round_is_cold_and_later_ones_are_steady() -> None:
    machine = Machine()
    report = prewarm([GPU, CPU], machine.work, clock=machine.clock)
    assert report.warm
    assert report.highest_ratio == 1.0
    assert len(report.rows) == len(shapes_of(GPU)) + len(shapes_of(CPU))
    row = next(row for row in report.rows if (row.model, row.batch, row.seconds) == ("parakeet", 8, 30.0))
    assert (row.cold_s, row.first_s, row.steady_s, row.ratio) == (8.0, 3.0, 3.0, 1.0)
    assert set(machine.asked.values()) == {5}, "each size once cold and four times more"
    again = prewarm([GPU, CPU], machine.work, clock=machine.clock)
    assert again.warm
    assert max(row.cold_s or 0 for row in again.rows) == 3.0, "nothing is cold any more"


def test_what_was_measured_before_is_only_computed() -> None:
    machine = Machine()
    report = prewarm([GPU, CPU], machine.work, measure=False, clock=machine.clock)
    assert set(machine.asked.values()) == {1}
    assert (report.computed, report.warm, report.highest_ratio) == (True, None, None)
    assert all(row.cold_s is not None and row.first_s is None for row in report.rows)
    assert report.summary.startswith(f"{len(report.rows)} sizes, ")
    assert report.summary.endswith(" s cold")
    assert report.to_dict()["warm"] is None


def test_what_is_slow_twice_is_measured_again() -> None:
    machine = Machine(late=1)
    assert prewarm([CPU], machine.work, clock=machine.clock).warm
    assert set(machine.asked.values()) == {9}


def test_what_stays_slow_at_first_is_told() -> None:
    def work(model: ServedModel, shape: Shape) -> float:
        rounds[shape] += 1
        return 1.5 if rounds[shape] % 4 == 2 else 1.0

    rounds: Counter[Shape] = Counter()
    report = prewarm([CPU], work)
    assert (report.warm, report.computed, report.highest_ratio) == (False, True, 1.5)
    assert "first/steady 1.50 at most" in report.summary
    assert "slower at first: moonshine 1 x 1 s" in report.summary


def test_an_unimportant_difference_is_none() -> None:
    row = Row("m", 1, 1.0, 0.1, first_s=0.030, steady_s=0.010)
    assert row.ratio == pytest.approx(3.0)
    assert row.warm(1.2)
    assert not Row("m", 1, 1.0, 0.1, first_s=0.2, steady_s=0.1).warm(1.2)
    assert not Row("m", 1, 1.0, error="boom").warm(1.2)


def test_a_size_that_fails_is_told_and_the_others_go_on() -> None:
    def work(model: ServedModel, shape: Shape) -> float:
        if shape.seconds > 2:
            raise RemoteInferenceError("out of memory")
        return 0.1

    report = prewarm([CPU], work)
    assert not report.computed
    assert [row.error for row in report.rows] == [None, "out of memory"]
    assert "moonshine 1 x 5 s: out of memory" in report.summary


def test_no_new_size_after_the_limit() -> None:
    machine = Machine(cold_s=100.0)
    report = prewarm([GPU], machine.work, limit_s=250.0, clock=machine.clock)
    assert (len(report.rows), report.skipped, report.computed) == (3, len(shapes_of(GPU)) - 3, False)
    assert "left out for want of time" in report.summary


def test_json_has_all_figures() -> None:
    report = prewarm([CPU], Machine().work)
    told = report.to_dict()
    assert told["rows"][0] == {
        "model": "moonshine", "batch": 1, "seconds": 1.0, "cold_s": 5.1, "first_s": 0.1, "steady_s": 0.1,
        "error": None, "ratio": 1.0,
    }  # fmt: skip
    assert (told["warm"], told["cache"], told["added"], told["skipped"]) == (True, None, None, 0)
    assert PrewarmReport((), 0, 0.0).to_dict()["summary"].endswith("nothing to compute")


def test_only_compiled_code_counts(tmp_path: Path) -> None:
    code = tmp_path / "cuda" / "a" / "kernel"
    code.parent.mkdir(parents=True)
    code.write_bytes(b"x" * 10)
    for name in ("cuda/index", "inductor.lock", "x.tmp", "y.tmp.1234"):
        (tmp_path / name).write_bytes(b"y")
    before = compiled.look(tmp_path)
    assert before.to_dict() == {"files": 1, "bytes": 10}
    assert compiled.read_seal(tmp_path) is None
    compiled.seal(tmp_path, before)
    assert compiled.read_seal(tmp_path) == before
    assert compiled.look(tmp_path).since(before) == (), "the seal itself is no code"
    (tmp_path / "inductor").mkdir()
    (tmp_path / "inductor" / "f.so").write_bytes(b"z")
    code.write_bytes(b"x" * 11)
    assert compiled.look(tmp_path).since(before) == ("cuda/a/kernel", "inductor/f.so")
    assert compiled.look(tmp_path / "none").files == {}
    (tmp_path / compiled.SEAL).write_text("{}")
    assert compiled.read_seal(tmp_path) is None


@pytest.fixture
def server() -> Iterator[FakeStreams]:
    made = FakeStreams()
    made.models["echo"] = Model(
        lambda audio, options: recognition([("word", 0, 500)]),
        {"task": "recognize", "languages": "en,de", "max_window_s": "30"},
    )
    made.models["others"] = Model(None, {})
    made.models["lost"] = Model(None, {}, "UNAVAILABLE")
    made.start()
    yield made
    made.stop()


def sound() -> np.ndarray[Any, Any]:
    return np.arange(16_000, dtype=np.int16)


def test_a_server_says_what_it_has(server: FakeStreams) -> None:
    with WarmupCalls(server.url, sound()) as calls:
        assert calls.models() == (
            ServedModel("ears", Task.STREAM, False, 3, float("inf"), 80, "en"),
            ServedModel("echo", Task.RECOGNIZE, False, 8, 30.0, 0, "en"),
        )


def test_rounds_are_real_requests(server: FakeStreams) -> None:
    with WarmupCalls(server.url, sound()) as calls:
        ears, echo = calls.models()
        assert calls.round(echo, Shape(4, 2.0)) > 0
        assert [(seen.model, seen.samples) for seen in server.seen] == [("echo", 32_000)] * 4
        assert server.most_at_once > 1
        assert calls.round(ears, Shape(2, 0.08)) > 0
        assert len({chunk.sequence for chunk in server.chunks}) == 2
        assert server.live(0), "its streams are closed"
        with pytest.raises(SpeechError, match="streams are open"):
            calls.round(ears, Shape(4, 0.08))
        assert server.live(0), "also when one was refused"


def test_the_command_and_the_proof(
    server: FakeStreams, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    del server.models["others"]
    cache = tmp_path / "cache"

    def ask(*more: str) -> int:
        with pytest.raises(SystemExit) as ended:
            main(["prewarm", "--url", server.url, "--json", *more])
        capsys.readouterr()
        return int(ended.value.code or 0)

    assert ask() == 0
    assert ask("--cache", str(cache), "--proof") == 1, "nothing was remembered yet"
    assert ask("--cache", str(cache), "--proof") == 0
    (cache / "kernel").write_text("new")
    assert ask("--cache", str(cache), "--proof") == 1
    assert ask("--cache", str(cache), "--proof") == 1, "what was found is not forgotten"
    assert ask("--cache", str(cache)) == 0
    assert ask("--cache", str(cache), "--proof") == 0
    assert ask("--model", "gone") == 1
    assert ask("--proof") == 2
