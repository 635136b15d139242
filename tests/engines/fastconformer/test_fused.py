"""The fused kernels compute what the plain modules compute; here in the interpreter of Triton's language."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

import pytest

from tests.engines.fastconformer import interpreted

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def interpreter() -> Iterator[ProcessPoolExecutor]:
    """A process of its own: this one may have Triton for a GPU already."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=interpreted.prepare) as made:
        yield made


@pytest.mark.parametrize(
    ("subsampling", "bias", "scaled", "heads", "width", "kernel"),
    [(8, True, False, 2, 48, 9), (4, False, True, 4, 64, 15)],
)
def test_encoder_equals_the_plain_one(
    interpreter: ProcessPoolExecutor,
    subsampling: int,
    bias: bool,
    scaled: bool,
    heads: int,
    width: int,
    kernel: int,
) -> None:
    interpreter.submit(interpreted.compare_encoders, subsampling, bias, scaled, heads, width, kernel).result()


@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid"])
@pytest.mark.parametrize(("kind", "durations"), [("tdt", (0, 1, 2, 3, 4)), ("rnnt", ())])
def test_decoding_equals_the_plain_loop_over_two_chunks(
    interpreter: ProcessPoolExecutor, kind: str, durations: tuple[int, ...], activation: str
) -> None:
    interpreter.submit(interpreted.compare_decoding, kind, durations, activation).result()
