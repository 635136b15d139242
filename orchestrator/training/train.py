"""The training in three stages: frames, CTC, then CTC and TDT together; resumable.

From random weights a transducer first learns the language model of its prediction network and ignores the
sound, and CTC stays for long where every frame is blank. So a head on the encoder, used in training only,
first learns to name the token of each frame on short recordings, with the tokens spread evenly over the
(known) extent of each utterance; then the same head learns CTC; then the transducer is added.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from orchestrator.progress import ProgressReporter
from orchestrator.training.augment import Conditions
from orchestrator.training.batches import FIRST_SHAPES, SHAPES, SILENCE, Batch, BatchStream, Shape, loader
from orchestrator.training.evaluate import restore
from orchestrator.training.model import DURATIONS, ENCODER_WIDTH, build, save, write_tokenizer
from orchestrator.training.recordings import Recordings
from orchestrator.training.tdt_loss import TDTLoss

CHECKPOINT = "parakeet-tiny.nemo"
_STATE = "state.pt"
_SAVE_EVERY_S = 30.0
_HEAD_ALONE = 50
_LEAST_FALL = 0.03
_CLEAN = Conditions(edge_s=(0.0, 0.4), noise=0.3, snr_db=(20.0, 40.0), telephone=0.0, room=0.0)


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and how fast.

    Attributes:
        frame_steps: steps on the tokens of frames, utterances of at most two words, nearly clean.
        ctc_steps: CTC steps on everything but the long recordings, nearly clean.
        joint_steps: steps with CTC and TDT together.
        rate: peak learning rate; it falls along a half cosine over the joint steps.
        ctc_weight: weight of CTC beside TDT in the joint steps.
        batch_scale: factor on the batch sizes, for small machines.
        fall_s: the rate falls at least as fast as over so many seconds of training, so that a slow machine
            ends with fewer steps, not with a high rate. None: by steps alone.
        budget_s: stop and save after so many seconds. None for no limit.
    """

    frame_steps: int = 600
    ctc_steps: int = 500
    joint_steps: int = 3000
    rate: float = 1e-3
    ctc_weight: float = 0.3
    batch_scale: float = 1.0
    fall_s: float | None = None
    budget_s: float | None = None

    @property
    def warm_up(self) -> int:
        """Steps before the transducer."""
        return self.frame_steps + self.ctc_steps

    @property
    def total(self) -> int:
        """All steps."""
        return self.warm_up + self.joint_steps


