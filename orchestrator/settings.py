"""Settings: ``spark-speech.toml`` < environment ``SPARK_SPEECH__SECTION__KEY`` < command line; frozen.

Read once at the edge (the command line, or the caller of `load`) and passed down; nothing below reads the
environment. `spark-speech.example.toml` documents every key and is the fixture of the tests.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PathSettings(_Section):
    """Where things are kept."""

    home: Path = Path("~/.local/share/spark-speech")
    """Releases, caches, the tritonserver, logs."""


class ServerSettings(_Section):
    """The local tritonserver."""

    host: str = "127.0.0.1"
    http_port: int = Field(default=8000, ge=1, le=65535)
    grpc_port: int = Field(default=8001, ge=1, le=65535)
    metrics_port: int = Field(default=8002, ge=1, le=65535)
    ready_timeout_s: float = Field(default=600.0, gt=0)
    stop_timeout_s: float = Field(default=30.0, gt=0)


class BuildSettings(_Section):
    """What `build` puts into a release."""

    models: dict[str, str] = {"moonshine": "embedded", "diarizer": "embedded"}
    """Model name to source: ``embedded``, a local path, or a hub id with an optional ``@revision``."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    hub_endpoint: str | None = None
    """Base address of the model hub; None for the hub library's own default."""
    hub_token: SecretStr | None = None
    offline: bool = False


class AudioSettings(_Section):
    """Limits on recordings."""

    max_duration_s: float = Field(default=4 * 3600.0, gt=0)
    max_bytes: int = Field(default=2 * 1024**3, gt=0)


class ClientSettings(_Section):
    """The client library's defaults."""

    url: str = "127.0.0.1:8001"
    timeout_s: float = Field(default=300.0, gt=0)
    """For one request to the server, retries not counted."""
    retries: int = Field(default=4, ge=0)
    max_concurrency: int = Field(default=8, ge=1)
    """Requests in flight at once."""
    window_s: float = Field(default=30.0, gt=2)
    overlap_s: float = Field(default=4.0, ge=0)


class Settings(_Section):
    """All settings."""

    paths: PathSettings = PathSettings()
    server: ServerSettings = ServerSettings()
    build: BuildSettings = BuildSettings()
    audio: AudioSettings = AudioSettings()
    client: ClientSettings = ClientSettings()
