"""NeMo's weights under this package's names, with what inference does not need folded away."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor

from orchestrator.engines.fastconformer.config import ModelConfig
from orchestrator.errors import ModelLoadError

BATCH_NORM_EPSILON: Final = 1e-5
"""torch's default, which NeMo's batch norm uses."""


def converted(weights: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """NeMo's weights under this package's names, with what inference does not need folded away.

    Raises:
        ModelLoadError: a weight the configuration calls for is missing.
    """
    try:
        found = _features(weights) | _subsampling(weights, config)
        for layer in range(config.encoder.layers):
            found |= _layer(weights, layer, config)
        return found | (ctc_head(weights) if config.head.kind == "ctc" else _transducer(weights, config))
    except KeyError as error:
        raise ModelLoadError(
            f"the checkpoint has no weight {error}", fix="use a complete FastConformer checkpoint"
        ) from error


def _both(weights: Mapping[str, Tensor], old: str, new: str) -> dict[str, Tensor]:
    """A layer's weight, and its bias where it has one."""
    found = {f"{new}.weight": weights[f"{old}.weight"]}
    if f"{old}.bias" in weights:
        found[f"{new}.bias"] = weights[f"{old}.bias"]
    return found


def _features(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        "features.window": weights["preprocessor.featurizer.window"],
        "features.filters": weights["preprocessor.featurizer.fb"].squeeze(0),
    }


def _subsampling(weights: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    # NeMo numbers the layers of one sequence: conv, relu, then (depthwise, pointwise, relu) a stage.
    old, new = "encoder.pre_encode", "encoder.subsampling"
    found = _both(weights, f"{old}.conv.0", f"{new}.first") | _both(weights, f"{old}.out", f"{new}.out")
    for stage in range(config.encoder.subsampling.bit_length() - 2):
        found |= _both(weights, f"{old}.conv.{2 + 3 * stage}", f"{new}.depthwise.{stage}")
        found |= _both(weights, f"{old}.conv.{3 + 3 * stage}", f"{new}.pointwise.{stage}")
    return found


def _layer(weights: Mapping[str, Tensor], layer: int, config: ModelConfig) -> dict[str, Tensor]:
    old, new = f"encoder.layers.{layer}", f"encoder.layers.{layer}"
    found: dict[str, Tensor] = {}
    for theirs, ours in (
        ("norm_feed_forward1", "norm_before"),
        ("norm_self_att", "norm_attention"),
        ("norm_conv", "norm_convolution"),
        ("norm_feed_forward2", "norm_after"),
        ("norm_out", "norm_out"),
        ("feed_forward1.linear1", "before.inner"),
        ("feed_forward2.linear1", "after.inner"),
        ("self_attn.linear_pos", "attention.position"),
        ("self_attn.linear_out", "attention.out"),
    ):
        found |= _both(weights, f"{old}.{theirs}", f"{new}.{ours}")
    for theirs, ours in (("feed_forward1.linear2", "before.outer"), ("feed_forward2.linear2", "after.outer")):
        halves = _both(weights, f"{old}.{theirs}", f"{new}.{ours}")
        found |= {name: value * 0.5 for name, value in halves.items()}
    parts = [_both(weights, f"{old}.self_attn.linear_{part}", part) for part in "qkv"]
    for kind in ("weight", "bias"):
        if f"q.{kind}" in parts[0]:
            joined = [part[f"{name}.{kind}"] for name, part in zip("qkv", parts, strict=True)]
            found[f"{new}.attention.qkv.{kind}"] = torch.cat(joined)
    for theirs, ours in (("u", "content_bias"), ("v", "position_bias")):
        found[f"{new}.attention.{ours}"] = weights[f"{old}.self_attn.pos_bias_{theirs}"][:, None]
    return found | _convolution(weights, f"{old}.conv", f"{new}.convolution", config.encoder.conv_norm)


def _convolution(weights: Mapping[str, Tensor], old: str, new: str, norm_type: str) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for theirs, ours in (("pointwise_conv1", "gated"), ("pointwise_conv2", "out")):
        for name, value in _both(weights, f"{old}.{theirs}", f"{new}.{ours}").items():
            found[name] = value.squeeze(-1)  # a convolution of kernel 1 is a linear layer
    if norm_type == "layer_norm":  # under the same name
        return (
            found
            | _both(weights, f"{old}.batch_norm", f"{new}.norm")
            | _both(weights, f"{old}.depthwise_conv", f"{new}.depthwise")
        )
    norm = {kind: weights[f"{old}.batch_norm.{kind}"].double() for kind in _BATCH_NORM}
    scale = norm["weight"] / (norm["running_var"] + BATCH_NORM_EPSILON).sqrt()
    depthwise = weights[f"{old}.depthwise_conv.weight"].double()
    bias = weights.get(f"{old}.depthwise_conv.bias", torch.zeros(())).double()
    found[f"{new}.depthwise.weight"] = (depthwise * scale[:, None, None]).float()
    found[f"{new}.depthwise.bias"] = ((bias - norm["running_mean"]) * scale + norm["bias"]).float()
    return found


_BATCH_NORM: Final = ("weight", "bias", "running_mean", "running_var")


def ctc_head(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """NeMo's CTC head alone; KeyError where there is none."""
    # The CTC head of a hybrid has a name of its own.
    name = "ctc_decoder" if "ctc_decoder.decoder_layers.0.weight" in weights else "decoder"
    return {
        "head.out.weight": weights[f"{name}.decoder_layers.0.weight"].squeeze(-1),
        "head.out.bias": weights[f"{name}.decoder_layers.0.bias"],
    }


def _transducer(weights: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    found = {"head.embedding.weight": weights["decoder.prediction.embed.weight"]}
    lstm = "decoder.prediction.dec_rnn.lstm"
    for layer in range(config.head.prediction_layers):
        pair = [weights[f"{lstm}.weight_{kind}_l{layer}"] for kind in ("ih", "hh")]
        biases = [weights[f"{lstm}.bias_{kind}_l{layer}"] for kind in ("ih", "hh")]
        found[f"head.recurrent.{layer}.weight"] = torch.cat(pair, dim=1)
        found[f"head.recurrent.{layer}.bias"] = biases[0] + biases[1]
    found |= _both(weights, "joint.enc", "head.project_encoder")
    found |= _both(weights, "joint.pred", "head.project_prediction")
    last = max(int(name.split(".")[2]) for name in weights if name.startswith("joint.joint_net."))
    return found | _both(weights, f"joint.joint_net.{last}", "head.out")
