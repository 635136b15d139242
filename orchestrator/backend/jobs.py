"""One call of ``execute``: Triton's requests in, the engine's results or the faults out.

`read` checks every request on its own, `run` calls the engine once per set of equal options, `respond` makes
one response a request. A bad request gets its own error and never spoils the others of its batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar, cast

import numpy as np

from orchestrator.backend.context import ModelContext
from orchestrator.backend.wire import (
    OptionsT,
    Tensors,
    TritonUtils,
    batched,
    cancelled_response,
    failed_response,
    is_cancelled,
    read_options,
)
from orchestrator.contract import AUDIO, OPTIONS, PCM16, SAMPLE_RATE_HZ, WORD
from orchestrator.engines.base import PCM16_SCALE, Pcm16, Samples
from orchestrator.errors import (
    AudioEmptyError,
    AudioTooLongError,
    AudioValueError,
    InferenceError,
    InvalidRequestError,
    SpeechError,
)

ResultT = TypeVar("ResultT")
_MOST_WORDS: Final = 2000
"""Of one request: more than a window of speech has, and few enough to be aligned in moments."""
_SOON_S: Final = 60.0
"""Audio that a GPU recognises in a few ms. To ask for a cancellation takes 0.07 ms, one after the other:
9 ms for a batch of 128."""
Engine = Callable[[Sequence[Any], OptionsT], Sequence[ResultT]]
"""Takes `Samples`, and `Pcm16` where `read` was told so, each with its words after `read_words`; gives one
result for each."""


@dataclass(slots=True)
class Job(Generic[OptionsT, ResultT]):
    """One request: its audio and options, then its result, its fault, or that its client went away."""

    request: Any
    samples: Samples | Pcm16 | None = None
    options: OptionsT | None = None
    result: ResultT | None = None
    fault: SpeechError | None = None
    cancelled: bool = False
    words: tuple[str, ...] | None = None
    """What is said in the audio, where the engine wants to know it."""

    @property
    def item(self) -> Any:
        """What the engine takes for it."""
        return self.samples if self.words is None else (self.samples, self.words)

    @property
    def open(self) -> bool:
        """Whether it still wants the engine."""
        return self.result is None and self.fault is None and not self.cancelled


def read(
    requests: Sequence[Any],
    context: ModelContext,
    options_type: type[OptionsT],
    pb_utils: TritonUtils,
    *,
    takes_pcm16: bool = False,
) -> list[Job[OptionsT, Any]]:
    """Take audio and options out of each request; what is wrong with one becomes that job's fault.

    16-bit audio stays what it is with ``takes_pcm16``, and becomes float32 otherwise. Arrays may be views of
    their request's memory, which lives as long as the job.
    """
    jobs: list[Job[OptionsT, Any]] = []
    for request in requests:
        job: Job[OptionsT, Any] = Job(request)
        try:
            samples = _audio(
                pb_utils.get_input_tensor_by_name(request, AUDIO.name),
                pb_utils.get_input_tensor_by_name(request, PCM16.name),
                context,
            )
            job.samples = samples if takes_pcm16 else _floats(samples)
            job.options = read_options(pb_utils.get_input_tensor_by_name(request, OPTIONS.name), options_type)
        except SpeechError as error:
            error.model = error.model or context.name
            job.fault = error
        jobs.append(job)
    return jobs


def read_words(jobs: Sequence[Job[Any, Any]], context: ModelContext, pb_utils: TritonUtils) -> None:
    """Take the words, which an aligner needs, out of each request that is still open."""
    for job in jobs:
        if not job.open:
            continue
        try:
            job.words = _words(pb_utils.get_input_tensor_by_name(job.request, WORD.name))
        except InvalidRequestError as error:
            error.model = error.model or context.name
            job.fault = error


def run(
    jobs: Sequence[Job[OptionsT, ResultT]],
    engine: Engine[OptionsT, ResultT],
    context: ModelContext,
) -> None:
    """Fill each open job's result or fault: one engine call per set of equal options.

    Where a call for several recordings fails, each is tried alone, so that only the culprit fails. Requests
    whose client went away are left out where they would cost more than to ask.
    """
    groups: dict[OptionsT | None, list[Job[OptionsT, ResultT]]] = {}
    for job in jobs:
        job.cancelled = _worth_asking(job, context) and is_cancelled(job.request)
        if job.open:
            groups.setdefault(job.options, []).append(job)
    for group in groups.values():
        if _attempt(group, engine, context) or len(group) == 1:
            continue
        for job in group:
            job.cancelled = is_cancelled(job.request)
            job.fault = None
            if job.open:
                _attempt([job], engine, context)


def respond(
    jobs: Sequence[Job[Any, ResultT]],
    pack: Callable[[ResultT], Tensors],
    pb_utils: TritonUtils,
) -> list[Any]:
    """One Triton response a job, in order: the packed result, or an error that the client can decode."""
    return [_response(job, pack, pb_utils) for job in jobs]


def _attempt(
    group: Sequence[Job[OptionsT, ResultT]],
    engine: Engine[OptionsT, ResultT],
    context: ModelContext,
) -> bool:
    batch = [job.item for job in group if job.samples is not None]
    options = group[0].options
    if options is None:  # `read` gives every open job its options
        raise ValueError("a job without options")
    try:
        results = engine(batch, options)
        if len(results) != len(group):
            raise InferenceError(f"{len(results)} results for {len(group)} recordings", model=context.name)
    except (SpeechError, RuntimeError, ValueError, MemoryError) as error:
        # torch reports everything as RuntimeError, memory included; an engine that lets one through must
        # still answer each request.
        fault = error if isinstance(error, SpeechError) else InferenceError(f"the model failed: {error}")
        fault.model = fault.model or context.name
        for job in group:
            job.fault = fault
        return False
    for job, result in zip(group, results, strict=True):
        job.result = result
    return True


def _worth_asking(job: Job[Any, Any], context: ModelContext) -> bool:
    """Whether the recording would take much longer than asking the server if somebody still waits for it."""
    on_cpu = context.device == "cpu"
    return on_cpu or (job.samples is not None and job.samples.size > _SOON_S * SAMPLE_RATE_HZ)


def _response(job: Job[Any, ResultT], pack: Callable[[ResultT], Tensors], pb_utils: TritonUtils) -> Any:
    if job.cancelled:
        return cancelled_response(pb_utils)
    if job.result is None:
        return failed_response(job.fault or InferenceError("the model gave no result"), pb_utils)
    tensors = [pb_utils.Tensor(name, batched(value)) for name, value in pack(job.result).items()]
    return pb_utils.InferenceResponse(output_tensors=tensors)


def _audio(floats: Any, integers: Any, context: ModelContext) -> Samples | Pcm16:
    if (floats is None) == (integers is None):
        both = "both AUDIO and PCM16" if floats is not None else "neither AUDIO nor PCM16"
        raise InvalidRequestError(
            f"the request has {both}", fix="send AUDIO, FP32 [1, n], or PCM16, INT16 [1, n], at 16 kHz"
        )
    name, tensor, wanted = (
        (AUDIO.name, floats, np.float32) if integers is None else (PCM16.name, integers, np.int16)
    )
    values = tensor.as_numpy()
    if values.dtype != wanted:
        raise AudioValueError(
            f"{name} is {values.dtype}, not {wanted.__name__}",
            fix="send float32 samples, full scale +-1, as AUDIO, or int16 samples as PCM16",
        )
    if values.ndim != 2 or values.shape[0] != 1:
        raise AudioValueError(
            f"{name} has shape {list(values.shape)}, not [1, n]", fix="send one recording a request"
        )
    samples: Samples | Pcm16 = values[0]
    if samples.size == 0:
        raise AudioEmptyError(f"{name} has no samples", fix="send at least one")
    if samples.size > context.max_window_s * SAMPLE_RATE_HZ:
        raise AudioTooLongError(
            f"{name} is {samples.size / SAMPLE_RATE_HZ:.1f} s long; {context.name} takes at most "
            f"{context.max_window_s:g} s a request",
            fix="cut it into windows, as spark-speech's client does",
        )
    if integers is None and not bool(np.isfinite(samples).all()):
        raise AudioValueError(f"{name} holds NaN or infinite samples", fix="send finite float32 samples")
    return samples


def _words(tensor: Any) -> tuple[str, ...]:
    values = None if tensor is None else tensor.as_numpy()
    fix = "send WORD, BYTES [1, W], the words in UTF-8 in the order in which they are said"
    if values is None or values.ndim != 2 or values.shape[0] != 1:
        raise InvalidRequestError("the request has no WORD of shape [1, W]", fix=fix)
    if values.shape[1] > _MOST_WORDS:
        raise InvalidRequestError(
            f"WORD has {values.shape[1]} words; at most {_MOST_WORDS} are taken", fix=fix
        )
    try:
        return tuple(value.decode("utf-8") if isinstance(value, bytes) else str(value) for value in values[0])
    except UnicodeDecodeError as error:
        raise InvalidRequestError("a word is not UTF-8", fix=fix) from error


def _floats(samples: Samples | Pcm16) -> Samples:
    if samples.dtype == np.float32:
        return cast("Samples", samples)
    return np.multiply(samples, np.float32(1 / PCM16_SCALE), dtype=np.float32)
