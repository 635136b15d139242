"""The shape of a FastConformer recogniser, read from NeMo's ``model_config.yaml``.

Only what changes the computation at inference is kept; what this package cannot compute is refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from orchestrator.contract import SAMPLE_RATE_HZ
from orchestrator.errors import ModelLoadError, UnsupportedModelError

HeadKind = Literal["tdt", "rnnt", "ctc"]

DEFAULT_MAX_SYMBOLS = 10
"""Tokens at one frame before decoding moves on; NeMo's own default for greedy decoding."""


@dataclass(frozen=True, slots=True)
class FeatureConfig:
    """Log-mel features. Lengths in samples at 16 kHz."""

    mels: int
    fft: int
    window: int
    hop: int
    preemphasis: float
    log_guard: float
    normalize: bool = True
    """Zero mean and unit variance of each band over the recording."""


@dataclass(frozen=True, slots=True)
class EncoderConfig:
    """FastConformer encoder (Rekesh et al. 2023): depthwise-striding subsampling, then Conformer layers."""

    layers: int
    width: int
    heads: int
    feed_forward: int
    conv_kernel: int
    subsampling: int
    subsampling_channels: int
    bias: bool
    scale_input: bool
    causal: bool = False
    """Cache-aware: convolutions see the past only, attention its own chunk and ``left`` frames before it."""
    left: int = 0
    right: int = 0
    """Causal only: a chunk is ``right + 1`` frames."""
    conv_norm: Literal["batch_norm", "layer_norm"] = "batch_norm"


@dataclass(frozen=True, slots=True)
class HeadConfig:
    """What turns encoder frames into tokens; ``vocabulary`` leaves the blank out."""

    kind: HeadKind
    vocabulary: int
    durations: tuple[int, ...] = ()
    """TDT only: frames a token may last."""
    prediction_width: int = 0
    prediction_layers: int = 0
    joint_width: int = 0
    activation: Literal["relu", "tanh", "sigmoid"] = "relu"
    max_symbols: int = DEFAULT_MAX_SYMBOLS


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """A whole recogniser."""

    features: FeatureConfig
    encoder: EncoderConfig
    head: HeadConfig

    @property
    def frame_ms(self) -> float:
        """Milliseconds one encoder frame stands for (80 for Parakeet)."""
        return 1000 * self.features.hop * self.encoder.subsampling / SAMPLE_RATE_HZ


def _require(found: object, *wanted: object, what: str) -> None:
    if found not in wanted:
        raise UnsupportedModelError(
            f"{what} is {found!r}; the native runtime computes {wanted[0]!r} only",
            fix="set the engine's option runtime to nemo",
        )


def _features(cfg: Mapping[str, Any]) -> FeatureConfig:
    rate = cfg.get("sample_rate", SAMPLE_RATE_HZ)
    _require(rate, SAMPLE_RATE_HZ, what="preprocessor.sample_rate")
    normalize = cfg.get("normalize", "per_feature")
    _require(normalize, "per_feature", "NA", None, what="preprocessor.normalize")
    _require(cfg.get("frame_splicing", 1), 1, what="preprocessor.frame_splicing")
    _require(cfg.get("mag_power", 2.0), 2.0, what="preprocessor.mag_power")
    _require(cfg.get("log", True), True, what="preprocessor.log")
    _require(cfg.get("log_zero_guard_type", "add"), "add", what="preprocessor.log_zero_guard_type")
    _require(cfg.get("exact_pad", False), False, what="preprocessor.exact_pad")
    window = round(cfg.get("window_size", 0.02) * rate)
    preemphasis = cfg.get("preemph", 0.97)
    return FeatureConfig(
        mels=cfg["features"],
        fft=cfg.get("n_fft") or 1 << (window - 1).bit_length(),
        window=window,
        hop=round(cfg.get("window_stride", 0.01) * rate),
        preemphasis=0.0 if preemphasis is None else preemphasis,
        log_guard=float(cfg.get("log_zero_guard_value", 2**-24)),
        normalize=normalize == "per_feature",
    )


