"""A NeMo model in memory from a ``.nemo`` file, quietly and without unpacking the weights to disk."""

from __future__ import annotations

import contextlib
import logging
import pickle
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import torch
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from orchestrator.engines import nemo_archive
from orchestrator.engines.checks import reason_of
from orchestrator.engines.nemo_archive import Checkpoint
from orchestrator.errors import ModelLoadError

_LOAD_ERRORS: Final = (
    RuntimeError,  # torch: a corrupt file, other shapes than the configuration's, no such device
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    EOFError,
    ImportError,
    AssertionError,
    pickle.UnpicklingError,
    HydraException,
    OmegaConfBaseException,
)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep NeMo's advice for trainers and its import-time warnings from the operator; errors still show."""
    telemetry = logging.getLogger("nv_one_logger")
    telemetry_before = telemetry.level
    telemetry.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from nemo.utils import logging as nemo_logging

        before = nemo_logging.get_verbosity()
        nemo_logging.set_verbosity(logging.ERROR)
        try:
            yield
        finally:
            nemo_logging.set_verbosity(before)
            telemetry.setLevel(telemetry_before)


def restore(path: Path, checkpoint: Checkpoint, device: torch.device) -> Any:
    """The model in ``path``, on ``device``, ready for inference.

    NeMo's own restore leaves the model in training mode and unpacks all weights into a temporary folder;
    here only the small files are unpacked (and removed), and the weights are read from inside the archive.
    Dither and padding of the features are off: both would make a result depend on chance or on the batch.

    Raises:
        ModelLoadError: the weights are corrupt, do not fit the configuration, or the device has no room.
    """
    try:
        with quiet():
            model = _restore(path, compressed=checkpoint.compressed, device=device)
    except torch.OutOfMemoryError as error:
        raise ModelLoadError(
            f"{path} does not fit into the memory of {device}.",
            fix="free memory on the device, or choose a smaller model.",
            path=path,
        ) from error
    except _LOAD_ERRORS as error:
        raise ModelLoadError(
            f"{path} cannot be loaded on {device}: {reason_of(error)}",
            fix="fetch the file again, or check that it was made by a compatible NeMo "
            f"(the file says {checkpoint.nemo_version or 'nothing'}).",
            path=path,
        ) from error
    model.eval()
    model.requires_grad_(False)
    model.preprocessor.featurizer.dither = 0.0
    model.preprocessor.featurizer.pad_to = 0
    return model


def _restore(path: Path, *, compressed: bool, device: torch.device) -> Any:
    from nemo.collections.asr.models import ASRModel
    from nemo.core.connectors.save_restore_connector import (
        SaveRestoreConnector,
    )

    class WeightsInArchive(SaveRestoreConnector):  # type: ignore[misc]
        """Reads the weights where they lie."""

        def _load_state_dict_from_disk(self, model_weights: str, map_location: Any = "cpu") -> Any:
            archive, file = nemo_archive.open_weights(path)
            with archive:
                return torch.load(file, map_location=map_location, weights_only=True)

    with tempfile.TemporaryDirectory(prefix="spark-speech-nemo-") as folder:
        nemo_archive.unpack(path, Path(folder), weights=compressed)
        # Seeking in a gzipped archive means reading it again from the start, so old files are unpacked whole.
        connector = SaveRestoreConnector() if compressed else WeightsInArchive()
        connector.model_extracted_dir = folder
        return ASRModel.restore_from(str(path), map_location=device, save_restore_connector=connector)
