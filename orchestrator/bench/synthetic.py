"""A recogniser of a real model's shape with random weights: as fast as the real one, and as talkative.

It says nonsense. What it is for is speed, memory and start-up where the real weights cannot be had: the
features are real, activations stay of order one through all layers, and the blank's bias is set so that the
decoder finds as many tokens a second as people say.
"""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from orchestrator.contract import SAMPLE_RATE_HZ
from orchestrator.engines.fastconformer import artifact
from orchestrator.engines.fastconformer.artifact import Description, Precision
from orchestrator.engines.fastconformer.compute import Compute
from orchestrator.engines.fastconformer.config import EncoderConfig, FeatureConfig, HeadConfig, ModelConfig
from orchestrator.engines.fastconformer.encoder import RelativeAttention
from orchestrator.engines.fastconformer.heads import TransducerHead
from orchestrator.engines.fastconformer.network import FastConformer
from orchestrator.engines.fastconformer.tokens import Tokens, punctuation
from orchestrator.engines.mel import mel_filters
from orchestrator.engines.torch_device import device_of
from orchestrator.errors import ModelLoadError

Shape = Literal["0.6b", "tiny"]

TOKENS_PER_SECOND: Final = 3.5
"""About what English speech gives with a vocabulary of some thousand pieces."""
_DURATIONS: Final = (0, 1, 2, 3, 4)
_SHAPES: Final[dict[Shape, ModelConfig]] = {
    # nvidia/parakeet-tdt-0.6b-v2 and -v3, from their configurations; the vocabulary is that of -v3.
    "0.6b": ModelConfig(
        FeatureConfig(mels=128, fft=512, window=400, hop=160, preemphasis=0.97, log_guard=2**-24),
        EncoderConfig(
            layers=24,
            width=1024,
            heads=8,
            feed_forward=4096,
            conv_kernel=9,
            subsampling=8,
            subsampling_channels=256,
            bias=False,
            scale_input=False,
        ),
        HeadConfig("tdt", 8192, _DURATIONS, prediction_width=640, prediction_layers=2, joint_width=640),
    ),
    "tiny": ModelConfig(
        FeatureConfig(mels=40, fft=512, window=400, hop=160, preemphasis=0.97, log_guard=2**-24),
        EncoderConfig(
            layers=2,
            width=64,
            heads=2,
            feed_forward=128,
            conv_kernel=9,
            subsampling=8,
            subsampling_channels=16,
            bias=False,
            scale_input=False,
        ),
        HeadConfig("tdt", 128, _DURATIONS, prediction_width=48, prediction_layers=1, joint_width=48),
    ),
}
_CONTRAST: Final = 3.0
"""Deviation of what the joint sees, of the frames and of the tokens so far alike."""
_CERTAINTY: Final = 4.0
"""Deviation of the joint's logits: with it the best token is often clear and sometimes not."""
_STATE: Final = 0.15
"""About the deviation of an LSTM's state under torch's own initialisation."""
_BIAS_STEPS: Final = 14
_TUNING_S: Final = 20.0
_TUNING_ROWS: Final = 8


def write(
    folder: Path,
    *,
    seed: int = 0,
    shape: Shape = "0.6b",
    device: torch.device | str = "cpu",
    precision: Precision = "bfloat16",
    tokens_per_second: float = TOKENS_PER_SECOND,
) -> float:
    """Write the lean form of such a recogniser; the same arguments on one machine give the same weights.

    Args:
        folder: made where it is not there.
        seed: of the weights.
        shape: ``0.6b``, or ``tiny`` for tests.
        device: where it is made; a GPU takes seconds for the large shape.
        precision: of the stored weights; the rate is set for it.
        tokens_per_second: what the decoder shall find in `speech_like` audio.

    Returns:
        What it does find.

    Raises:
        ConfigurationError: there is no such kind of device.
        ModelLoadError: no bias gives that rate, or the device is not in this machine.
        ArtifactError: the files cannot be written.
    """
    device = device_of(str(device), "parakeet")
    config = _SHAPES[shape]
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.inference_mode():
        torch.manual_seed(seed)
        with device:
            network = FastConformer(config).eval().requires_grad_(False)
        _initialize(network, config)
        rate = _tune(network, device, precision, tokens_per_second)
        weights = {name: value.cpu() for name, value in network.state_dict().items()}
    pieces = _pieces(config.head.vocabulary)
    description = Description(
        config, Tokens(pieces, punctuation(pieces), unknown=(0,)), languages=("en",), precision=precision
    )
    folder.mkdir(parents=True, exist_ok=True)
    artifact.save(folder, description, weights)
    return rate


