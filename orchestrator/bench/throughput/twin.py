"""NeMo's model with the weights of a lean recogniser: what `weights.converted` does, the other way round.

For comparing speed and words on weights that never were a ``.nemo`` file.
"""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from orchestrator.engines.fastconformer import loading
from orchestrator.engines.fastconformer.artifact import Description
from orchestrator.engines.fastconformer.config import ModelConfig
from orchestrator.engines.fastconformer.tokens import Tokens
from orchestrator.engines.fastconformer.weights import BATCH_NORM_EPSILON
from orchestrator.errors import MissingDependencyError, ModelLoadError

_MODULES: Final = "nemo.collections.asr.modules"
_DERIVED: Final = ("num_batches_tracked", "pos_enc.pe")
"""Ends of names that NeMo computes itself."""


def twin(folder: Path, device: str) -> Any:
    """NeMo's ``EncDecRNNTBPEModel`` with the weights in ``folder``, on ``device``.

    Raises:
        MissingDependencyError: NeMo is not installed.
        ModelLoadError: it is no transducer whose layers have batch norm.
    """
    try:
        from nemo.collections.asr.models import EncDecRNNTBPEModel
        from omegaconf import OmegaConf
    except ImportError as error:
        raise MissingDependencyError(
            f"NeMo cannot be imported: {error}", fix="leave --nemo out, or pip install 'spark-speech[serve]'"
        ) from error
    network, description = loading.load(folder, torch.device("cpu"))
    if description.config.head.kind == "ctc" or description.config.encoder.causal:
        raise ModelLoadError("only offline transducers have a twin", path=folder)
    with tempfile.TemporaryDirectory(prefix="spark-speech-twin-") as name:
        _write_tokenizer(Path(name), description.tokens)
        config = OmegaConf.create(_configured(description, name))
        model = EncDecRNNTBPEModel(cfg=config, trainer=None)
    ours = {key: value.float() for key, value in network.state_dict().items()}
    wrong = model.load_state_dict(_named_by_nemo(ours, description.config, model.state_dict()), strict=False)
    missing = [key for key in wrong.missing_keys if not key.endswith(_DERIVED)]
    if missing or wrong.unexpected_keys:
        raise ModelLoadError(
            f"NeMo wants other weights: {[*missing, *wrong.unexpected_keys][:3]}", path=folder
        )
    model.preprocessor.featurizer.dither = 0.0
    model.preprocessor.featurizer.pad_to = 0
    return model.to(device).eval()


def _write_tokenizer(folder: Path, tokens: Tokens) -> None:
    """A SentencePiece model with exactly these pieces, as NeMo reads it.

    Written by hand in protobuf's encoding: the schema in sentencepiece's wheel wants a newer protobuf than
    tritonclient bears. The numbers of the fields are those of sentencepiece_model.proto.
    """
    pieces = []
    for number, piece in enumerate(tokens.pieces):
        unknown = b"\x18\x02" if number in tokens.unknown else b""  # type = UNKNOWN
        content = _field(1, piece.encode()) + b"\x15" + struct.pack("<f", -float(number)) + unknown
        pieces.append(_field(1, content))
    trainer = b"\x18\x02" + _number(40, tokens.unknown[0])  # model_type = BPE, unk_id
    trainer += b"".join(_number(role, -1) for role in (41, 42, 43))  # no bos_id, eos_id, pad_id
    (folder / "tokenizer.model").write_bytes(b"".join(pieces) + _field(2, trainer))
    lines = (piece[1:] if piece.startswith("\u2581") else f"##{piece}" for piece in tokens.pieces)
    (folder / "vocab.txt").write_text("\n".join(lines), encoding="utf-8")


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _number(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value % 2**64)


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])


def _configured(description: Description, tokenizer: str) -> dict[str, Any]:
    features, encoder, head = (getattr(description.config, part) for part in ("features", "encoder", "head"))
    durations = list(head.durations)
    decoding: dict[str, Any] = {
        "strategy": "greedy_batch",
        "greedy": {"max_symbols": head.max_symbols, "use_cuda_graph_decoder": True},
    }
    if durations:
        decoding |= {"model_type": "tdt", "durations": durations}
    return {
        "sample_rate": 16_000,
        "compute_eval_loss": False,
        "log_prediction": False,
        "skip_nan_grad": False,
        "rnnt_reduction": "mean_volume",
        "model_defaults": {
            "enc_hidden": encoder.width,
            "pred_hidden": head.prediction_width,
            "joint_hidden": head.joint_width,
            "tdt_durations": durations,
            "num_tdt_durations": len(durations),
        },
        "tokenizer": {"dir": tokenizer, "type": "bpe"},
        "preprocessor": {
            "_target_": f"{_MODULES}.AudioToMelSpectrogramPreprocessor",
            "sample_rate": 16_000,
            "normalize": "per_feature",
            "window_size": features.window / 16_000,
            "window_stride": features.hop / 16_000,
            "features": features.mels,
            "n_fft": features.fft,
            "dither": 0.0,
            "pad_to": 0,
        },
        "encoder": {
            "_target_": f"{_MODULES}.ConformerEncoder",
            "feat_in": features.mels,
            "feat_out": -1,
            "n_layers": encoder.layers,
            "d_model": encoder.width,
            "use_bias": encoder.bias,
            "subsampling": "dw_striding",
            "subsampling_factor": encoder.subsampling,
            "subsampling_conv_channels": encoder.subsampling_channels,
            "ff_expansion_factor": encoder.feed_forward // encoder.width,
            "self_attention_model": "rel_pos",
            "n_heads": encoder.heads,
            "att_context_size": [-1, -1],
            "xscaling": encoder.scale_input,
            "conv_kernel_size": encoder.conv_kernel,
        },
        "decoder": {
            "_target_": f"{_MODULES}.RNNTDecoder",
            "normalization_mode": None,
            "random_state_sampling": False,
            "blank_as_pad": True,
            "prednet": {
                "pred_hidden": head.prediction_width,
                "pred_rnn_layers": head.prediction_layers,
                "t_max": None,
                "dropout": 0.0,
            },
        },
        "joint": {
            "_target_": f"{_MODULES}.RNNTJoint",
            "log_softmax": None,
            "preserve_memory": False,
            "fuse_loss_wer": False,
            "fused_batch_size": 4,
            "jointnet": {"joint_hidden": head.joint_width, "activation": head.activation, "dropout": 0.0},
            "num_extra_outputs": len(durations),
        },
        "decoding": decoding,
        "loss": {"loss_name": "tdt", "tdt_kwargs": {"durations": durations}}
        if durations
        else {"loss_name": "default"},
        "optim": {"name": "adamw", "lr": 1e-3},
    }


