"""The exported graphs in TensorRT's own parser and builder, for the GPU of a DGX Spark.

TensorRT for RTX has the same Python interface and comes as a wheel. It builds for a GPU that is not there,
which TensorRT does not; what it builds is not run. Only the target is set here, all else is `tensorrt.build`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from orchestrator.bench import synthetic_whisper
from orchestrator.engines.whisper.ct2_folder import files_in
from orchestrator.engines.whisper_native import export, tensorrt
from orchestrator.engines.whisper_native.checkpoint import shape_in
from orchestrator.engines.whisper_native.tokens import tokens_in
from orchestrator.engines.whisper_native.weights import network_in
from orchestrator.errors import ModelLoadError

trt = pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT for RTX has wheels for Linux alone")
pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]
ROWS = 4


class ForSpark:
    """The library, with builders whose plans are for sm_121."""

    def __getattr__(self, name: str) -> Any:
        return getattr(trt, name)

    def Builder(self, logger: Any) -> Any:  # noqa: N802 (TensorRT's name)
        return _Builder(trt.Builder(logger))


class _Builder:
    def __init__(self, builder: Any) -> None:
        self._builder = builder

    def __getattr__(self, name: str) -> Any:
        return getattr(self._builder, name)

    def create_builder_config(self) -> Any:
        config = self._builder.create_builder_config()
        config.num_compute_capabilities = 1
        config.set_compute_capability(trt.ComputeCapability.SM121, 0)
        return config


@dataclass
class Exported:
    """The graphs by name, and the ranges of their inputs."""

    graphs: dict[str, Path]
    ranges: Mapping[str, Mapping[str, tensorrt.Range]]


@pytest.fixture(scope="module", params=["float16", "bfloat16"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder = tmp_path_factory.mktemp("checkpoint")
    synthetic_whisper.write(folder, shape="toy")
    files = files_in(folder)
    shape = shape_in(files, "whisper_trt")
    tokens = tokens_in(files, shape.vocabulary, "whisper_trt")
    network = network_in(files, shape, torch.device("cpu"), getattr(torch, request.param), "whisper_trt")
    graphs = export.export(network, tokens.alignment_heads, tmp_path_factory.mktemp("graphs"))
    return Exported(graphs, export.limits(shape, ROWS))


def test_every_graph_is_read_and_built(exported: Exported) -> None:
    assert set(exported.graphs) == {"encoder", "step", "attention"}
    for name, graph in exported.graphs.items():
        plan = tensorrt.build(ForSpark(), graph, exported.ranges[name])
        # Weights and kernels: more than what the graph says.
        assert len(plan) > graph.stat().st_size, name


def test_a_damaged_graph_is_refused_with_the_parsers_words(exported: Exported, tmp_path: Path) -> None:
    damaged = tmp_path / "step.onnx"
    damaged.write_bytes(exported.graphs["step"].read_bytes()[:2000])
    with pytest.raises(ModelLoadError, match=r"cannot read step\.onnx: \w+"):
        tensorrt.build(ForSpark(), damaged, exported.ranges["step"])


def test_ranges_that_do_not_fit_the_graph_are_refused(exported: Exported) -> None:
    ranges = {
        name: [[*sizes[:-1], sizes[-1] + 1] for sizes in shapes]
        for name, shapes in exported.ranges["encoder"].items()
    }
    with pytest.raises(ModelLoadError, match="cannot build"):
        tensorrt.build(ForSpark(), exported.graphs["encoder"], ranges)
