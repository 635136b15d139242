"""Tiny FastConformer checkpoints with random weights that emit many words, made once a session."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

KINDS = ("tdt", "rnnt", "ctc", "hybrid-tdt-ctc", "hybrid-rnnt-ctc")
DURATIONS = [0, 1, 2, 3, 4]
_HIDDEN = 32
_TEXT = """the quick brown fox jumps over the lazy dog. what a wonderful day, is it not?
she sells sea shells by the sea shore, and he reads books about old trains.
please call me back tomorrow morning, will you? Nobody knows the answer yet."""


@dataclass(frozen=True)
class Example:
    """A checkpoint's folder and its kind."""

    kind: str
    folder: Path

    @property
    def path(self) -> Path:
        return self.folder / "model.nemo"


@pytest.fixture(scope="session")
def tokenizer_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import sentencepiece

    folder = tmp_path_factory.mktemp("tokenizer")
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(_TEXT.splitlines()),
        model_writer=model,
        vocab_size=80,
        model_type="bpe",
        bos_id=-1,
        eos_id=-1,
        unk_id=0,
        minloglevel=2,
    )
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    pieces = [processor.id_to_piece(i) for i in range(processor.get_piece_size())]
    (folder / "vocab.txt").write_text("\n".join(p[1:] if p[0] == "\u2581" else "##" + p for p in pieces))
    return folder


def _config(kind: str, tokenizer_dir: Path) -> dict[str, Any]:
    modules = "nemo.collections.asr.modules"
    config: dict[str, Any] = {
        "sample_rate": 16000,
        "compute_eval_loss": False,
        "log_prediction": False,
        "skip_nan_grad": False,
        "tokenizer": {"dir": str(tokenizer_dir), "type": "bpe"},
        "preprocessor": {
            "_target_": f"{modules}.AudioToMelSpectrogramPreprocessor",
            "sample_rate": 16000,
            "normalize": "per_feature",
            "window_size": 0.025,
            "window_stride": 0.01,
            "features": 40,
            "n_fft": 512,
            "dither": 1e-5,
            "pad_to": 16,
        },
        "encoder": {
            "_target_": f"{modules}.ConformerEncoder",
            "feat_in": 40,
            "feat_out": -1,
            "n_layers": 2,
            "d_model": _HIDDEN,
            "subsampling": "dw_striding",
            "subsampling_factor": 8,
            "subsampling_conv_channels": 16,
            "ff_expansion_factor": 2,
            "self_attention_model": "rel_pos",
            "n_heads": 2,
            "att_context_size": [-1, -1],
            "xscaling": False,
            "conv_kernel_size": 9,
        },
        "optim": {"name": "adamw", "lr": 1e-3},
    }
    if kind.startswith("causal"):
        config["preprocessor"]["normalize"] = "NA"
        config["encoder"] |= {
            "att_context_style": "chunked_limited",
            "att_context_size": [[8, 1], [8, 3]],
            "causal_downsampling": True,
            "conv_context_size": "causal",
            "conv_norm_type": "layer_norm",
        }
    ctc_decoder = {
        "_target_": f"{modules}.ConvASRDecoder",
        "feat_in": _HIDDEN,
        "num_classes": -1,
        "vocabulary": [],
    }
    if kind == "ctc":
        return {**config, "decoder": ctc_decoder, "ctc_reduction": "mean_volume"}
    tdt = "tdt" in kind
    config |= {
        "model_defaults": {"enc_hidden": _HIDDEN, "pred_hidden": _HIDDEN, "joint_hidden": _HIDDEN},
        "rnnt_reduction": "mean_volume",
        "decoder": {
            "_target_": f"{modules}.RNNTDecoder",
            "normalization_mode": None,
            "random_state_sampling": False,
            "blank_as_pad": True,
            "prednet": {"pred_hidden": _HIDDEN, "pred_rnn_layers": 1, "t_max": None, "dropout": 0.0},
        },
        "joint": {
            "_target_": f"{modules}.RNNTJoint",
            "log_softmax": None,
            "preserve_memory": False,
            "fuse_loss_wer": False,
            "fused_batch_size": 4,
            "jointnet": {"joint_hidden": _HIDDEN, "activation": "relu", "dropout": 0.0},
            "num_extra_outputs": len(DURATIONS) if tdt else 0,
        },
        "decoding": {"strategy": "greedy_batch", "greedy": {"max_symbols": 3}},
        "loss": {"loss_name": "default"},
    }
    if tdt:
        config["decoding"] |= {"model_type": "tdt", "durations": DURATIONS}
        config["loss"] = {
            "loss_name": "tdt",
            "tdt_kwargs": {"fastemit_lambda": 0.0, "durations": DURATIONS, "sigma": 0.02, "omega": 0.1},
        }
        config["model_defaults"] |= {"tdt_durations": DURATIONS, "num_tdt_durations": len(DURATIONS)}
    if kind.startswith("hybrid"):
        config["aux_ctc"] = {
            "ctc_loss_weight": 0.3,
            "use_cer": False,
            "ctc_reduction": "mean_batch",
            "decoder": ctc_decoder,
            "decoding": {"strategy": "greedy_batch"},
        }
    return config