def _encoder(cfg: Mapping[str, Any]) -> EncoderConfig:
    _require(cfg["_target_"].rsplit(".", 1)[-1], "ConformerEncoder", what="encoder")
    _require(cfg.get("subsampling"), "dw_striding", what="encoder.subsampling")
    _require(cfg.get("self_attention_model", "rel_pos"), "rel_pos", what="encoder.self_attention_model")
    causal = bool(cfg.get("causal_downsampling", False))
    left, right = _causal_context(cfg) if causal else _full_context(cfg)
    _require(cfg.get("reduction"), None, what="encoder.reduction")
    _require(cfg.get("feat_out", -1), -1, None, what="encoder.feat_out")
    width = cfg["d_model"]
    channels = cfg.get("subsampling_conv_channels", -1)
    return EncoderConfig(
        layers=cfg["n_layers"],
        width=width,
        heads=cfg["n_heads"],
        feed_forward=width * cfg.get("ff_expansion_factor", 4),
        conv_kernel=cfg.get("conv_kernel_size", 31),
        subsampling=cfg.get("subsampling_factor", 4),
        subsampling_channels=width if channels == -1 else channels,
        bias=cfg.get("use_bias", True),
        scale_input=cfg.get("xscaling", True),
        causal=causal,
        left=left,
        right=right,
        conv_norm=cfg.get("conv_norm_type", "batch_norm"),
    )


def _full_context(cfg: Mapping[str, Any]) -> tuple[int, int]:
    _require(list(cfg.get("att_context_size") or [-1, -1]), [-1, -1], what="encoder.att_context_size")
    _require(cfg.get("conv_norm_type", "batch_norm"), "batch_norm", what="encoder.conv_norm_type")
    _require(cfg.get("conv_context_size"), None, what="encoder.conv_context_size")
    return 0, 0


def _causal_context(cfg: Mapping[str, Any]) -> tuple[int, int]:
    """Frames before a chunk that it sees, and frames in it after the first; NeMo's default of several."""
    kernel = cfg.get("conv_kernel_size", 31)
    _require(cfg.get("att_context_style"), "chunked_limited", what="encoder.att_context_style")
    _require(cfg.get("conv_context_size"), "causal", [kernel - 1, 0], what="encoder.conv_context_size")
    _require(
        cfg.get("conv_norm_type", "batch_norm"), "layer_norm", "batch_norm", what="encoder.conv_norm_type"
    )
    _require(cfg.get("subsampling_factor", 4), 8, what="encoder.subsampling_factor")
    contexts = list(cfg["att_context_size"])
    left, right = contexts[0] if isinstance(contexts[0], list) else contexts
    if left < 0 or right < 0:
        _require([left, right], [70, 1], what="encoder.att_context_size")
    return left, right


def _transducer(cfg: Mapping[str, Any], vocabulary: int) -> HeadConfig:
    decoder, joint = cfg["decoder"], cfg["joint"]
    _require(decoder["_target_"].rsplit(".", 1)[-1], "RNNTDecoder", what="decoder")
    _require(decoder.get("normalization_mode"), None, what="decoder.normalization_mode")
    _require(decoder.get("blank_as_pad", True), True, what="decoder.blank_as_pad")
    decoding = cfg.get("decoding") or {}
    greedy = decoding.get("greedy") or {}
    durations = ((cfg.get("loss") or {}).get("tdt_kwargs") or {}).get("durations")
    tdt = bool(joint.get("num_extra_outputs"))
    return HeadConfig(
        kind="tdt" if tdt else "rnnt",
        vocabulary=vocabulary,
        durations=tuple(durations or decoding["durations"]) if tdt else (),
        prediction_width=decoder["prednet"]["pred_hidden"],
        prediction_layers=decoder["prednet"]["pred_rnn_layers"],
        joint_width=joint["jointnet"]["joint_hidden"],
        activation=joint["jointnet"].get("activation", "relu").lower(),
        max_symbols=greedy.get("max_symbols") or DEFAULT_MAX_SYMBOLS,
    )


def from_nemo(cfg: Mapping[str, Any], vocabulary: int, *, ctc: bool) -> ModelConfig:
    """The shape a NeMo configuration describes.

    Args:
        cfg: ``model_config.yaml`` as plain data, interpolations resolved.
        vocabulary: tokens without the blank.
        ctc: take the CTC head, of a CTC model or of a hybrid.

    Raises:
        UnsupportedModelError: the model needs something this package does not compute.
        ModelLoadError: a key is missing or of another type.
    """
    try:
        head = HeadConfig("ctc", vocabulary) if ctc else _transducer(cfg, vocabulary)
        return ModelConfig(_features(cfg["preprocessor"]), _encoder(cfg["encoder"]), head)
    except (KeyError, TypeError, ValueError) as error:
        raise ModelLoadError(
            f"the model's configuration lacks or garbles {error}", fix="use a FastConformer checkpoint"
        ) from error
