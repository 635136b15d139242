"""Recognisers: audio in, words out, free of Triton and of the network.

`names` lists them, `spec` tells what one is without importing its libraries, `availability` whether it can
run here, and `load` returns it ready to `Recognizer.recognize`. Engines for live streams have
`streaming_names` and `load_streaming`, what gives words their times `aligner_names` and `load_aligner`.
"""

from orchestrator.engines.base import (
    EngineInfo,
    EngineSource,
    Recognition,
    RecognitionOptions,
    RecognizedWord,
    Recognizer,
    Samples,
)
from orchestrator.engines.registry import (
    Availability,
    EngineSpec,
    Package,
    aligner_names,
    availability,
    load,
    load_aligner,
    load_streaming,
    names,
    outside_names,
    require,
    spec,
    streaming_names,
)

__all__ = [
    "Availability",
    "EngineInfo",
    "EngineSource",
    "EngineSpec",
    "Package",
    "Recognition",
    "RecognitionOptions",
    "RecognizedWord",
    "Recognizer",
    "Samples",
    "aligner_names",
    "availability",
    "load",
    "load_aligner",
    "load_streaming",
    "names",
    "outside_names",
    "require",
    "spec",
    "streaming_names",
]
