"""Training end to end on a few recordings, and our TDT loss against NeMo's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from orchestrator.errors import ArtifactNotFoundError
from orchestrator.progress import SilentProgress
from orchestrator.training import recordings as corpus_module
from orchestrator.training.evaluate import restore, transcribe
from orchestrator.training.recordings import Recordings, plan, record
from orchestrator.training.tdt_loss import TDTLoss
from orchestrator.training.train import Schedule, Trainer

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]


def test_loss_and_gradient_equal_nemos_reference(monkeypatch: pytest.MonkeyPatch):
    from nemo.collections.asr.losses.rnnt_pytorch import TDTLossPytorch

    # NeMo's reference moves its tables to a GPU; without one it runs on the CPU as well.
    monkeypatch.setattr(torch.Tensor, "cuda", lambda self, *_, **__: self)
    torch.manual_seed(0)
    acts = torch.randn(3, 17, 7, 12 + 5, requires_grad=True)
    rest = {
        "labels": torch.randint(0, 11, (3, 6)),
        "act_lens": torch.tensor([17, 12, 9]),
        "label_lens": torch.tensor([6, 4, 2]),
    }
    durations = [0, 1, 2, 3, 4]
    theirs = TDTLossPytorch(blank=11, durations=durations, reduction=None, sigma=0.05)(acts=acts, **rest)
    ours = TDTLoss(11, durations, sigma=0.05)(acts, **rest)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    wanted, got = (torch.autograd.grad(loss.sum(), acts, retain_graph=True)[0] for loss in (theirs, ours))
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


def hum(text: str, _: object) -> np.ndarray:
    seconds = 0.3 * len(text.split())
    return (0.3 * np.sin(np.arange(int(16_000 * seconds)) * 0.05 * len(text))).astype(np.float32)


class InProcess:
    """Stands in for the pool of synthesis processes: a patched function does not reach other processes."""

    def __init__(self, _: int) -> None:
        pass

    def __enter__(self) -> InProcess:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def map(self, function, *arguments, chunksize: int):
        return map(function, *arguments)


def test_a_run_resumes_and_its_checkpoint_can_be_restored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(corpus_module, "speak", hum)
    monkeypatch.setattr(corpus_module, "ProcessPoolExecutor", InProcess)
    with pytest.raises(ArtifactNotFoundError):
        Recordings(tmp_path / "corpus")
    record(plan(400, 1), tmp_path / "corpus", SilentProgress())
    corpus = Recordings(tmp_path / "corpus")
    assert corpus.audio(corpus.utterances[7]).size == corpus.utterances[7].length

    def trainer(schedule: Schedule) -> Trainer:
        return Trainer(corpus, tmp_path / "run", schedule, device="cpu", seed=1, workers=0)

    schedule = Schedule(frame_steps=1, ctc_steps=1, joint_steps=1, batch_scale=0.02)
    path = trainer(schedule).run(SilentProgress())
    before = restore(path).state_dict()
    resumed = trainer(replace(schedule, joint_steps=3))
    assert resumed.step == 3
    after = restore(resumed.run(SilentProgress())).state_dict()
    assert resumed.step == 5
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert isinstance(transcribe(restore(path), [np.zeros(16_000, np.float32)])[0], str)
    assert not list((tmp_path / "run").glob("*.part"))
