"""From encoder output to tokens with NeMo's batched greedy decoders.

Only the decoding proper is NeMo's; its Python post-processing (text, words, confidences per recording) costs
more than the encoder and is `orchestrator.engines.nemo_words` here.

One fault of NeMo 3.0.0 is worked round: its TDT decoder without CUDA graphs (every CPU, and CUDA as the
fallback) keeps only the last durations that a batch predicted. While it looks for the next token of one
recording it overwrites the durations of recordings that already have theirs, so word ends are wrong in
batches of more than one (NVIDIA-NeMo/NeMo issue 16097). The same decoder writes every step down as it
happens, with the duration that belongs to it, when it is asked to keep the blank steps too; so it is asked
(``exclude_blank: false``), and the blanks are dropped here. The confidences of the tokens are the same.

A second one matters with CUDA graphs: when NeMo 3.0.0 compiles their loops it lets the compiler write its log
into the bytes object ``b" " * size``. An empty log has size 1, which makes that the one ``b" "`` that Python
shares everywhere, and from then on every lone space in the process is a NUL. `_compiler_keeps_its_log`
prevents it.

A third: the body of a graph's loop is captured on a stream of its own, which PyTorch does not take for part
of the capture, so the body's intermediate tensors come from ordinary memory. After the capture PyTorch may
give that back to the driver (``empty_cache``, or a full card) while the graph goes on writing there: an
illegal memory access. Here all that a capture allocates comes from a pool of its own, kept with the graph.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator
from typing import Any, Final, Protocol

import numpy as np
import torch
from omegaconf import OmegaConf, open_dict
from torch import Tensor

from orchestrator.engines.nemo_restore import quiet
from orchestrator.engines.nemo_words import TokenBatch, Vocabulary, ctc_tokens, transducer_tokens
from orchestrator.errors import ModelLoadError

_LOG: Final = logging.getLogger(__name__)


class Head(Protocol):
    """Turns encoder output into tokens."""

    vocabulary: Vocabulary

    def decode(self, encoded: Tensor, lengths: Tensor) -> TokenBatch:
        """Tokens of ``encoded`` ``[B, D, T]`` with ``lengths`` ``[B]`` valid frames."""


def build_head(model: Any, decoder: str, *, prefer_ctc: bool, cuda_graphs: bool) -> Head:
    """The decoder of ``model``, configured once for good.

    Args:
        model: a restored NeMo model.
        decoder: as in `orchestrator.engines.nemo_archive.Checkpoint`.
        prefer_ctc: take the CTC head of a hybrid instead of its transducer.
        cuda_graphs: let a transducer run as a CUDA graph (no effect on a CPU).

    Raises:
        ModelLoadError: the checkpoint's decoder cannot run in batches.
    """
    if decoder == "ctc":
        return CtcHead(model.decoder, vocabulary_of(model.tokenizer, model.decoding.supported_punctuation))
    if prefer_ctc and decoder.startswith("hybrid"):
        marks = model.ctc_decoding.supported_punctuation
        return CtcHead(model.ctc_decoder, vocabulary_of(model.tokenizer, marks))
    return TransducerHead(model, cuda_graphs=cuda_graphs)


def vocabulary_of(tokenizer: Any, marks: Iterable[str] | None) -> Vocabulary:
    """The text of a NeMo tokenizer's tokens; ``marks`` as NeMo found them in the vocabulary.

    Raises:
        ModelLoadError: not a SentencePiece tokenizer, nor several of them side by side.
    """
    pieces: list[str] = []
    unknown: list[int] = []
    control: list[int] = []
    # An aggregate tokenizer has one tokenizer a language, with ids one after another.
    for part in getattr(tokenizer, "tokenizers_dict", {"": tokenizer}).values():
        processor: Any = getattr(part, "tokenizer", None)
        if not hasattr(processor, "id_to_piece"):
            raise ModelLoadError(
                f"The checkpoint's tokenizer is {type(part).__name__}, not SentencePiece.",
                fix="give a checkpoint with a SentencePiece tokenizer, as all Parakeet models have.",
            )
        for token in range(processor.get_piece_size()):
            if processor.is_unknown(token):
                unknown.append(len(pieces))
            elif processor.is_control(token):
                control.append(len(pieces))
            pieces.append(processor.id_to_piece(token))
    return Vocabulary(pieces, marks=frozenset(marks or ()), unknown=unknown, control=control)


class CtcHead:
    """Greedy CTC."""

    def __init__(self, module: Any, vocabulary: Vocabulary) -> None:
        self._module = module
        self._blank = len(vocabulary)
        self.vocabulary = vocabulary

    def decode(self, encoded: Tensor, lengths: Tensor) -> TokenBatch:
        """Tokens of ``encoded`` ``[B, D, T]`` with ``lengths`` ``[B]`` valid frames."""
        log_probs = self._module(encoder_output=encoded)
        best, labels = log_probs.max(dim=-1)
        classes = log_probs.shape[-1]
        return ctc_tokens(
            labels.cpu().numpy(),
            ((best.float().exp() * classes - 1) / (classes - 1)).cpu().numpy(),
            lengths.cpu().numpy(),
            self._blank,
            self.vocabulary,
        )


class _SilentCompiler:
    """The CUDA runtime compiler's binding, but for reading its log, which NeMo throws away unread."""

    def __init__(self, nvrtc: Any) -> None:
        self._nvrtc = nvrtc

    def __getattr__(self, name: str) -> Any:
        return getattr(self._nvrtc, name)

    def nvrtcGetProgramLog(self, program: Any, log: bytes) -> tuple[Any]:  # noqa: N802 (the binding's name)
        """Leave ``log`` alone."""
        return (self._nvrtc.nvrtcResult.NVRTC_SUCCESS,)


