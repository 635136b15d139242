"""The tensor contract: what every Triton model of this project takes and returns.

One place for the names, types and shapes that the repository builder writes into ``config.pbtxt``, that the
models' Python code fills, and that the client reads. All recognisers share `RECOGNIZER`, so a client can
swap one for another. Shapes leave out the batch dimension: each request carries one recording, ``[1, ...]``.
Times are whole milliseconds from the start of the audio that was sent.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final, Literal

SAMPLE_RATE_HZ: Final = 16_000
"""All audio inside the system: mono float32 at this rate, full scale +-1."""

DataType = Literal["UINT8", "FP32", "INT16", "INT32", "INT64", "BYTES", "BOOL"]
"""Triton's names, as in the inference protocol (``config.pbtxt`` writes ``TYPE_FP32``, and BYTES as
``TYPE_STRING``)."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output: its name, type and shape (-1: any length), without the batch dimension."""

    name: str
    datatype: DataType
    dims: tuple[int, ...]
    optional: bool = False


@dataclass(frozen=True, slots=True)
class ModelContract:
    """The inputs and outputs of one kind of model."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


class Task(StrEnum):
    """What a model does; a config.pbtxt parameter carries it, so clients can find models by ability."""

    RECOGNIZE = "recognize"
    DIARIZE = "diarize"
    STREAM = "stream"
    ALIGN = "align"


# Inputs. OPTIONS is one JSON object: `engines.base.RecognitionOptions`, or `DiarizationOptions` of
# `diarization.base`.
AUDIO: Final = TensorSpec("AUDIO", "FP32", (-1,))
PCM16: Final = TensorSpec("PCM16", "INT16", (-1,))
"""16-bit samples, full scale 32,768: half the bytes of AUDIO."""
OPTIONS: Final = TensorSpec("OPTIONS", "BYTES", (1,), optional=True)

# Outputs of a recogniser: W words in order. WORD is what an aligner is given, too.
WORD: Final = TensorSpec("WORD", "BYTES", (-1,))
WORD_START_MS: Final = TensorSpec("WORD_START_MS", "INT32", (-1,))
WORD_END_MS: Final = TensorSpec("WORD_END_MS", "INT32", (-1,))
WORD_CONFIDENCE: Final = TensorSpec("WORD_CONFIDENCE", "FP32", (-1,))
LANGUAGE: Final = TensorSpec("LANGUAGE", "BYTES", (1,))
TIMES_ESTIMATED: Final = TensorSpec("TIMES_ESTIMATED", "BOOL", (1,))
LANGUAGE_CONFIDENCE: Final = TensorSpec("LANGUAGE_CONFIDENCE", "FP32", (1,))
"""How sure LANGUAGE is, 0..1. Only of models whose parameters say `Parameter.DETECTS_LANGUAGE`, and only
asked of them where no language was given."""

WORD_MEASURED: Final = TensorSpec("WORD_MEASURED", "BOOL", (-1,))
"""Of an aligner: False for a word that was not found in the audio, whose times are spread between its
neighbours."""

# Outputs of a diarizer: T turns (which may overlap), X exclusive turns (which may not), S speakers; a
# *_SPEAKER value is a row of SPEAKER_EMBEDDING. The embedding is [S, D], D set by the model.
TURN_START_MS: Final = TensorSpec("TURN_START_MS", "INT32", (-1,))
TURN_END_MS: Final = TensorSpec("TURN_END_MS", "INT32", (-1,))
TURN_SPEAKER: Final = TensorSpec("TURN_SPEAKER", "INT32", (-1,))
EXCLUSIVE_START_MS: Final = TensorSpec("EXCLUSIVE_START_MS", "INT32", (-1,))
EXCLUSIVE_END_MS: Final = TensorSpec("EXCLUSIVE_END_MS", "INT32", (-1,))
EXCLUSIVE_SPEAKER: Final = TensorSpec("EXCLUSIVE_SPEAKER", "INT32", (-1,))
SPEAKER_EMBEDDING: Final = TensorSpec("SPEAKER_EMBEDDING", "FP32", (-1, -1))

# Output of a streaming recogniser. One tensor, since each one costs Triton's Python backend more than the few
# words in it, thousands of times a second.
UPDATE: Final = TensorSpec("UPDATE", "UINT8", (-1,))
"""What a chunk changed, as JSON: see `orchestrator.backend.updates`."""

RECOGNIZER: Final = ModelContract(
    # Exactly one of AUDIO and PCM16; which one, each request chooses.
    inputs=(replace(AUDIO, optional=True), replace(PCM16, optional=True), OPTIONS),
    outputs=(WORD, WORD_START_MS, WORD_END_MS, WORD_CONFIDENCE, LANGUAGE, TIMES_ESTIMATED),
)
DETECTOR: Final = ModelContract(inputs=RECOGNIZER.inputs, outputs=(LANGUAGE, LANGUAGE_CONFIDENCE))
"""What is asked of a recogniser that finds out the language."""
DIARIZER: Final = ModelContract(
    inputs=(AUDIO, OPTIONS),
    outputs=(
        TURN_START_MS,
        TURN_END_MS,
        TURN_SPEAKER,
        EXCLUSIVE_START_MS,
        EXCLUSIVE_END_MS,
        EXCLUSIVE_SPEAKER,
        SPEAKER_EMBEDDING,
    ),
)
ALIGNER: Final = ModelContract(
    # WORD: the W words that are said in the audio, in order. OPTIONS: `AlignmentOptions` of
    # `engines.alignment.base`.
    inputs=(*RECOGNIZER.inputs[:2], WORD, OPTIONS),
    # One entry a word, in the same order; starts never go back.
    outputs=(WORD_START_MS, WORD_END_MS, WORD_CONFIDENCE, WORD_MEASURED),
)
"""Word times for words that are known."""
STREAM_RECOGNIZER: Final = ModelContract(inputs=(PCM16,), outputs=(UPDATE,))
STREAM_OPTIONS: Final = "options"
"""The request parameter with one JSON object: `engines.streaming.StreamOptions` with a stream's first chunk,
`engines.streaming.ChunkOptions` with later ones. No tensor: Triton batches only requests that have the same
inputs, so each stream that began would split the batches of all others."""
CONTRACTS: Final = {
    Task.RECOGNIZE: RECOGNIZER,
    Task.DIARIZE: DIARIZER,
    Task.STREAM: STREAM_RECOGNIZER,
    Task.ALIGN: ALIGNER,
}


def outputs_of(task: Task, *, detects_language: bool) -> tuple[TensorSpec, ...]:
    """What a model that does ``task`` answers; one more where it finds out the language."""
    outputs = CONTRACTS[task].outputs
    return (*outputs, LANGUAGE_CONFIDENCE) if detects_language else outputs


SEQUENCE_HEADER: Final = "spark-speech-sequence"
"""The gRPC header that carries a live stream's number with each of its requests: a proxy that reads no bodies
keeps the stream on the server that has its state."""


class Parameter(StrEnum):
    """Keys of the ``parameters`` map in config.pbtxt. Values are strings, as Triton wants them."""

    TASK = "task"
    """A `Task`."""
    ENGINE = "engine"
    """The engine's name in `orchestrator.engines`."""
    ENGINE_OPTIONS = "engine_options"
    """A JSON object handed to the engine's loader (device, threads, ...)."""
    LANGUAGES = "languages"
    """Comma-separated BCP-47 primary tags (``en,de``) the model can recognise."""
    DETECTS_LANGUAGE = "detects_language"
    """``true`` for a recogniser that finds out what is spoken, and has the output LANGUAGE_CONFIDENCE."""
    WORD_TIMES = "word_times"
    """``measured`` or ``estimated``."""
    MAX_WINDOW_S = "max_window_s"
    """The longest audio, in seconds, that the model takes in one request; longer audio is cut before."""
    CHUNK_MS = "chunk_ms"
    """Streaming models: the audio of one step; the client sends chunks of this length."""
    MAX_STREAMS = "max_streams"
    """Streaming models: the most streams at once; one more is refused."""
    IDLE_TIMEOUT_S = "idle_timeout_s"
    """Streaming models: seconds without a chunk, even an empty one, after which a stream is forgotten."""
    RANK = "rank"
    """Whole number; among models that can do the job the client's router prefers the lowest."""
