"""Which CUDA release brought what: PTX versions, GPUs, machine-code formats, and the driver of each release.

Sources: PTX ISA, "Release History"; CUDA Toolkit release notes, "CUDA Toolkit and Corresponding Driver
Versions"; CUDA Compatibility. Machine-code versions as ``cuobjdump`` prints them ("code version"): compilers
of CUDA 12.8 write 1.7, those of CUDA 13.0 write 1.8.
"""

from __future__ import annotations

from typing import Final

from orchestrator.coldstart.gpu_target import Version

_DRIVERS: Final[tuple[tuple[int, Version], ...]] = (
    (590, (13, 1)),
    (580, (13, 0)),
    (575, (12, 9)),
    (570, (12, 8)),
    (565, (12, 7)),
    (560, (12, 6)),
    (555, (12, 5)),
    (550, (12, 4)),
    (545, (12, 3)),
    (535, (12, 2)),
    (530, (12, 1)),
    (525, (12, 0)),
    (520, (11, 8)),
    (515, (11, 7)),
    (510, (11, 6)),
    (495, (11, 5)),
    (470, (11, 4)),
    (465, (11, 3)),
    (460, (11, 2)),
    (455, (11, 1)),
    (450, (11, 0)),
)
"""The first driver branch of each CUDA release, newest first."""

_PTX: Final[dict[Version, Version]] = {
    (7, 0): (11, 0),
    (7, 1): (11, 1),
    (7, 2): (11, 2),
    (7, 3): (11, 3),
    (7, 4): (11, 4),
    (7, 5): (11, 5),
    (7, 6): (11, 6),
    (7, 7): (11, 7),
    (7, 8): (11, 8),
    (8, 0): (12, 0),
    (8, 1): (12, 1),
    (8, 2): (12, 2),
    (8, 3): (12, 3),
    (8, 4): (12, 4),
    (8, 5): (12, 5),
    (8, 6): (12, 7),
    (8, 7): (12, 8),
    (8, 8): (12, 9),
    (9, 0): (13, 0),
    (9, 1): (13, 1),
}
"""The CUDA release of each PTX version."""

_GPUS: Final[dict[Version, Version]] = {
    (8, 0): (11, 0),
    (8, 6): (11, 1),
    (8, 7): (11, 4),
    (8, 8): (13, 0),
    (8, 9): (11, 8),
    (9, 0): (11, 8),
    (10, 0): (12, 8),
    (10, 1): (12, 8),
    (10, 3): (12, 9),
    (11, 0): (13, 0),
    (12, 0): (12, 8),
    (12, 1): (12, 9),
}
"""The first CUDA release that knows each compute capability."""

_MACHINE_CODE: Final[dict[Version, Version]] = {(1, 8): (13, 0)}
"""The first CUDA release that reads a version of machine code; earlier versions are read by all."""
_NEWEST_MACHINE_CODE: Final[Version] = (1, 8)
_NEWEST_PTX: Final[Version] = max(_PTX)


def cuda_of_driver(driver: Version) -> Version:
    """The newest CUDA release that a driver knows; (10, 0) stands for all before 11."""
    return next((cuda for branch, cuda in _DRIVERS if driver[0] >= branch), (10, 0))


def driver_of_cuda(cuda: Version) -> int | None:
    """The first driver branch that knows a CUDA release; None where the release is newer than this table."""
    known = [branch for branch, newest in _DRIVERS if newest >= cuda]
    return min(known) if known else None


def cuda_of_ptx(version: Version) -> Version | None:
    """The CUDA release whose compiler reads a PTX version.

    None for a version newer than this table; (10, 0) for those before CUDA 11.
    """
    if version > _NEWEST_PTX:
        return None
    return _PTX.get(version, (10, 0))


def cuda_of_machine_code(version: Version) -> Version | None:
    """The first CUDA release that loads a version of machine code; None where it is newer than this table."""
    if version > _NEWEST_MACHINE_CODE:
        return None
    return _MACHINE_CODE.get(version, (10, 0))


def cuda_of_gpu(capability: Version) -> Version | None:
    """The first CUDA release that knows a GPU; None where this table does not say."""
    return _GPUS.get(capability, (10, 0) if capability < (8, 0) else None)