class Average:
    """A running mean of a model's weights over about the last `WINDOW` steps: what is saved.

    It takes out the noise that a still high learning rate leaves in the last weights.
    """

    WINDOW: Final = 200

    def __init__(self, model: Any) -> None:
        self._model = model
        self._mean: dict[str, Tensor] = {}
        self._count = 0

    @torch.no_grad()
    def update(self) -> None:
        """Take in the model's weights as they are now."""
        now = {k: v for k, v in self._model.state_dict().items() if v.is_floating_point()}
        if not self._mean:
            self._mean = {k: v.clone() for k, v in now.items()}
        self._count += 1
        share = max(1 / self.WINDOW, 1 / self._count)
        torch._foreach_lerp_(list(self._mean.values()), [now[k] for k in self._mean], share)

    def save(self, path: Path) -> None:
        """Write the model with the mean weights to ``path`` (a ``.nemo`` file) and leave it as it is."""
        kept = {k: v.clone() for k, v in self._model.state_dict().items()}
        self._model.load_state_dict(kept | self._mean)
        save(self._model.eval(), path)
        self._model.load_state_dict(kept)
        self._model.train()


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
        start: Path | None = None,
    ) -> None:
        """Prepare a run.

        Args:
            recordings: the corpus.
            folder: where state and checkpoint go; a state in it is resumed.
            schedule: how long.
            device: a torch device name.
            seed: of weights and batches.
            workers: processes that make batches.
            start: go on from this checkpoint's weights and tokenizer, with the transducer at once.

        Raises:
            ModelLoadError: ``start`` cannot be restored.
        """
        self._recordings = recordings
        self._folder = folder
        self._schedule = schedule
        self._device = torch.device(device)
        self._seed = seed
        self._workers = workers
        torch.manual_seed(seed)
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
        folder.mkdir(parents=True, exist_ok=True)
        self._step = 0
        if start is not None:
            self.model: Any = restore(start).to(self._device)
            self._step = schedule.warm_up
        else:
            tokenizer = folder / "tokenizer"
            if not (tokenizer / "vocab.txt").is_file():
                write_tokenizer(recordings.texts(), tokenizer)
            self.model = build(tokenizer).to(self._device)
        self._blank = int(self.model.tokenizer.vocab_size)
        self._head = torch.nn.Linear(ENCODER_WIDTH, self._blank + 1).to(self._device)
        self._loss = TDTLoss(self._blank, DURATIONS, sigma=0.02, omega=0.1)
        self._parameters = [*self.model.parameters(), *self._head.parameters()]
        self._optimizer = torch.optim.AdamW(
            self._parameters, lr=schedule.rate, betas=(0.9, 0.98), weight_decay=1e-3
        )
        self._updates = 0
        self._head_steps = 0 if start is not None else _HEAD_ALONE
        self._average = Average(self.model)
        self._elapsed_s = 0.0
        self._resume()

    @property
    def step(self) -> int:
        """Steps done so far, of all stages."""
        return self._step

    def run(self, progress: ProgressReporter) -> Path:
        """Train to the end of the schedule and save; returns the checkpoint's path."""
        schedule = self._schedule
        stages: list[tuple[int, tuple[Shape, ...], Conditions, int | None]] = [
            (schedule.frame_steps, FIRST_SHAPES, _CLEAN, 2),
            (schedule.warm_up, SHAPES[:2], _CLEAN, None),
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
                ctc, tdt = self._update(batch.to(self._device), number)
                self._step += 1
                self._elapsed_s = time.monotonic() - began
                if self._step % 25 == 0:
                    text = (
                        f"step {self._step} ctc {ctc.item():.3f} tdt {tdt.item():.3f} {self._elapsed_s:.0f} s"
                    )
                    task.update(completed=self._step, description=text)
                if number == 2:
                    self._average.update()
                if self._elapsed_s - saved > _SAVE_EVERY_S:
                    saved = self._elapsed_s
                    self._save()
                if self._out_of_time():
                    break
        self._save()
        task.finish(f"trained {self._step} steps in {self._elapsed_s:.0f} s")
        return self._folder / CHECKPOINT

    def _update(self, batch: Batch, stage: int) -> tuple[Tensor, Tensor]:
        encoded, lengths = self.model(input_signal=batch.audio, input_signal_length=batch.audio_lens)
        # A new head on a trained encoder learns alone at first.
        listening = encoded if self._head_steps >= _HEAD_ALONE else encoded.detach()
        self._head_steps += 1
        heard = self._head(listening.transpose(1, 2)).log_softmax(-1)
        if stage == 0:
            ctc = self._frame_loss(heard, lengths, batch.alignment)
        else:
            ctc = torch.nn.functional.ctc_loss(
                heard.transpose(0, 1),
                batch.labels,
                lengths,
                batch.label_lens,
                blank=self._blank,
                zero_infinity=True,
            )
        loss, tdt = ctc, torch.zeros((), device=self._device)
        if stage == 2:
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
        self._updates += 1
        return ctc.detach(), tdt.detach()

    def _frame_loss(self, heard: Tensor, lengths: Tensor, alignment: Tensor) -> Tensor:
        frames = min(heard.shape[1], alignment.shape[1])
        wanted = torch.where(alignment == SILENCE, self._blank, alignment)[:, :frames]
        inside = torch.arange(frames, device=self._device)[None] < lengths[:, None]
        each = torch.nn.functional.nll_loss(heard[:, :frames].transpose(1, 2), wanted, reduction="none")
        return each[inside].mean()

    def _rate(self) -> float:
        schedule = self._schedule
        done = (self._step - schedule.warm_up) / max(1, schedule.joint_steps)
        if schedule.fall_s is not None:
            done = max(done, self._elapsed_s / schedule.fall_s)
        fall = 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, done))))
        return schedule.rate * min(1.0, (self._updates + 1) / 100) * max(fall, _LEAST_FALL)

    def _out_of_time(self) -> bool:
        budget = self._schedule.budget_s
        return budget is not None and self._elapsed_s >= budget

    def _save(self) -> None:
        self._average.save(self._folder / CHECKPOINT)
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
