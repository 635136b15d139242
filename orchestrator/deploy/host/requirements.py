"""What a deployment needs of a host, what was found there, and one finding of a check."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Final

from orchestrator.deploy.host import readings
from orchestrator.errors import ConfigurationError

OK: Final = "ok"
WARN: Final = "warn"
FAIL: Final = "fail"


@dataclass(frozen=True, slots=True)
class Request:
    """What a deployment needs of a host; all of it optional.

    Attributes:
        home: the deployment's folder.
        runtime: ``auto``, ``container`` or ``systemd``.
        target: the processor that the release is for.
        device: ``cpu`` or ``cuda``.
        needs: what will be written: bytes by the path that is there once it has been written.
        memory_floor_bytes: what must stay available for everything else.
        ports: every port that will be listened on, by a name for messages.
        controller_time: the controller's clock, in seconds since 1970.
        max_skew_s: how far the two clocks may differ.
        programs: what must be on PATH.
        installable: whether programs that are missing will be installed.
        python: the interpreter that environments are built with.
        environment_source: a ready environment on the host.
        image: the container image that will run.
        program: where the host program is installed.
        image_buildable: True when the image is built or loaded here, so that it need not be there yet.
    """

    home: str = "/var/lib/spark-speech"
    runtime: str = "auto"
    target: str = ""
    device: str = "cpu"
    needs: Sequence[Mapping[str, Any]] = ()
    memory_floor_bytes: int = 0
    ports: Mapping[str, int] = field(default_factory=dict)
    controller_time: float | None = None
    max_skew_s: float = 30.0
    programs: Sequence[str] = ()
    installable: bool = False
    python: str = "python3"
    environment_source: str = ""
    program: str = ""
    image: str = ""
    image_buildable: bool = True

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Request:
        """The request in a JSON object.

        Raises:
            ConfigurationError: it has a key that is not known.
        """
        unknown = set(given) - {known.name for known in fields(cls)}
        if unknown:
            raise ConfigurationError(f"the preflight request has unknown keys: {', '.join(sorted(unknown))}")
        return cls(**given)


@dataclass(frozen=True, slots=True)
class Check:
    """One finding: ``ok``, ``warn`` or ``fail``, and what to do where it is not well."""

    name: str
    level: str
    message: str
    fix: str | None = None

    def to_dict(self) -> dict[str, str | None]:
        """The finding as JSON-ready data."""
        return {"name": self.name, "level": self.level, "message": self.message, "fix": self.fix}


@dataclass(frozen=True, slots=True)
class Findings:
    """What was found out while checking, for the roles that come after."""

    gpus: tuple[readings.Gpu, ...] = ()
    cuda: tuple[int, ...] | None = None
    docker: readings.Docker | None = None
    python: str = ""
    libpython: str = ""
