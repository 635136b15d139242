"""CAM++ speaker embeddings as a pyannote.audio model.

CAM++ (Wang et al., "CAM++: A Fast and Efficient Network for Speaker Verification Using Context-Aware
Masking", Interspeech 2023) embeds 80-bin log mel features into 192 values. pyannote asks for one embedding
per speaker of a chunk, handing in the same chunk once per speaker, each time with another mask of its frames.

The network sees only the frames a mask selects. Running it once a chunk and masking its statistics pooling is
cheaper, but its context layers then mix the speakers of the chunk: on the recordings of
`orchestrator.diarization.parameters` the range of good clustering thresholds was less than half as wide.

Import this module after `orchestrator.diarization.pyannote_import.import_pyannote`.
"""

from __future__ import annotations

import importlib.util
import pickle
from pathlib import Path
from typing import Any, Final

import torch
from pyannote.audio import Model
from pyannote.audio.core.task import Problem, Resolution, Specifications
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torchaudio.compliance import kaldi

from orchestrator.contract import SAMPLE_RATE_HZ
from orchestrator.errors import ModelLoadError

NETWORK_FILE: Final = "camplusplus.py"
"""The network's code, class ``CAMPPlus``."""
WEIGHTS_FILE: Final = "campplus_cn_en_common.pt"

EMBEDDING_SIZE: Final = 192
MEL_BINS: Final = 80
FRAME_LENGTH_MS: Final = 25.0
FRAME_SHIFT_MS: Final = 10.0
MIN_FRAMES: Final = 25
"""Fewest frames that are embedded: 0.25 s. Less speech says next to nothing about a voice."""
CHUNK_S: Final = 10.0
_FIX: Final = "build the release again with `spark-speech build`"


def load_network(folder: Path) -> nn.Module:
    """The CAM++ network from its code and weights in ``folder``, in evaluation mode on the CPU.

    Raises:
        ModelLoadError: a file is missing or damaged, or the two do not fit together.
    """
    code, weights = folder / NETWORK_FILE, folder / WEIGHTS_FILE
    spec = importlib.util.spec_from_file_location("orchestrator_campplus", code)
    if spec is None or spec.loader is None:
        raise ModelLoadError(f"{code.name} is not Python code", path=code, fix=_FIX)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        network: nn.Module = module.CAMPPlus(feat_dim=MEL_BINS, embedding_size=EMBEDDING_SIZE)
    except (OSError, SyntaxError, ImportError, AttributeError, TypeError) as error:
        raise ModelLoadError(f"the network's code cannot be used: {error}", path=code, fix=_FIX) from error
    try:
        network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        # CAM++ ends with a batch normalisation. The code at hand adds a ReLU, which the weights were not
        # trained with and which cuts away half of every embedding.
        dense: Any = network.get_submodule("xvector.dense")
        dense.nonlinear = dense.nonlinear.batchnorm
    except (OSError, EOFError, RuntimeError, TypeError, AttributeError, pickle.UnpicklingError) as error:
        raise ModelLoadError(f"the weights cannot be loaded: {error}", path=weights, fix=_FIX) from error
    return network.eval()


class CamPlusPlus(Model):
    """A pyannote embedding model around the CAM++ network.

    Args:
        network: features ``[B, T, 80]`` to embeddings ``[B, 192]``, in evaluation mode.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__(sample_rate=SAMPLE_RATE_HZ, num_channels=1)
        self.network = network
        self.specifications = Specifications(
            problem=Problem.REPRESENTATION, resolution=Resolution.CHUNK, duration=CHUNK_S
        )

    @property
    def dimension(self) -> int:
        """Values in one embedding."""
        return EMBEDDING_SIZE

    def forward(  # type: ignore[override]  # as pyannote's own embedding models have it
        self, waveforms: Tensor, weights: Tensor | None = None
    ) -> Tensor:
        """Embed each chunk, or the part of it that a mask selects.

        Args:
            waveforms: ``[B, 1, n]`` float32. Equal neighbours share their features.
            weights: ``[B, frames]`` masks of any frame rate; above 0.5 is selected. None: all of it.

        Returns:
            ``[B, 192]``; a row is NaN where its mask selects less than `MIN_FRAMES`.

        Raises:
            ValueError: the chunks are shorter than `MIN_FRAMES` (pyannote finds its shortest input this way).
        """
        embeddings = torch.full((len(waveforms), EMBEDDING_SIZE), torch.nan, device=waveforms.device)
        features = _features(waveforms[0, 0])
        if len(features) < MIN_FRAMES:
            raise ValueError(f"{waveforms.shape[-1]} samples are too few to embed")
        for row in range(len(waveforms)):
            if row and not torch.equal(waveforms[row], waveforms[row - 1]):
                features = _features(waveforms[row, 0])
            chosen = features if weights is None else features[_select(weights[row], len(features))]
            if len(chosen) >= MIN_FRAMES:
                embeddings[row] = self.network((chosen - chosen.mean(dim=0))[None])[0]
        return embeddings


def _features(waveform: Tensor) -> Tensor:
    """Log mel features ``[T, 80]`` of samples ``[n]``, as CAM++ was trained on: Kaldi's, without dither."""
    features: Tensor = kaldi.fbank(
        waveform[None],
        sample_frequency=SAMPLE_RATE_HZ,
        num_mel_bins=MEL_BINS,
        frame_length=FRAME_LENGTH_MS,
        frame_shift=FRAME_SHIFT_MS,
        dither=0.0,
    )
    return features


def _select(mask: Tensor, frames: int) -> Tensor:
    return interpolate(mask[None, None].float(), size=frames, mode="nearest")[0, 0] > 0.5