@contextlib.contextmanager
def _compiler_keeps_its_log() -> Iterator[None]:
    from nemo.core.utils import cuda_python_utils

    nvrtc = getattr(cuda_python_utils, "nvrtc", None)
    if nvrtc is None:  # without CUDA's bindings nothing is compiled
        yield
        return
    cuda_python_utils.nvrtc = _SilentCompiler(nvrtc)
    try:
        yield
    finally:
        cuda_python_utils.nvrtc = nvrtc


def _new_pool() -> Any:
    return torch.cuda.MemPool()


def _allocating_from(pool: Any) -> contextlib.AbstractContextManager[None]:
    return torch.cuda.use_mem_pool(pool)


class TransducerHead:
    """Greedy TDT or RNN-T, label-looping, the whole batch at once."""

    def __init__(self, model: Any, *, cuda_graphs: bool) -> None:
        self._model = model
        self._graphs = False
        self._captured = (0, 0)  # recordings, frames
        self._pool: Any = None
        self._configure(cuda_graphs=cuda_graphs and next(model.parameters()).is_cuda)
        self.vocabulary = vocabulary_of(model.tokenizer, model.decoding.supported_punctuation)

    def _configure(self, *, cuda_graphs: bool) -> None:
        config: Any = OmegaConf.create(OmegaConf.to_container(self._model.cfg.decoding, resolve=True))
        with open_dict(config):
            config.strategy = "greedy_batch"
            config.compute_timestamps = True
            config.preserve_alignments = False
            config.greedy = {
                **config.get("greedy", {}),
                "loop_labels": True,
                "use_cuda_graph_decoder": cuda_graphs,
                "preserve_alignments": False,
            }
            config.confidence_cfg = {
                "preserve_frame_confidence": True,
                "preserve_token_confidence": True,
                "preserve_word_confidence": True,
                "exclude_blank": cuda_graphs or not self._has_durations(),
                "aggregation": "mean",
                "tdt_include_duration": False,
                "method_cfg": {"name": "max_prob", "alpha": 1.0},
            }
        with quiet():
            self._model.change_decoding_strategy(config, verbose=False)
        self._model.eval()  # it makes new parts, in training mode
        computer = getattr(self._model.decoding.decoding, "decoding_computer", None)
        if computer is None:
            raise ModelLoadError(
                "The checkpoint's prediction network cannot decode a batch at once (blank_as_pad is false).",
                fix="give a checkpoint trained with blank_as_pad, as all Parakeet models are.",
            )
        self._computer = computer
        self._graphs = cuda_graphs and computer.cuda_graphs_mode is not None

    def _has_durations(self) -> bool:
        return bool(self._model.decoding.durations)

    def decode(self, encoded: Tensor, lengths: Tensor) -> TokenBatch:
        """Tokens of ``encoded`` ``[B, D, T]`` with ``lengths`` ``[B]`` valid frames."""
        rows = encoded.shape[0]
        if self._graphs:
            try:
                return self._decode_in_graph(encoded, lengths)
            except torch.OutOfMemoryError:
                self._computer.reset_cuda_graphs_state()
                self._captured, self._pool = (0, 0), None
                raise
            except RuntimeError as error:
                _LOG.warning("decoding with CUDA graphs failed, going on without: %s", error)
                self._configure(cuda_graphs=False)
                self._pool = None
        return self._decode(encoded, lengths, rows)

    def _decode_in_graph(self, encoded: Tensor, lengths: Tensor) -> TokenBatch:
        rows, _, frames = encoded.shape
        batch, time = self._captured
        if rows <= batch and frames <= time:
            return self._decode(encoded, lengths, rows)
        # NeMo captures anew whenever a batch is larger than the *last* captured one in either direction;
        # growing in both keeps captures rare.
        batch, time = max(rows, batch), max(frames, time)
        larger = torch.nn.functional.pad(encoded, (0, time - frames, 0, 0, 0, batch - rows))
        larger_lengths = torch.nn.functional.pad(lengths, (0, batch - rows))
        pool = _new_pool()
        with _compiler_keeps_its_log(), _allocating_from(pool):
            tokens = self._decode(larger, larger_lengths, rows)
        self._captured, self._pool = (batch, time), pool
        return tokens

    def _decode(self, encoded: Tensor, lengths: Tensor, rows: int) -> TokenBatch:
        hypotheses, _ = self._computer(x=encoded.transpose(1, 2), out_len=lengths)
        steps = hypotheses.current_lengths[:rows].cpu().numpy()
        width = int(steps.max(initial=0))

        def steps_of(values: Tensor) -> np.ndarray[Any, Any]:
            return values[:rows, :width].cpu().numpy()

        labels = steps_of(hypotheses.transcript)
        kept = (np.arange(width) < steps[:, None]) & (labels != self._computer._blank_index)
        durations = steps_of(hypotheses.token_durations)[kept] if self._has_durations() else None
        return transducer_tokens(
            kept.sum(axis=1).astype(np.int64),
            labels[kept],
            steps_of(hypotheses.timestamps)[kept],
            durations,
            steps_of(hypotheses.step_confidence.float())[kept],
            self.vocabulary,
        )
