from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.bench.throughput.command import Asked, command_of, numbers_of, run
from orchestrator.bench.throughput.server import Setup, engine_source, files_of, repository
from orchestrator.errors import ConfigurationError
from orchestrator.progress import SilentProgress
from orchestrator.repository.config import parse
from orchestrator.settings import Settings


def test_the_command_repeats_what_was_asked_for_without_paths() -> None:
    assert command_of(Asked()) == "spark-speech bench throughput"
    asked = Asked(weights=Path("/somewhere/weights"), batches=(1, 8), instances=(1, 2), long_s=0.0, nemo=True)
    text = command_of(asked)
    assert text.endswith("--folder FOLDER --batches 1,8 --long 0 --instances 1,2 --nemo")
    assert "somewhere" not in text


@pytest.mark.parametrize("text", ["1,x", "0", "1,-2"])
def test_lists_of_numbers_are_checked(text: str) -> None:
    with pytest.raises(ConfigurationError, match="no list of numbers"):
        numbers_of("--batches", text)


@pytest.mark.parametrize(
    "asked",
    [
        Asked(device="tpu"),
        Asked(options="[1]"),
        Asked(options="{"),
        Asked(synthetic="tiny", weights=Path("x")),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_loaded(asked: Asked, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        run(Settings(paths={"home": tmp_path}), asked, progress=SilentProgress())  # type: ignore[arg-type]
    assert caught.value.fix


def test_a_folder_is_served_as_it_lies(tmp_path: Path) -> None:
    for name in ("model.safetensors", "model.json"):
        (tmp_path / name).write_text(name)
    setup = Setup(tmp_path, "cuda", 64, instances=2, options={"cuda_graphs": False})
    with repository(setup) as where:
        config = parse((where / "parakeet" / "config.pbtxt").read_text())
        version = where / "parakeet" / "1"
        assert (version / "model.json").read_text() == "model.json"
        assert (version / "model.safetensors").resolve() == tmp_path / "model.safetensors"
        assert (version / "model.py").is_file()
        assert (config.max_batch_size, [group.count for group in config.instances]) == (64, [2])
        assert '"cuda_graphs": false' in config.parameters["engine_options"]
        source = engine_source(where, setup)
        assert (source.folder, source.device, dict(source.options)) == (
            version,
            "cuda",
            {"cuda_graphs": False},
        )
    assert not where.exists()
    assert (tmp_path / "model.json").exists()


def test_a_checkpoint_gets_the_engines_name_for_it(tmp_path: Path) -> None:
    path = tmp_path / "mine.nemo"
    path.write_text("w")
    assert files_of(path) == {"model.nemo": path}
    assert files_of(None)["model.nemo"].suffix == ".nemo"
    with pytest.raises(ConfigurationError, match="no weights"):
        files_of(tmp_path / "nothing")
