"""The diarization pipeline from weights that need no model hub: segmentation-3.0 and CAM++.

Import this module after `orchestrator.diarization.pyannote_import.import_pyannote`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pyannote.audio import Model
from pyannote.audio.core.plda import PLDA
from pyannote.audio.pipelines import SpeakerDiarization
from pyannote.audio.pipelines.clustering import AgglomerativeClustering

from orchestrator.diarization.embedding import NETWORK_FILE, WEIGHTS_FILE, CamPlusPlus, load_network
from orchestrator.diarization.parameters import DiarizerParameters
from orchestrator.errors import ModelLoadError

SEGMENTATION_FILE: Final = "pytorch_model.bin"
FILES: Final = (SEGMENTATION_FILE, WEIGHTS_FILE, NETWORK_FILE)

ACTIVE_SHARES: Final = (0.2, 0.1, 0.05, 0.0)
"""How much of a window a speaker must fill alone to take part in clustering: pyannote's value first, then
less, until there are as many voices as were asked for. Short recordings have no fuller windows."""


def build_pipeline(folder: Path, parameters: DiarizerParameters) -> SpeakerDiarization:
    """The pipeline from the `FILES` in ``folder``, on the CPU.

    Raises:
        ModelLoadError: a file is missing, or CAM++ cannot be loaded.
    """
    for name in FILES:
        if not (folder / name).is_file():
            raise ModelLoadError(
                f"the diarizer's folder has no {name}",
                path=folder,
                fix=f"the folder must hold {', '.join(FILES)}, or a copy of "
                "pyannote/speaker-diarization-community-1 with its config.yaml; build the model again",
            )
    segmentation = Model.from_pretrained(folder / SEGMENTATION_FILE)
    if segmentation is None:  # pyannote's answer for a hub model that cannot be had
        raise ModelLoadError(
            "the segmentation model cannot be loaded",
            path=folder / SEGMENTATION_FILE,
            fix="build the release again with `spark-speech build`",
        )
    pipeline = SpeakerDiarization(
        segmentation=segmentation,
        segmentation_step=parameters.step,
        segmentation_batch_size=parameters.segmentation_batch,
        embedding=CamPlusPlus(load_network(folder)),
        embedding_exclude_overlap=True,
        embedding_batch_size=parameters.embedding_batch,
        # Only VBx clustering uses a PLDA, but the constructor insists on an instance.
        plda=PLDA.__new__(PLDA),
        clustering="AgglomerativeClustering",
    )
    pipeline.clustering = _Clustering(metric="cosine")
    pipeline.instantiate(
        {
            "segmentation": {"min_duration_off": parameters.min_duration_off_s},
            "clustering": {
                "method": "centroid",
                "threshold": parameters.threshold,
                "min_cluster_size": parameters.min_cluster_size,
            },
        }
    )
    return pipeline


class _Clustering(AgglomerativeClustering):
    """Agglomerative clustering that takes fainter evidence where it lacks some for the speakers wanted."""

    def __call__(
        self,
        embeddings: NDArray[np.float32],
        segmentations: Any = None,
        num_clusters: int | None = None,
        min_clusters: int | None = None,
        max_clusters: int | None = None,
        **others: Any,
    ) -> Any:
        wanted = num_clusters or min_clusters or 1
        self._active_share = ACTIVE_SHARES[-1]
        for share in ACTIVE_SHARES:
            found, _, _ = super().filter_embeddings(embeddings, segmentations, share)
            if len(found) >= wanted:
                self._active_share = share
                break
        return super().__call__(embeddings, segmentations, num_clusters, min_clusters, max_clusters, **others)

    def filter_embeddings(
        self, embeddings: NDArray[np.float32], segmentations: Any = None, min_active_ratio: float = 0.2
    ) -> Any:
        return super().filter_embeddings(embeddings, segmentations, self._active_share)