def _tune(model: Any, kind: str) -> None:
    """Set the heads so that many different tokens come and go.

    A random encoder's frames are nearly alike: the heads subtract what the frames have in common and
    amplify the rest, and the blank gets a bias with which it wins about every other step.
    """
    import torch

    processor = model.tokenizer.tokenizer
    blank = processor.get_piece_size()
    opening = [token for token in range(blank) if processor.id_to_piece(token).startswith("\u2581")]
    marks = [token for token in range(blank) if processor.id_to_piece(token) in ".,?"]
    # Pieces that NeMo itself trips over when it makes words of them.
    never = [processor.unk_id(), processor.piece_to_id("\u2581")]

    model.eval()
    with torch.no_grad():
        rng = np.random.default_rng(1)
        audio = torch.from_numpy(np.stack([babble(6.0, rng) for _ in range(8)]))
        features, lengths = model.preprocessor(input_signal=audio, length=torch.full((8,), audio.shape[1]))
        encoded, _ = model.encoder(audio_signal=features, length=lengths)
        common, spread = encoded.mean(dim=(0, 2)), encoded.std(dim=(0, 2))

        def contrast(weight: torch.Tensor, bias: torch.Tensor, gain: float) -> None:
            weight.copy_(gain * torch.randn_like(weight) / spread / _HIDDEN**0.5)
            bias.copy_(-weight @ common)

        def favour(bias: torch.Tensor, blank_bias: float) -> None:
            bias[opening] += 3.0
            bias[marks] += 3.0
            bias[never] -= 1e4
            bias[blank] += blank_bias

        if kind != "ctc":
            contrast(model.joint.enc.weight, model.joint.enc.bias, 3.0)
            last = model.joint.joint_net[-1]
            last.weight.normal_(0.0, 0.7)
            last.weight -= last.weight.mean(dim=1, keepdim=True)
            favour(last.bias, 8.0 if "tdt" in kind else 13.0)
        head = model.decoder if kind == "ctc" else getattr(model, "ctc_decoder", None)
        if head is not None:
            conv = head.decoder_layers[0]
            contrast(conv.weight[:, :, 0], conv.bias, 3.0)
            favour(conv.bias, 6.0)


@pytest.fixture(scope="session")
def make_example(tmp_path_factory: pytest.TempPathFactory, tokenizer_dir: Path) -> Callable[[str], Example]:
    made: dict[str, Example] = {}

    def make(kind: str) -> Example:
        if kind not in made:
            import torch
            from nemo.collections.asr import models
            from omegaconf import OmegaConf

            torch.set_num_threads(1)
            torch.manual_seed(7)
            name = "EncDecCTCModelBPE" if kind == "ctc" else "EncDecRNNTBPEModel"
            if kind.startswith("hybrid"):
                name = "EncDecHybridRNNTCTCBPEModel"
            model = getattr(models, name)(cfg=OmegaConf.create(_config(kind, tokenizer_dir)), trainer=None)
            _tune(model, kind)
            example = Example(kind, tmp_path_factory.mktemp(kind))
            model.save_to(str(example.path))
            made[kind] = example
        return made[kind]

    return make


def babble(length_s: float, rng: np.random.Generator) -> np.ndarray:
    """Syllables of coloured noise, each 60-200 ms with a colour and loudness of its own."""
    parts: list[np.ndarray] = []
    missing = int(length_s * 16_000)
    while missing > 0:
        samples = min(missing, int(rng.uniform(0.06, 0.2) * 16_000))
        noise = rng.standard_normal(samples + 31)
        parts.append(rng.uniform(0.001, 0.1) * np.convolve(noise, rng.standard_normal(32), mode="valid"))
        missing -= samples
    return np.concatenate(parts).astype(np.float32)


@pytest.fixture(scope="session")
def clips() -> list[np.ndarray]:
    """14 clips of 0.13 s to 7.3 s, some under 1 s."""
    rng = np.random.default_rng(3)
    lengths_s = (0.13, 0.31, 0.55, 0.8, 0.99, 1.0, 1.37, 2.1, 2.64, 3.3, 4.0, 5.21, 6.4, 7.3)
    return [babble(length_s, rng) for length_s in lengths_s]
