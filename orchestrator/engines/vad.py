"""Who is speaking at all: voice activity of many live streams in one pass, with Silero's model.

The network is computed here, from the weights in the wheel of ``silero-vad`` 6.2 (MIT licence): importing
that package would set the number of torch's threads for the whole process, and the program in its wheel
takes only streams that all have equally much audio. Per window of 512 samples, heard with the 64 samples
before it: a Fourier transform, four convolutions, one LSTM cell whose state is the stream's, and a sigmoid.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from orchestrator.engines.base import Samples
from orchestrator.errors import InferenceError, MissingDependencyError, ModelLoadError

FRAME: Final = 1280
"""Samples to a frame of the result, 80 ms: a frame of the FastConformer encoder."""

_WINDOW: Final = 512
_BEFORE: Final = 64
"""Samples before a window that are heard with it."""
_TAPS: Final = 256
_HOP: Final = 128
_BINS: Final = _TAPS // 2 + 1
_WIDTH: Final = 128
"""Of the LSTM's state."""
_PREFIX: Final = "_model."
"""Of the weights for 16 kHz; there are others for 8 kHz."""
_SHAPES: Final = {
    "stft.forward_basis_buffer": (2 * _BINS, 1, _TAPS),
    "encoder.0.reparam_conv.weight": (128, _BINS, 3),
    "encoder.0.reparam_conv.bias": (128,),
    "encoder.1.reparam_conv.weight": (64, 128, 3),
    "encoder.1.reparam_conv.bias": (64,),
    "encoder.2.reparam_conv.weight": (64, 64, 3),
    "encoder.2.reparam_conv.bias": (64,),
    "encoder.3.reparam_conv.weight": (_WIDTH, 64, 3),
    "encoder.3.reparam_conv.bias": (_WIDTH,),
    "decoder.rnn.weight_ih": (4 * _WIDTH, _WIDTH),
    "decoder.rnn.weight_hh": (4 * _WIDTH, _WIDTH),
    "decoder.rnn.bias_ih": (4 * _WIDTH,),
    "decoder.rnn.bias_hh": (4 * _WIDTH,),
    "decoder.decoder.2.weight": (1, _WIDTH, 1),
    "decoder.decoder.2.bias": (1,),
}
_STRIDES: Final = (1, 2, 2, 1)
"""Of the four convolutions: four spectra become one vector."""
_PASS: Final = 4096
"""Windows computed at once, 131 s of audio: what is beyond goes into another pass, for a window takes
about 10 KB while it is computed."""
_EDGES: Final = (0, 2, 5)
"""Two frames are five windows; the first two end in the first frame, the others in the second."""


