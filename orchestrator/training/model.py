"""The checkpoint's shape: NeMo's Parakeet-TDT (FastConformer, 8x subsampling), made small."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from orchestrator.training.voices import SAMPLE_RATE_HZ

DURATIONS: Final = (0, 1, 2, 3, 4)
TOKENS: Final = 128
"""Pieces in the tokenizer."""
ENCODER_WIDTH: Final = 144
_ENCODER_LAYERS: Final = 8
_PREDICTION_WIDTH: Final = 192
_MODULES: Final = "nemo.collections.asr.modules"


def configuration(tokenizer: Path) -> dict[str, Any]:
    """The model's NeMo configuration, with the tokenizer in the folder ``tokenizer``."""
    return {
        "sample_rate": SAMPLE_RATE_HZ,
        "compute_eval_loss": False,
        "log_prediction": False,
        "rnnt_reduction": "mean_batch",
        "skip_nan_grad": False,
        "model_defaults": {
            "enc_hidden": ENCODER_WIDTH,
            "pred_hidden": _PREDICTION_WIDTH,
            "joint_hidden": _PREDICTION_WIDTH,
            "tdt_durations": list(DURATIONS),
            "num_tdt_durations": len(DURATIONS),
        },
        "tokenizer": {"dir": str(tokenizer), "type": "bpe"},
        "preprocessor": {
            "_target_": f"{_MODULES}.AudioToMelSpectrogramPreprocessor",
            "sample_rate": SAMPLE_RATE_HZ,
            "normalize": "per_feature",
            "window_size": 0.025,
            "window_stride": 0.01,
            "window": "hann",
            "features": 80,
            "n_fft": 512,
            "frame_splicing": 1,
            "dither": 1e-5,
            "pad_to": 0,
        },
        "spec_augment": {
            "_target_": f"{_MODULES}.SpectrogramAugmentation",
            "freq_masks": 1,
            "time_masks": 0,
            "freq_width": 10,
            "time_width": 0.02,
        },
        "encoder": {
            "_target_": f"{_MODULES}.ConformerEncoder",
            "feat_in": 80,
            "feat_out": -1,
            "n_layers": _ENCODER_LAYERS,
            "d_model": ENCODER_WIDTH,
            "use_bias": True,
            "subsampling": "dw_striding",
            "subsampling_factor": 8,
            "subsampling_conv_channels": 64,
            "causal_downsampling": False,
            "ff_expansion_factor": 4,
            "self_attention_model": "rel_pos",
            "n_heads": 4,
            "att_context_size": [-1, -1],
            "xscaling": False,
            "untie_biases": True,
            "pos_emb_max_len": 5000,
            "conv_kernel_size": 9,
            "conv_norm_type": "batch_norm",
            "dropout": 0.1,
            "dropout_pre_encoder": 0.1,
            "dropout_emb": 0.0,
            "dropout_att": 0.1,
        },
        "decoder": {
            "_target_": f"{_MODULES}.RNNTDecoder",
            "normalization_mode": None,
            "random_state_sampling": False,
            "blank_as_pad": True,
            "prednet": {
                "pred_hidden": _PREDICTION_WIDTH,
                "pred_rnn_layers": 1,
                "t_max": None,
                "dropout": 0.2,
            },
        },
        "joint": {
            "_target_": f"{_MODULES}.RNNTJoint",
            "log_softmax": None,
            "preserve_memory": False,
            "fuse_loss_wer": False,
            "fused_batch_size": 16,
            "jointnet": {"joint_hidden": _PREDICTION_WIDTH, "activation": "relu", "dropout": 0.1},
            "num_extra_outputs": len(DURATIONS),
        },
        "decoding": {
            "strategy": "greedy_batch",
            "model_type": "tdt",
            "durations": list(DURATIONS),
            "greedy": {"max_symbols": 10},
        },
        "loss": {
            "loss_name": "tdt",
            "tdt_kwargs": {
                "fastemit_lambda": 0.0,
                "clamp": -1.0,
                "durations": list(DURATIONS),
                "sigma": 0.02,
                "omega": 0.1,
            },
        },
        # NeMo's transcription of paths reads its defaults from here.
        "validation_ds": {
            "manifest_filepath": None,
            "sample_rate": SAMPLE_RATE_HZ,
            "batch_size": 4,
            "shuffle": False,
            "use_start_end_token": False,
            "num_workers": 0,
        },
        "optim": {"name": "adamw", "lr": 1e-3},
    }


def write_tokenizer(texts: Iterable[str], folder: Path) -> None:
    """Train the BPE tokenizer on ``texts`` into ``folder`` (``tokenizer.model``, ``vocab.txt``)."""
    import sentencepiece

    folder.mkdir(parents=True, exist_ok=True)
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=model,
        vocab_size=TOKENS,
        model_type="bpe",
        character_coverage=1.0,
        bos_id=-1,
        eos_id=-1,
        pad_id=-1,
        unk_id=0,
        minloglevel=2,
    )
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    names = (pieces.id_to_piece(i) for i in range(pieces.get_piece_size()))
    # NeMo's list of pieces marks what continues a word, sentencepiece what starts one.
    lines = (name[1:] if name.startswith("▁") else f"##{name}" for name in names)
    (folder / "vocab.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def build(tokenizer: Path) -> Any:
    """A NeMo ``EncDecRNNTBPEModel`` with random weights."""
    from nemo.collections.asr.models import EncDecRNNTBPEModel
    from omegaconf import OmegaConf

    return EncDecRNNTBPEModel(cfg=OmegaConf.create(configuration(tokenizer)), trainer=None)


def save(model: Any, path: Path) -> None:
    """Write ``model`` as a ``.nemo`` file with 16-bit weights; restoring gives 32-bit ones again.

    The archive's members carry no time and no owner, and the configuration no path of this machine.
    """
    whole = path.with_suffix(".whole")
    model.save_to(str(whole))
    partial = path.with_suffix(".part")
    with tarfile.open(whole) as source, tarfile.open(partial, "w", format=tarfile.PAX_FORMAT) as target:
        for member in sorted(source.getmembers(), key=lambda entry: entry.name):
            stream = source.extractfile(member)
            if stream is None:
                continue
            data = _portable(member.name, stream.read())
            entry = tarfile.TarInfo(member.name)
            entry.size = len(data)
            target.addfile(entry, io.BytesIO(data))
    whole.unlink()
    partial.replace(path)


def _portable(name: str, data: bytes) -> bytes:
    import torch
    from omegaconf import OmegaConf

    if name.endswith(".ckpt"):
        weights = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        packed = io.BytesIO()
        torch.save({k: v.half() if v.is_floating_point() else v for k, v in weights.items()}, packed)
        return packed.getvalue()
    if name.endswith(".yaml"):
        settings = OmegaConf.create(data.decode())
        # The tokenizer itself lies in the archive.
        settings.tokenizer.dir = "tokenizer"
        return OmegaConf.to_yaml(settings).encode()
    return data
