from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import model_config_pb2 as schema

from orchestrator import resources
from orchestrator.contract import TensorSpec
from orchestrator.errors import ReleaseInvalidError
from orchestrator.repository.config import InstanceGroup, ModelConfig, SequenceBatching, parse, render
from orchestrator.repository.plan import make_plan
from orchestrator.repository.render import committed_configs

_name = st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=12)
_dims = st.lists(st.sampled_from([-1, 1, 4]), min_size=1, max_size=3).map(tuple)
_type = st.sampled_from(["FP32", "INT32", "INT64", "BYTES", "BOOL"])
_input = st.builds(TensorSpec, _name, _type, _dims, st.booleans())
_output = st.builds(TensorSpec, _name, _type, _dims)
_sequences = st.builds(SequenceBatching, *[st.integers(0, 2**31 - 1)] * 3)

_batching = st.fixed_dictionaries({}) | st.one_of(
    st.fixed_dictionaries({"queue_delay_us": st.integers(0, 10**6)}),
    st.fixed_dictionaries({"sequences": _sequences}),
)


@st.composite
def configs(draw: st.DrawFn) -> ModelConfig:
    inputs = tuple(draw(st.lists(_input, max_size=3)))
    return ModelConfig(
        name=draw(_name),
        inputs=inputs,
        outputs=tuple(draw(st.lists(_output, max_size=3))),
        instances=tuple(
            draw(st.lists(st.builds(InstanceGroup, st.sampled_from(["cpu", "cuda"]), st.integers(1, 9))))
        ),
        max_batch_size=draw(st.integers(1, 512)),
        ragged=draw(st.booleans()) and any(-1 in tensor.dims for tensor in inputs),
        **draw(_batching),
        parameters=draw(st.dictionaries(_name, st.text(max_size=20), max_size=4)),
    )


@given(configs())
def test_a_configuration_survives_the_text(config: ModelConfig) -> None:
    assert parse(render(config)) == config


@given(configs(), st.randoms())
def test_the_text_does_not_depend_on_the_order_of_parameters(config: ModelConfig, rng: random.Random) -> None:
    items = list(config.parameters.items())
    rng.shuffle(items)
    shuffled = ModelConfig(**{**{f: getattr(config, f) for f in config.__slots__}, "parameters": dict(items)})
    assert render(shuffled) == render(config)


def test_the_committed_files_are_what_the_default_build_renders() -> None:
    folder = resources.model_repository()
    stale = [
        path
        for path, text in committed_configs().items()
        if not (folder / path).is_file() or (folder / path).read_text(encoding="utf-8") != text
    ]
    assert not stale, f"rewrite them with: python -m orchestrator.repository.render {folder.name}"


def test_every_model_folder_has_a_model_of_the_catalogue() -> None:
    folders = {path.name for path in resources.model_repository().iterdir() if path.is_dir()}
    assert folders == {path.split("/")[0] for path in committed_configs()}


def test_the_rewriting_command_writes_them(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "orchestrator.repository.render", str(tmp_path)], check=True)
    for path, text in committed_configs().items():
        assert (tmp_path / path).read_text(encoding="utf-8") == text


def test_triton_reads_batching_and_devices_from_it() -> None:
    plan = make_plan(
        {"parakeet": "org/model", "diarizer": "embedded", "moonshine": "embedded"}, device="cuda"
    )
    messages = {}
    for model in plan.models:
        message = schema.ModelConfig()
        text_format.Parse(render(model.config), message)
        messages[model.name] = message
    gpu, cpu = schema.ModelInstanceGroup.KIND_GPU, schema.ModelInstanceGroup.KIND_CPU
    parakeet = messages["parakeet"]
    assert parakeet.backend == "python"
    assert parakeet.max_batch_size > 1
    assert parakeet.HasField("dynamic_batching")
    assert parakeet.dynamic_batching.max_queue_delay_microseconds == 0, "one recording alone must not wait"
    assert [item.name for item in parakeet.input] == ["AUDIO", "PCM16", "OPTIONS"]
    assert [item.allow_ragged_batch for item in parakeet.input] == [True, True, False]
    assert all(item.optional for item in parakeet.input), "a request carries AUDIO or PCM16"
    assert [item.optional for item in messages["diarizer"].input] == [False, True]
    assert parakeet.instance_group[0].kind == gpu
    assert messages["moonshine"].instance_group[0].kind == cpu, "its library runs on the CPU only"
    assert messages["diarizer"].max_batch_size == 1
    assert not messages["diarizer"].HasField("dynamic_batching")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("nonsense {", "not a Triton model configuration"),
        ('name: "m" max_batch_size: "four"', "not a Triton model configuration"),
        ('name: "m" backend: "python" output { name: "x" data_type: TYPE_FP64 dims: 1 }', "TYPE_FP64"),
        ('name: "m" backend: "python" version_policy { latest { num_versions: 2 } }', "does not know"),
        ('name: "m" backend: "onnxruntime"', "does not know"),
    ],
)
def test_text_that_says_something_else_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ReleaseInvalidError, match=reason):
        parse(text, Path("m/config.pbtxt"))