class VoiceActivity:
    """The probability of speech in each 80 ms of many streams. Not thread-safe.

    A frame's probability is the highest of the windows that *end* in it (two and three in turn): a frame is
    complete as soon as its last sample is there, and 32 ms of speech are enough to make it one, so that a
    pause is not taken for longer than it is.
    """

    def __init__(self, max_streams: int, device: torch.device, *, weights: Path | None = None) -> None:
        """Load the weights and make room for the streams, all at their beginning.

        Args:
            max_streams: streams are numbered from 0 to ``max_streams - 1``.
            device: where to compute. All state of a stream takes 1.5 KB there.
            weights: ``silero_vad.jit``; by default the installed package's.

        Raises:
            MissingDependencyError: ``silero-vad`` is not installed.
            ModelLoadError: its weights are damaged, or of a model unknown here.
        """
        self._weights = {name: value.to(device) for name, value in _load(weights or _packaged()).items()}
        self._device = device
        self._hidden = torch.zeros(max_streams, _WIDTH, device=device)
        self._cell = torch.zeros(max_streams, _WIDTH, device=device)
        self._rest: list[Samples] = [_SILENCE] * max_streams
        """Of each stream: samples heard before the next window, and samples of the next window so far."""
        self._open: list[list[float]] = [[] for _ in range(max_streams)]
        """Of each stream: probabilities of windows whose frame is not complete."""
        self._samples = [0] * max_streams

    def reset(self, stream: int) -> None:
        """Forget what was heard of a stream: the next sample is its first."""
        self._hidden[stream] = 0
        self._cell[stream] = 0
        self._rest[stream] = _SILENCE
        self._open[stream] = []
        self._samples[stream] = 0

    @torch.inference_mode()
    def push(self, streams: Sequence[int], samples: Sequence[Samples]) -> list[NDArray[np.float32]]:
        """Take the next samples of some of the streams, in one pass of the model.

        Args:
            streams: their numbers, each once.
            samples: for each, float32 ``[n]`` at 16 kHz, full scale +-1; n may be 0 and differ.

        Returns:
            For each stream the probability, 0..1, of each frame that is new: after N samples in all, a
            stream has had ``N // 1280`` frames. It depends on the stream's samples alone, up to rounding.

        Raises:
            InferenceError: the model failed; the streams are as before, without these samples.
            ValueError: a stream appears twice, or ``streams`` and ``samples`` differ in length.
        """
        if len(set(streams)) != len(streams) or len(streams) != len(samples):
            raise ValueError("each stream may appear once, with its samples")
        heard = [
            np.concatenate((self._rest[stream], new)) for stream, new in zip(streams, samples, strict=True)
        ]
        counts = [(part.size - _BEFORE) // _WINDOW for part in heard]
        # The most windows first: those that have a t-th window are then the first rows of the batch.
        order = [row for row in np.argsort(counts, kind="stable")[::-1].tolist() if counts[row]]
        found: list[list[float]] = [[] for _ in streams]
        if order:
            rows = [streams[row] for row in order]
            windows = [counts[row] for row in order]
            try:
                values = self._compute(rows, [heard[row] for row in order], windows)
            except RuntimeError as error:  # torch reports everything so, memory included
                raise InferenceError(f"voice activity failed: {error}") from error
            for place, row in enumerate(order):
                found[row] = values[: counts[row], place].tolist()
        return [
            self._frames(stream, part[count * _WINDOW :], new.size, probabilities)
            for stream, part, new, count, probabilities in zip(
                streams, heard, samples, counts, found, strict=True
            )
        ]

    def _frames(
        self, stream: int, rest: Samples, new: int, probabilities: list[float]
    ) -> NDArray[np.float32]:
        """Keep what is left of a stream, and make frames of its windows."""
        # A copy: a view would keep the whole of a long piece of audio alive.
        self._rest[stream] = rest.copy()
        before = self._samples[stream]
        after = before + new
        self._samples[stream] = after
        waiting = self._open[stream] + probabilities
        first, last = before // FRAME, after // FRAME
        frames = np.empty(last - first, np.float32)
        begin = 0
        for number in range(first, last):
            end = begin + _EDGES[number % 2 + 1] - _EDGES[number % 2]
            frames[number - first] = max(waiting[begin:end])
            begin = end
        self._open[stream] = waiting[begin:]
        return frames

    def _compute(
        self, streams: list[int], heard: Sequence[Samples], windows: list[int]
    ) -> NDArray[np.float32]:
        """The probability of each window, ``[most windows, streams]``; the streams' states go on."""
        steps = [sum(count > step for count in windows) for step in range(windows[0])]
        batch = np.zeros((len(heard), _BEFORE + windows[0] * _WINDOW), np.float32)
        for row, (part, count) in enumerate(zip(heard, windows, strict=True)):
            length = _BEFORE + count * _WINDOW
            batch[row, :length] = part[:length]
        cut = torch.from_numpy(batch).to(self._device).unfold(1, _BEFORE + _WINDOW, _WINDOW).transpose(0, 1)
        inputs = torch.cat([cut[step, :active] for step, active in enumerate(steps)])
        encoded = torch.cat([self._encode(part) for part in torch.split(inputs, _PASS)])
        weights = self._weights
        lstm = [weights[f"decoder.rnn.{name}"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
        places = torch.tensor(streams, device=self._device)
        hidden, cell = self._hidden[places], self._cell[places]
        hiddens: list[Tensor] = []
        for active, vectors in zip(steps, torch.split(encoded, steps), strict=True):
            new, new_cell = torch.lstm_cell(vectors, (hidden[:active], cell[:active]), *lstm)
            hidden = torch.cat((new, hidden[active:]))
            cell = torch.cat((new_cell, cell[active:]))
            hiddens.append(hidden)
        weight, bias = weights["decoder.decoder.2.weight"][:, :, 0], weights["decoder.decoder.2.bias"]
        final = functional.linear(torch.stack(hiddens).relu(), weight, bias)
        values: NDArray[np.float32] = final[..., 0].sigmoid().cpu().numpy()
        # Only now that the results are here: a failure above leaves the streams as they were.
        self._hidden[places] = hidden
        self._cell[places] = cell
        return values

    def _encode(self, windows: Tensor) -> Tensor:
        """``[n, 576]`` samples to ``[n, 128]``."""
        weights = self._weights
        padded = functional.pad(windows, (0, _BEFORE), mode="reflect")
        basis = weights["stft.forward_basis_buffer"][:, 0]
        spectrum = functional.linear(padded.unfold(1, _TAPS, _HOP), basis)
        real, imaginary = spectrum.transpose(1, 2).chunk(2, dim=1)
        hidden = (real.square() + imaginary.square()).sqrt()
        for layer, stride in enumerate(_STRIDES):
            weight, bias = (weights[f"encoder.{layer}.reparam_conv.{kind}"] for kind in ("weight", "bias"))
            hidden = functional.conv1d(hidden, weight, bias, stride=stride, padding=1).relu()
        return hidden[:, :, 0]


class Hysteresis:
    """Whether each frame of one stream is speech: it begins at ``onset`` and lasts down to ``offset``."""

    __slots__ = ("_offset", "_onset", "speech")

    speech: bool
    """Whether the last frame was."""

    def __init__(self, onset: float, offset: float) -> None:
        """Begin in silence.

        Args:
            onset: after silence, a frame is speech from this probability on.
            offset: after speech, a frame is silence below this probability.
        """
        self._onset = onset
        self._offset = offset
        self.speech = False

    def push(self, probabilities: NDArray[np.float32]) -> NDArray[np.bool_]:
        """``[n]`` probabilities to ``[n]`` whether each frame is speech."""
        result = []
        for value in probabilities.tolist():
            self.speech = value >= (self._offset if self.speech else self._onset)
            result.append(self.speech)
        return np.array(result, np.bool_)


_SILENCE: Final = np.zeros(_BEFORE, np.float32)


def _packaged() -> Path:
    """The weights in the installed package, found without importing it."""
    spec = find_spec("silero_vad")
    if spec is None or not spec.submodule_search_locations:
        raise MissingDependencyError(
            "endpoints from voice activity need the package silero-vad",
            fix="install spark-speech[serve], or ask for speech_from = tokens",
        )
    return Path(spec.submodule_search_locations[0], "data", "silero_vad.jit")


def _load(path: Path) -> dict[str, Tensor]:
    # The wheel has the weights as safetensors as well, but those of an older training.
    try:
        program = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
    except (OSError, RuntimeError, ValueError) as error:
        raise ModelLoadError(
            f"the weights of the voice activity detector cannot be read: {error}",
            path=path,
            fix="install silero-vad 6.2 again",
        ) from error
    weights = {
        name.removeprefix(_PREFIX): value
        for name, value in program.state_dict().items()
        if name.startswith(_PREFIX)
    }
    if {name: tuple(value.shape) for name, value in weights.items()} != _SHAPES:
        raise ModelLoadError(
            "these are not the weights of Silero's voice activity detector, version 6",
            path=path,
            fix="install silero-vad 6.2",
        )
    return weights
