from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import ReleaseCorruptError
from orchestrator.repository.manifest import FileEntry, Manifest, ModelEntry, content_id, load

_digest = st.text("0123456789abcdef", min_size=64, max_size=64)
_name = st.text("abcdefgh_", min_size=1, max_size=8)
_files = st.dictionaries(_name, st.tuples(_digest, st.integers(0, 10**12)), min_size=1, max_size=6)
_versions = st.dictionaries(_name, st.text("0123456789.", min_size=1, max_size=6), max_size=5)


def make(
    files: dict[str, tuple[str, int]], versions: dict[str, str], names: list[str], **change: Any
) -> Manifest:
    models = tuple(
        ModelEntry(
            name=name,
            task="recognize",
            engine="moonshine",
            source="embedded",
            revision=None,
            packages=versions,
            settings={"max_batch_size": 8, "rank": "1"},
        )
        for name in names
    )
    entries = tuple(FileEntry(path=path, sha256=sha, size=size) for path, (sha, size) in files.items())
    content: dict[str, Any] = {
        "target": "x86_64",
        "device": "cpu",
        "packages": versions,
        "models": models,
        "files": entries,
    }
    return Manifest.create(**{**content, **change})


def _shuffled(items: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    pairs = list(items.items())
    rng.shuffle(pairs)
    return dict(pairs)


@given(_files, _versions, st.randoms())
def test_the_order_of_files_models_and_versions_makes_no_difference(
    files: dict[str, tuple[str, int]], versions: dict[str, str], rng: random.Random
) -> None:
    one = make(files, versions, ["a", "b"])
    two = make(_shuffled(files, rng), _shuffled(versions, rng), ["b", "a"])
    assert one == two
    assert one.to_json() == two.to_json()
    assert content_id(one) == one.id


@given(_files, _versions, st.data())
def test_any_other_byte_gives_another_id(
    files: dict[str, tuple[str, int]], versions: dict[str, str], data: st.DataObject
) -> None:
    """Change one character of the canonical content that is no punctuation: the id must follow."""
    manifest = make(files, versions, ["a"])
    path = data.draw(st.sampled_from(sorted(files)))
    sha, size = files[path]
    position = data.draw(st.integers(0, 63))
    other = sha[:position] + ("0" if sha[position] != "0" else "1") + sha[position + 1 :]
    changed = [
        make({**files, path: (other, size)}, versions, ["a"]),
        make({**files, path: (sha, size + 1)}, versions, ["a"]),
        make({**files, path + "x": (sha, size)}, versions, ["a"]),
        make(files, {**versions, "torch": "2.12.0"}, ["a"]),
        make(files, versions, ["b"]),
        make(files, versions, ["a"], target="aarch64"),
        make(files, versions, ["a"], device="cuda"),
    ]
    ids = {manifest.id, *(item.id for item in changed)}
    assert len(ids) == len(changed) + 1


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("engine", "parakeet"),
        ("source", "org/model"),
        ("revision", "abc"),
        ("settings", {"max_batch_size": 9, "rank": "1"}),
        ("packages", {"moonshine-voice": "0.1.1"}),
    ],
)
def test_what_a_model_is_decides_the_id(field: str, value: object) -> None:
    base = make({"f": ("0" * 64, 1)}, {}, ["a"])
    changed = base.models[0].model_copy(update={field: value})
    assert make({"f": ("0" * 64, 1)}, {}, [], models=(changed,)).id != base.id


def test_the_id_of_a_known_manifest_never_changes() -> None:
    """The canonical form is a promise to every machine: this id was computed once and stays."""
    manifest = make({"m/config.pbtxt": ("ab" * 32, 12)}, {"torch": "2.11.0"}, ["m"])
    assert manifest.id == "161dcb80a2529dd25123689d357387270cf220580b5ebe1253000e53c37f4b5c"


def test_a_manifest_survives_the_file(tmp_path: Path) -> None:
    manifest = make({"m/1/model.py": ("0" * 64, 3)}, {"torch": "2.11.0"}, ["m"])
    (tmp_path / "manifest.json").write_text(manifest.to_json(), encoding="utf-8")
    assert load(tmp_path / "manifest.json") == manifest


def test_the_manifest_holds_no_time_host_or_absolute_path() -> None:
    text = make({"m/1/model.py": ("0" * 64, 3)}, {}, ["m"]).to_json()
    assert set(json.loads(text)) == {
        "schema_version",
        "id",
        "target",
        "device",
        "packages",
        "models",
        "files",
    }


@pytest.mark.parametrize(
    "change", ["missing", "empty", "cut", "altered", "unknown key", "escaping path", "schema"]
)
def test_a_damaged_manifest_is_told(tmp_path: Path, change: str) -> None:
    path = tmp_path / "manifest.json"
    data = json.loads(make({"m/1/model.py": ("0" * 64, 3)}, {}, ["m"]).to_json())
    if change == "altered":
        data["files"][0]["size"] = 4
    elif change == "unknown key":
        data["extra"] = 1
    elif change == "escaping path":
        data["files"][0]["path"] = "../../etc/passwd"
    elif change == "schema":
        data["schema_version"] = 2
    text = json.dumps(data)
    if change != "missing":
        path.write_text({"empty": "", "cut": text[:-10]}.get(change, text), encoding="utf-8")
    with pytest.raises(ReleaseCorruptError, match="manifest") as caught:
        load(path)
    assert caught.value.path == str(path)
    assert caught.value.fix
