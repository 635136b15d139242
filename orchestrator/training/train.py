"""The training: a CTC warm start of the encoder, then CTC and TDT together; resumable.

From random weights a transducer first learns the language model of its prediction network and ignores the
sound. A CTC head on the encoder, used in training only, makes the encoder listen first.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from orchestrator.progress import ProgressReporter
from orchestrator.training.augment import Conditions
from orchestrator.training.batches import FIRST_SHAPES, SHAPES, Batch, BatchStream, Shape, loader
from orchestrator.training.model import DURATIONS, ENCODER_WIDTH, build, save, write_tokenizer
from orchestrator.training.recordings import Recordings
from orchestrator.training.tdt_loss import TDTLoss

CHECKPOINT = "parakeet-tiny.nemo"
_STATE = "state.pt"
_CLEAN = Conditions(edge_s=(0.0, 0.4), noise=0.3, snr_db=(20.0, 40.0), telephone=0.0, room=0.0)


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and how fast.

    Attributes:
        words_steps: CTC steps on utterances of at most three words, nearly clean.
        ctc_steps: CTC steps on everything.
        joint_steps: steps with CTC and TDT together.
        rate: peak learning rate; it falls along a half cosine over the joint steps.
        ctc_weight: weight of CTC beside TDT in the joint steps.
        batch_scale: factor on the batch sizes, for small machines.
        budget_s: stop and save after so many seconds; the learning rate falls by the clock's share, so a
            slow machine ends with fewer steps, not with a high rate. None for no limit.
    """

    words_steps: int = 300
    ctc_steps: int = 500
    joint_steps: int = 3000
    rate: float = 1e-3
    ctc_weight: float = 0.3
    batch_scale: float = 1.0
    budget_s: float | None = None

    @property
    def total(self) -> int:
        """All steps."""
        return self.words_steps + self.ctc_steps + self.joint_steps


class Trainer:
    """One training run in a folder: tokenizer, state to resume from, and the checkpoint."""

    def __init__(
        self,
        recordings: Recordings,
        folder: Path,
        schedule: Schedule,
        *,
        device: str,
        seed: int,
        workers: int,
    ) -> None:
        self._recordings = recordings
        self._folder = folder
        self._schedule = schedule
        self._device = torch.device(device)
        self._seed = seed
        self._workers = workers
        torch.manual_seed(seed)
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
        tokenizer = folder / "tokenizer"
        if not (tokenizer / "vocab.txt").is_file():
            write_tokenizer(recordings.texts(), tokenizer)
        self.model: Any = build(tokenizer).to(self._device)
        self._blank = int(self.model.tokenizer.vocab_size)
        self._head = torch.nn.Linear(ENCODER_WIDTH, self._blank + 1).to(self._device)
        self._loss = TDTLoss(self._blank, DURATIONS, sigma=0.02, omega=0.1)
        self._parameters = [*self.model.parameters(), *self._head.parameters()]
        self._optimizer = torch.optim.AdamW(
            self._parameters, lr=schedule.rate, betas=(0.9, 0.98), weight_decay=1e-3
        )
        self._step = 0
        self._elapsed_s = 0.0
        self._resume()

    def run(self, progress: ProgressReporter) -> Path:
        """Train to the end of the schedule and save; returns the checkpoint's path."""
        schedule = self._schedule
        stages: list[tuple[int, tuple[Shape, ...], Conditions, int | None]] = [
            (schedule.words_steps, FIRST_SHAPES, _CLEAN, 3),
            (schedule.words_steps + schedule.ctc_steps, SHAPES[:2], _CLEAN, None),
            (schedule.total, SHAPES, Conditions(), None),
        ]
        task = progress.task("train", total=schedule.total)
        began = time.monotonic() - self._elapsed_s
        saved = self._elapsed_s
        self.model.train()
        for number, (end, shapes, conditions, max_words) in enumerate(stages):
            stream = BatchStream(
                self._recordings,
                self.model.tokenizer.text_to_ids,
                seed=self._seed,
                shapes=tuple(Shape(s.parts, max(1, round(s.size * schedule.batch_scale))) for s in shapes),
                conditions=conditions,
                steps=end,
                max_words=max_words,
            )
            for batch in loader(stream, self._step, self._workers) if self._step < end else ():
                ctc, tdt = self._update(batch.to(self._device), with_tdt=number == 2)
                self._step += 1
                self._elapsed_s = time.monotonic() - began
                if self._step % 25 == 0:
                    text = (
                        f"step {self._step} ctc {ctc.item():.3f} tdt {tdt.item():.3f} {self._elapsed_s:.0f} s"
                    )
                    task.update(completed=self._step, description=text)
                if self._elapsed_s - saved > 120:
                    saved = self._elapsed_s
                    self._save_state()
                if self._out_of_time():
                    break
        self._save_state()
        task.finish(f"trained {self._step} steps in {self._elapsed_s:.0f} s")
        self.model.eval()
        save(self.model, self._folder / CHECKPOINT)
        return self._folder / CHECKPOINT

    def _update(self, batch: Batch, *, with_tdt: bool) -> tuple[Tensor, Tensor]:
        encoded, lengths = self.model(input_signal=batch.audio, input_signal_length=batch.audio_lens)
        ctc = torch.nn.functional.ctc_loss(
            self._head(encoded.transpose(1, 2)).log_softmax(-1).transpose(0, 1),
            batch.labels,
            lengths,
            batch.label_lens,
            blank=self._blank,
            zero_infinity=True,
        )
        loss, tdt = ctc, torch.zeros((), device=self._device)
        if with_tdt:
            predicted, _, _ = self.model.decoder(targets=batch.labels, target_length=batch.label_lens)
            acts = self.model.joint(encoder_outputs=encoded, decoder_outputs=predicted)
            each = self._loss(acts, batch.labels, lengths, batch.label_lens)
            tdt = each.sum() / (batch.label_lens.sum() + len(each))
            loss = tdt + self._schedule.ctc_weight * ctc
        for group in self._optimizer.param_groups:
            group["lr"] = self._rate()
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._parameters, 1.0)
        self._optimizer.step()
        return ctc.detach(), tdt.detach()

    def _rate(self) -> float:
        schedule = self._schedule
        before = schedule.words_steps + schedule.ctc_steps
        done = max(0, self._step - before) / max(1, schedule.joint_steps)
        if schedule.budget_s is not None:
            done = max(done, (self._elapsed_s / schedule.budget_s - 0.25) / 0.75)
        fall = 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, done))))
        return schedule.rate * min(1.0, (self._step + 1) / 100) * max(fall, 0.005)

    def _out_of_time(self) -> bool:
        budget = self._schedule.budget_s
        return budget is not None and self._elapsed_s >= budget

    def _save_state(self) -> None:
        partial = self._folder / f"{_STATE}.part"
        state = {
            "step": self._step,
            "elapsed_s": self._elapsed_s,
            "model": self.model.state_dict(),
            "head": self._head.state_dict(),
            "optimizer": self._optimizer.state_dict(),
        }
        torch.save(state, partial)
        partial.replace(self._folder / _STATE)

    def _resume(self) -> None:
        path = self._folder / _STATE
        if not path.is_file():
            return
        state = torch.load(path, map_location=self._device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self._head.load_state_dict(state["head"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._step, self._elapsed_s = state["step"], state["elapsed_s"]