def _named_by_nemo(
    ours: Mapping[str, Tensor], config: ModelConfig, known: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The weights under NeMo's names and in its shapes, which are those of ``known``."""
    found = {
        "preprocessor.featurizer.window": ours["features.window"],
        "preprocessor.featurizer.fb": ours["features.filters"][None],
    }

    def take(theirs: str, name: str, scale: float = 1.0) -> None:
        for kind in ("weight", "bias"):
            if f"{theirs}.{kind}" in known:
                shape = known[f"{theirs}.{kind}"].shape
                found[f"{theirs}.{kind}"] = scale * ours[f"{name}.{kind}"].reshape(shape)

    take("encoder.pre_encode.conv.0", "encoder.subsampling.first")
    take("encoder.pre_encode.out", "encoder.subsampling.out")
    for stage in range(config.encoder.subsampling.bit_length() - 2):
        take(f"encoder.pre_encode.conv.{2 + 3 * stage}", f"encoder.subsampling.depthwise.{stage}")
        take(f"encoder.pre_encode.conv.{3 + 3 * stage}", f"encoder.subsampling.pointwise.{stage}")
    for number in range(config.encoder.layers):
        layer = f"encoder.layers.{number}"
        for theirs, name, scale in (
            ("norm_feed_forward1", "norm_before", 1.0),
            ("norm_self_att", "norm_attention", 1.0),
            ("norm_conv", "norm_convolution", 1.0),
            ("norm_feed_forward2", "norm_after", 1.0),
            ("norm_out", "norm_out", 1.0),
            ("feed_forward1.linear1", "before.inner", 1.0),
            ("feed_forward1.linear2", "before.outer", 2.0),
            ("feed_forward2.linear1", "after.inner", 1.0),
            ("feed_forward2.linear2", "after.outer", 2.0),
            ("self_attn.linear_pos", "attention.position", 1.0),
            ("self_attn.linear_out", "attention.out", 1.0),
            ("conv.pointwise_conv1", "convolution.gated", 1.0),
            ("conv.pointwise_conv2", "convolution.out", 1.0),
        ):
            take(f"{layer}.{theirs}", f"{layer}.{name}", scale)
        for kind in ("weight", "bias"):
            if f"{layer}.attention.qkv.{kind}" in ours:
                for part, value in zip("qkv", ours[f"{layer}.attention.qkv.{kind}"].chunk(3), strict=True):
                    found[f"{layer}.self_attn.linear_{part}.{kind}"] = value
        for theirs, name in (("u", "content_bias"), ("v", "position_bias")):
            found[f"{layer}.self_attn.pos_bias_{theirs}"] = ours[f"{layer}.attention.{name}"][:, 0]
        # Batch norm that does nothing but add the bias.
        convolution, norm = f"{layer}.convolution.depthwise", f"{layer}.conv.batch_norm"
        bias = ours[f"{convolution}.bias"]
        found[f"{layer}.conv.depthwise_conv.weight"] = ours[f"{convolution}.weight"]
        if f"{layer}.conv.depthwise_conv.bias" in known:
            found[f"{layer}.conv.depthwise_conv.bias"] = torch.zeros_like(bias)
        found[f"{norm}.weight"], found[f"{norm}.bias"] = torch.ones_like(bias), bias
        found[f"{norm}.running_mean"] = torch.zeros_like(bias)
        found[f"{norm}.running_var"] = torch.full_like(bias, 1 - BATCH_NORM_EPSILON)
    found["decoder.prediction.embed.weight"] = ours["head.embedding.weight"]
    lstm, hidden = "decoder.prediction.dec_rnn.lstm", config.head.prediction_width
    for layer_number in range(config.head.prediction_layers):
        weight, bias = (ours[f"head.recurrent.{layer_number}.{kind}"] for kind in ("weight", "bias"))
        found[f"{lstm}.weight_ih_l{layer_number}"] = weight[:, :hidden]
        found[f"{lstm}.weight_hh_l{layer_number}"] = weight[:, hidden:]
        found[f"{lstm}.bias_ih_l{layer_number}"] = bias
        found[f"{lstm}.bias_hh_l{layer_number}"] = torch.zeros_like(bias)
    take("joint.enc", "head.project_encoder")
    take("joint.pred", "head.project_prediction")
    last = max(int(name.split(".")[2]) for name in known if name.startswith("joint.joint_net."))
    take(f"joint.joint_net.{last}", "head.out")
    return found
