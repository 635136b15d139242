"""What a ``.nemo`` file holds, read without importing NeMo or torch.

A ``.nemo`` file is a tar (old ones gzipped) of ``model_config.yaml``, ``model_weights.ckpt`` and the
tokenizer's files. NeMo instantiates whatever classes the configuration names, so only the classes that the
recogniser knows are let through.
"""

from __future__ import annotations

import io
import re
import tarfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, Final

import yaml  # type: ignore[import-untyped]

from orchestrator.contract import SAMPLE_RATE_HZ
from orchestrator.errors import ModelLoadError

CONFIG_NAME: Final = "model_config.yaml"
WEIGHTS_NAME: Final = "model_weights.ckpt"

_CONFIG_MAX_BYTES: Final = 64 * 1024**2
_ASR_MODELS: Final = "nemo.collections.asr.models"
_MODULES: Final = ("nemo.collections.asr.modules", "nemo.collections.common.")
_FIX: Final = (
    "give a FastConformer speech recognition checkpoint with subword tokens, "
    "such as nvidia/parakeet-tdt-0.6b-v3."
)
_FIX_BROKEN: Final = "fetch the file again; it is incomplete or not a .nemo file."
_ENCODER: Final = re.compile(r"nemo\.collections\.asr\.modules\.(conformer_encoder\.)?ConformerEncoder")
_HEADS: Final = {
    "EncDecRNNTBPEModel": "{transducer}",
    "EncDecCTCModelBPE": "ctc",
    "EncDecHybridRNNTCTCBPEModel": "hybrid-{transducer}-ctc",
}
_BROKEN: Final = (tarfile.TarError, zlib.error, EOFError, OSError)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a ``.nemo`` file's configuration says.

    Attributes:
        target: the model's class.
        decoder: ``tdt``, ``rnnt``, ``ctc``, ``hybrid-tdt-ctc`` or ``hybrid-rnnt-ctc``.
        sample_rate_hz: of the audio it takes.
        languages: BCP-47 primary tags, empty where the file does not say.
        subsampling: feature frames per encoder frame.
        frame_ms: milliseconds per encoder frame.
        nemo_version: that wrote the file, empty where it does not say.
        compressed: whether the tar is gzipped.
    """

    target: str
    decoder: str
    sample_rate_hz: int
    languages: tuple[str, ...]
    subsampling: int
    frame_ms: float
    nemo_version: str
    compressed: bool


def read(path: Path) -> Checkpoint:
    """Read and check a checkpoint's configuration.

    Raises:
        ModelLoadError: no such file, corrupt or truncated, or not a checkpoint that the recogniser runs.
    """
    try:
        with tarfile.open(path, "r:*") as archive:
            compressed = not isinstance(archive.fileobj, io.BufferedReader)
            members = {_plain_name(member.name): member for member in archive.getmembers() if member.isfile()}
            config = _read_config(path, archive, members)
    except FileNotFoundError as error:
        raise ModelLoadError(
            f"There is no checkpoint {path}.", fix="check the path, or build the release again.", path=path
        ) from error
    except _BROKEN as error:
        raise ModelLoadError(
            f"{path} cannot be read: {_reason(error)}.", fix=_FIX_BROKEN, path=path
        ) from error
    checkpoint = _interpret(path, config, compressed=compressed)
    wanted = [WEIGHTS_NAME, *_artifacts(config.get("tokenizer"))]
    if missing := [name for name in wanted if name not in members]:
        raise ModelLoadError(f"{path} lacks {', '.join(missing)}.", fix=_FIX_BROKEN, path=path)
    return checkpoint


def unpack(path: Path, folder: Path, *, weights: bool) -> None:
    """Write the archive's files into ``folder``, the weights only where asked for.

    Raises:
        ModelLoadError: corrupt, or holds paths outside itself.
    """
    try:
        with tarfile.open(path, "r:*") as archive:
            members = [
                member
                for member in archive.getmembers()
                if weights or _plain_name(member.name) != WEIGHTS_NAME
            ]
            archive.extractall(folder, members=members, filter="data")
    except _BROKEN as error:
        raise ModelLoadError(
            f"{path} cannot be unpacked: {_reason(error)}.", fix=_FIX_BROKEN, path=path
        ) from error


def open_weights(path: Path) -> tuple[tarfile.TarFile, IO[bytes]]:
    """The weights inside an uncompressed archive, as a seekable file; close the archive after use."""
    archive = tarfile.open(path, "r:")  # noqa: SIM115 (handed to the caller)
    for member in archive:
        if _plain_name(member.name) == WEIGHTS_NAME and (file := archive.extractfile(member)) is not None:
            return archive, file
    archive.close()
    raise ModelLoadError(f"{path} lacks {WEIGHTS_NAME}.", fix=_FIX_BROKEN, path=path)


def _reason(error: BaseException) -> str:
    """The first line: of a file that is no tar at all, the others say so for each way of compression."""
    return str(error).partition("\n")[0].rstrip(".:")


def _plain_name(name: str) -> str:
    return str(PurePosixPath(name))


def _read_config(
    path: Path, archive: tarfile.TarFile, members: Mapping[str, tarfile.TarInfo]
) -> dict[str, Any]:
    member = members.get(CONFIG_NAME)
    file = archive.extractfile(member) if member and member.size <= _CONFIG_MAX_BYTES else None
    if file is None:
        raise ModelLoadError(
            f"{path} holds no {CONFIG_NAME}: it is an archive, but not a .nemo file.",
            fix=_FIX,
            path=path,
        )
    try:
        config = yaml.safe_load(file.read())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ModelLoadError(
            f"{CONFIG_NAME} in {path} is not valid YAML.", fix=_FIX_BROKEN, path=path
        ) from error
    if isinstance(config, dict) and isinstance(config.get("model"), dict):
        config = config["model"]
    if not isinstance(config, dict):
        raise ModelLoadError(f"{CONFIG_NAME} in {path} is not a mapping.", fix=_FIX_BROKEN, path=path)
    return config


def _interpret(path: Path, config: dict[str, Any], *, compressed: bool) -> Checkpoint:
    target = str(config.get("target") or config.get("_target_") or "")
    module, _, name = target.rpartition(".")
    head = _HEADS.get(name)
    if head is None or not module.startswith(_ASR_MODELS):
        raise ModelLoadError(
            f"{path} holds {target or 'a model of an unknown class'}, which this engine does not run.",
            fix=_FIX,
            path=path,
        )
    encoder = _mapping(config, "encoder")
    if not _ENCODER.fullmatch(str(encoder.get("_target_"))):
        raise ModelLoadError(
            f"The encoder of {path} is {encoder.get('_target_')}, not a (Fast)Conformer.", fix=_FIX, path=path
        )
    parts = {part: _mapping(config, part) for part in ("preprocessor", "decoder", "joint", "spec_augment")}
    for part, section in {**parts, "CTC head": _mapping(_mapping(config, "aux_ctc"), "decoder")}.items():
        part_target = str(section.get("_target_", _MODULES[0]))
        if not part_target.startswith(_MODULES):
            raise ModelLoadError(
                f"{path} asks for the class {part_target} as its {part}, which is not NeMo's.",
                fix="use checkpoints from a source you trust.",
                path=path,
            )
    preprocessor = _mapping(config, "preprocessor")
    try:
        sample_rate_hz = int(config.get("sample_rate") or preprocessor["sample_rate"])
        subsampling = int(encoder["subsampling_factor"])
        stride_s = float(preprocessor["window_stride"])
    except (KeyError, TypeError, ValueError) as error:
        raise ModelLoadError(
            f"{CONFIG_NAME} in {path} lacks the sample rate, stride or subsampling factor ({error}).",
            fix=_FIX_BROKEN,
            path=path,
        ) from error
    if sample_rate_hz != SAMPLE_RATE_HZ:
        raise ModelLoadError(
            f"{path} takes {sample_rate_hz} Hz audio; this system works at {SAMPLE_RATE_HZ} Hz.",
            fix=_FIX,
            path=path,
        )
    return Checkpoint(
        target=target,
        decoder=head.format(transducer="tdt" if _is_tdt(config) else "rnnt"),
        sample_rate_hz=sample_rate_hz,
        languages=_languages(config),
        subsampling=subsampling,
        frame_ms=round(1000.0 * stride_s * subsampling, 6),
        nemo_version=str(config.get("nemo_version") or ""),
        compressed=compressed,
    )


def _mapping(config: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = config.get(key)
    return value if isinstance(value, dict) else {}


def _is_tdt(config: Mapping[str, Any]) -> bool:
    loss = _mapping(config, "loss").get("loss_name")
    return str(loss) in {"tdt", "tdt_pytorch"} or _mapping(config, "decoding").get("model_type") == "tdt"


def _languages(config: Mapping[str, Any]) -> tuple[str, ...]:
    """From a ``languages`` list, or from the parts of an aggregate tokenizer, which are named by language."""
    listed = config.get("languages")
    if not isinstance(listed, list | tuple):
        listed = list(_mapping(_mapping(config, "tokenizer"), "langs"))
    tags = (str(tag).replace("_", "-").split("-")[0].lower() for tag in listed)
    return tuple(dict.fromkeys(tag for tag in tags if 2 <= len(tag) <= 3 and tag.isalpha()))


def _artifacts(config: Any) -> list[str]:
    """Names of the archive's files that a part of the configuration points at (``nemo:<name>``)."""
    if isinstance(config, dict):
        return [name for value in config.values() for name in _artifacts(value)]
    if isinstance(config, str) and config.startswith("nemo:"):
        return [_plain_name(config.removeprefix("nemo:"))]
    return []