def speech_like(rows: int, seconds: float, *, seed: int = 0) -> NDArray[np.float32]:
    """``[rows, n]`` at 16 kHz: syllables of coloured noise, 60-200 ms each with a colour and loudness."""
    rng = np.random.default_rng(seed)
    total = int(seconds * SAMPLE_RATE_HZ)
    audio = np.zeros((rows, total), dtype=np.float32)
    for row in audio:
        begin = 0
        while begin < total:
            size = min(total - begin, int(rng.uniform(0.06, 0.2) * SAMPLE_RATE_HZ))
            noise = np.convolve(rng.standard_normal(size + 15), rng.standard_normal(16), mode="valid")
            row[begin : begin + size] = rng.uniform(0.001, 0.1) * noise
            begin += size
    return np.clip(audio, -1.0, 1.0, out=audio)


def _pieces(count: int) -> tuple[str, ...]:
    """Different pieces of one to five letters, of which one in three opens a word, and some marks."""
    marks = ("<unk>", ".", ",", "?", "!", "'")
    onsets, vowels = "bcdfghklmnprstvw", "aeiou"
    syllables = ("".join(parts) for parts in itertools.product(onsets, vowels, ("", *"nrstl")))
    parts = [*onsets, *vowels, *syllables]
    longer = (first + second for first, second in itertools.product(parts, parts))
    letters = itertools.chain(parts, (piece for piece in longer if len(piece) > 3))
    texts = dict.fromkeys(itertools.islice(letters, 2 * count))
    named = [("\u2581" if number % 3 == 0 else "") + text for number, text in enumerate(texts)]
    return (*marks, *named[: count - len(marks)])


def _initialize(network: FastConformer, config: ModelConfig) -> None:
    """Beyond torch's own: the real features, livelier attention, and no preference among the tokens."""
    device = network.features.window.device
    network.features.window.copy_(torch.hann_window(config.features.window, periodic=False, device=device))
    filters = mel_filters(config.features.mels, config.features.fft)
    network.features.filters.copy_(torch.from_numpy(filters))
    for part in network.encoder.modules():
        if isinstance(part, RelativeAttention):
            part.content_bias.normal_(0.0, 0.1)
            part.position_bias.normal_(0.0, 0.1)
    head = network.head
    head.out.weight.normal_(0.0, _CERTAINTY / (_CONTRAST * config.head.joint_width**0.5))
    head.out.bias.zero_()
    if isinstance(head, TransducerHead):
        head.embedding.weight[head.blank] = 0.0
        head.project_prediction.weight.normal_(0.0, _CONTRAST / (_STATE * config.head.prediction_width**0.5))
        # A real model hardly ever predicts a token that takes no time.
        head.out.bias[head.blank + 1] = -2 * _CERTAINTY


def _tune(network: FastConformer, device: torch.device, precision: Precision, rate: float) -> float:
    """Make the joint look at what tells frames apart, and set the blank's bias for ``rate`` tokens/s."""
    head = network.head
    if not isinstance(head, TransducerHead):
        raise ModelLoadError("only a transducer can be tuned", fix="use another shape")
    compute = Compute(network, device, precision=precision)
    audio = torch.from_numpy(speech_like(_TUNING_ROWS, _TUNING_S, seed=1))
    encoded, frames = compute.encode(audio, torch.full((_TUNING_ROWS,), audio.shape[1]))
    encoded = encoded.clone()
    _look_at_differences(head, encoded.float())

    low, high = -50.0, 100.0
    found = math.inf
    for _ in range(_BIAS_STEPS):
        bias = (low + high) / 2
        head.out.bias[head.blank] = bias
        tokens, _ = compute.decode(encoded, frames)
        found = float(tokens.count.sum()) / (_TUNING_ROWS * _TUNING_S)
        low, high = (bias, high) if found > rate else (low, bias)
    if not 0.5 * rate < found < 2 * rate:
        raise ModelLoadError(
            f"the random model finds {found:.2f} tokens a second, not {rate}", fix="use another seed"
        )
    return found


def _look_at_differences(head: TransducerHead, encoded: Tensor) -> None:
    """A random encoder's frames are nearly alike: take away what they share and amplify the rest."""
    common, spread = encoded.mean((0, 1)), encoded.std((0, 1)).clamp(min=1e-6)
    weight = _CONTRAST * torch.randn(head.project_encoder.weight.shape, device=encoded.device)
    weight = weight / (spread * encoded.shape[2] ** 0.5)
    head.project_encoder.weight.copy_(weight)
    head.project_encoder.bias.copy_(-(weight @ common))
