"""Settings: ``spark-speech.toml`` < environment ``SPARK_SPEECH__SECTION__KEY`` < command line; frozen.

Read once at the edge (the command line, or the caller of `load`) and passed down; nothing below reads the
environment. Constructing `Settings` reads nothing. `docs/spark-speech.example.toml` documents every key and
is the fixture of the tests.

The entries of a table such as ``build.models`` add up by name over the layers, defaults included. An empty
string unsets a key that may be unset, and an empty source leaves its model out of ``build.models``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from orchestrator.errors import ConfigurationError
from orchestrator.settings_engines import (
    SECTION,
    RivaSettings,
    RoutingSettings,
    SarvamSettings,
    WhisperSettings,
)
from orchestrator.settings_sources import (
    DEFAULT,
    CommandLineSource,
    EnvironmentSource,
    LayerSource,
    Origin,
    TomlFileSource,
    leaves,
)

CONFIG_FILE_NAME: Final = "spark-speech.toml"
"""Read from the current folder when no other file is named."""


def _absolute(path: Path) -> Path:
    try:
        return path.expanduser().absolute()
    except RuntimeError as error:  # no such user, or no home folder
        raise ValueError(f"{path} has no home folder to start from") from error


AbsolutePath = Annotated[Path, AfterValidator(_absolute)]
"""A path with ``~`` expanded; a relative one starts at the current folder."""
Port = Annotated[int, Field(ge=1, le=65535)]
Frames = Annotated[int, Field(ge=0, le=60_000, multiple_of=80)]
"""Milliseconds of whole encoder frames."""


class _Section(BaseModel):
    model_config = SECTION


class PathSettings(_Section):
    """Where things are kept."""

    home: AbsolutePath = Path("~/.local/share/spark-speech")
    """Releases, caches, the tritonserver, logs."""


class ServerSettings(_Section):
    """The local tritonserver."""

    host: str = "127.0.0.1"
    http_port: Port = 8000
    grpc_port: Port = 8001
    metrics_port: Port = 8002
    ready_timeout_s: float = Field(default=600.0, gt=0)
    stop_timeout_s: float = Field(default=30.0, gt=0)

    @model_validator(mode="after")
    def _different_ports(self) -> ServerSettings:
        if len({self.http_port, self.grpc_port, self.metrics_port}) < 3:
            raise ValueError("http_port, grpc_port and metrics_port must differ")
        return self


class BuildSettings(_Section):
    """What `build` puts into a release."""

    models: dict[str, str] = {"moonshine": "embedded", "diarizer": "embedded"}
    """Model name to source: ``embedded``, a local path, or a hub id with an optional ``@revision``."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the weights that `build` prepares for serving; ``auto``: bfloat16 on a GPU, float32 on a CPU."""
    hub_endpoint: str | None = None
    """Base address of the model hub; None for the hub library's own default."""
    hub_token: SecretStr | None = None
    offline: bool = False

    @field_validator("models")
    @classmethod
    def _without_empty(cls, models: dict[str, str]) -> dict[str, str]:
        return {name: source for name, source in models.items() if source}

    @field_validator("hub_endpoint")
    @classmethod
    def _plain_address(cls, endpoint: str | None) -> str | None:
        if endpoint is not None:
            parts = urlsplit(endpoint)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError("must be an http:// or https:// address")
            if "@" in parts.netloc:  # it would be shown and logged
                raise ValueError("must not carry a user name or password; put a token into build.hub_token")
        return endpoint


class StreamingSettings(_Section):
    """How `build` sets up models for live streams."""

    preset: Literal["low_latency", "balanced", "throughput"] = "balanced"
    """Lengths of chunk, left and right context together; the next three change one each."""
    chunk_ms: Frames | None = None
    """Audio of one step: the client sends this much at once."""
    left_ms: Frames | None = None
    """Audio before the chunk that the encoder hears again."""
    right_ms: Frames | None = None
    """Audio after the chunk that the encoder waits for; 0 is allowed."""
    max_streams: int | None = Field(default=None, ge=1, le=65_536)
    """Streams at once, over all instances; None: 8 on a CPU, 256 on a GPU."""
    idle_timeout_s: float = Field(default=60.0, gt=0, le=86_400)
    """A stream that sends nothing for this long, not even an empty chunk, is forgotten."""
    queue_delay_ms: float | None = Field(default=None, ge=0, le=1000)
    """How long the first chunk of a step waits for those of other streams; None: 1/32 of a chunk."""
    instances: int = Field(default=1, ge=1, le=16)
    """Processes that share the streams, each with the weights of its own."""

    @model_validator(mode="after")
    def _some_audio(self) -> StreamingSettings:
        if self.chunk_ms == 0:
            raise ValueError("chunk_ms must be at least 80")
        if self.max_streams is not None and self.max_streams < self.instances:
            raise ValueError("max_streams must be at least instances")
        return self


class AudioSettings(_Section):
    """Limits on recordings."""

    max_duration_s: float = Field(default=4 * 3600.0, gt=0)
    max_bytes: int = Field(default=2 * 1024**3, gt=0)


class ClientSettings(_Section):
    """The client library's defaults."""

    url: str = "127.0.0.1:8001"
    timeout_s: float = Field(default=300.0, gt=0)
    """For one request to the server, retries not counted; the duration of its audio is added."""
    retries: int = Field(default=4, ge=0)
    max_concurrency: int = Field(default=256, ge=1)
    """Requests to one model in flight at once; never more than its batches can hold."""
    encoding: Literal["pcm16", "float32"] = "pcm16"
    """How audio travels to recognisers. ``pcm16`` rounds to 1/32,768 and halves the bytes; 16-bit recordings
    lose nothing. A server that takes float32 alone gets that."""
    window_s: float = Field(default=30.0, gt=2)
    overlap_s: float = Field(default=4.0, ge=0)
    stream_timeout_s: float = Field(default=30.0, gt=0)
    """For one chunk of a live stream; the duration of its audio is added."""
    stream_backlog_s: float = Field(default=60.0, gt=0)
    """Audio of a live stream that may wait to be sent; then its source waits, or a microphone gives up."""
    stream_reconnect_s: float = Field(default=120.0, ge=0)
    """How long a live stream looks for a server that went away."""
    stream_reconnects: int = Field(default=60, ge=0)
    """How often it tries within that time."""
    speaker_wait_s: float = Field(default=1.5, ge=0)
    """How long a final of a live stream waits for its speakers; what comes later is a correction."""
    speaker_horizon_s: float = Field(default=30.0, ge=0)
    """How far back, in audio, the speakers of a live stream may still be corrected."""
    relabel_max_s: float = Field(default=3600.0, gt=0)
    """The longest live stream that can be heard again at its end; its audio is kept, 115 MB an hour."""

    @model_validator(mode="after")
    def _window_over_overlap(self) -> ClientSettings:
        if self.overlap_s >= self.window_s:
            raise ValueError("overlap_s must be shorter than window_s")
        return self


def _sha256_hex(value: str) -> str:
    lowered = value.lower()
    if len(lowered) != 64 or set(lowered) - set("0123456789abcdef"):
        raise ValueError("must be the sha256 of a key in hex (64 digits), not the key itself")
    return lowered


Sha256 = Annotated[str, AfterValidator(_sha256_hex)]
"""Lower-case hex."""


class KeySettings(_Section):
    """One API key, and how much of the gateway it may take."""

    sha256: Sha256
    max_requests: int | None = Field(default=None, ge=1)
    """Transcriptions in work at once; None: as many as the gateway takes."""
    max_streams: int | None = Field(default=None, ge=1)
    """Live streams at once; None: as many as the gateway takes."""


class GatewaySettings(_Section):
    """`spark-speech gateway`: the HTTP and Riva services in front of Triton."""

    host: str = "127.0.0.1"
    http_port: Port = 9000
    grpc_port: Port | None = 50051
    """Of Riva's gRPC service; None: not served."""
    upstreams: tuple[str, ...] = ()
    """Tritons with the same release that share the work, ``host:port`` of their gRPC; empty: client.url."""
    max_upload_bytes: int = Field(default=512 * 1024**2, gt=0)
    max_duration_s: float = Field(default=4 * 3600.0, gt=0)
    """Of one recording; ``audio.max_duration_s`` holds as well."""
    head_timeout_s: float = Field(default=10.0, gt=0)
    """For a request's head to arrive."""
    upload_timeout_s: float = Field(default=300.0, gt=0)
    """For a request's body to arrive, first to last byte."""
    max_requests: int = Field(default=16, ge=1)
    """Transcriptions in work at once, uploads included; more are refused."""
    max_streams: int = Field(default=64, ge=1)
    """Live streams at once; more are refused."""
    stream_idle_timeout_s: float = Field(default=60.0, gt=0)
    """How long a live stream may send nothing, and any client take no answer."""
    max_message_bytes: int = Field(default=64 * 1024**2, ge=4 * 1024**2, le=1024**3)
    """Of one gRPC message: a whole recording for Recognize, some audio for StreamingRecognize."""
    drain_timeout_s: float = Field(default=60.0, ge=0)
    """What running requests and streams get to finish when the gateway is told to stop."""
    api_key_hashes: tuple[Sha256, ...] = ()
    """Lower-case hex sha256 of each key that may use the service without limits of its own."""
    keys: dict[str, KeySettings] = {}
    """Keys with limits of their own, by a name for messages; with none here and none above, no key is asked
    for."""
    otlp_endpoint: str | None = None
    """Where traces go: an OpenTelemetry collector's HTTP, ``http://host:4318``; None: nowhere."""
    session_key: SecretStr | None = Field(default=None, min_length=32)
    """What short-lived secrets for browsers are signed with. Gateways that share it know each other's: both
    slots of a host, the hosts behind a balancer. None: each makes its own."""
    cors_origins: tuple[str, ...] = ()
    """Web origins whose pages may call the service (``https://host[:port]``)."""
    tls_certfile: AbsolutePath | None = None
    tls_keyfile: AbsolutePath | None = None
    tls_client_ca: AbsolutePath | None = None
    """Certificates that clients must be signed by; None: clients need none."""

    @field_validator("otlp_endpoint")
    @classmethod
    def _collector(cls, endpoint: str | None) -> str | None:
        if endpoint is not None:
            parts = urlsplit(endpoint)
            if parts.scheme not in ("http", "https") or not parts.netloc or parts.query:
                raise ValueError("must be a URL such as http://127.0.0.1:4318")
        return endpoint

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            parts = urlsplit(origin)
            if origin != f"{parts.scheme}://{parts.netloc}" or parts.scheme not in ("http", "https"):
                raise ValueError("each must be an origin such as https://example.org, without a path")
        return origins

    @model_validator(mode="after")
    def _different_ports(self) -> GatewaySettings:
        if self.grpc_port == self.http_port:
            raise ValueError("http_port and grpc_port must differ")
        return self

    @model_validator(mode="after")
    def _each_once(self) -> GatewaySettings:
        if len(set(self.upstreams)) < len(self.upstreams):
            raise ValueError("upstreams must differ")
        hashes = [*self.api_key_hashes, *(key.sha256 for key in self.keys.values())]
        if len(set(hashes)) < len(hashes):
            raise ValueError("api_key_hashes and keys name one key twice")
        return self

    @model_validator(mode="after")
    def _tls(self) -> GatewaySettings:
        if (self.tls_certfile is None) != (self.tls_keyfile is None):
            raise ValueError("tls_certfile and tls_keyfile belong together")
        if self.tls_client_ca is not None and self.tls_certfile is None:
            raise ValueError("tls_client_ca needs tls_certfile and tls_keyfile")
        return self


class DeploySettings(_Section):
    """`spark-speech deploy` and the other verbs for hosts.

    A value that is None is left to the inventory's variables and, where they say nothing either, to the
    playbooks' defaults.
    """

    inventory: AbsolutePath | None = None
    """An Ansible inventory, file or folder; None: there are no hosts but this machine."""
    vault_password_file: AbsolutePath | None = None
    """What Ansible opens its vault with; None: what ``ANSIBLE_VAULT_PASSWORD_FILE`` names, if anything."""
    canary: str | None = None
    """The host that gets a release first, alone; None: the inventory's first."""
    batch: int | None = Field(default=None, ge=1)
    """Hosts at once after the canary."""
    confirm_s: int | None = Field(default=None, ge=60, le=86_400)
    """A host that hears nothing from the run for this long goes back to what it served before."""
    drain_s: int | None = Field(default=None, ge=0, le=86_400)
    """What running requests and streams get to finish on what is replaced."""
    forks: int = Field(default=20, ge=1, le=500)
    """Hosts that are worked on at once outside of a roll-out's batches."""
    connect_timeout_s: int = Field(default=10, ge=1, le=600)
    """For a connection to a host."""
    status_timeout_s: float = Field(default=15.0, gt=0)
    """For one host's whole answer to `status` and `doctor --host`."""


class Settings(BaseSettings):
    """All settings. `load` gathers them; constructing one reads neither files nor the environment."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    paths: PathSettings = PathSettings()
    server: ServerSettings = ServerSettings()
    build: BuildSettings = BuildSettings()
    streaming: StreamingSettings = StreamingSettings()
    whisper: WhisperSettings = WhisperSettings()
    audio: AudioSettings = AudioSettings()
    client: ClientSettings = ClientSettings()
    routing: RoutingSettings = RoutingSettings()
    riva: RivaSettings = RivaSettings()
    sarvam: SarvamSettings = SarvamSettings()
    gateway: GatewaySettings = GatewaySettings()
    deploy: DeploySettings = DeploySettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what the caller passes."""
        return (init_settings,)


@dataclass(frozen=True, slots=True)
class SettingRow:
    """One effective setting: its dotted key, its value with secrets masked, and where it came from."""

    key: str
    value: object
    origin: Origin


@dataclass(frozen=True, slots=True)
class ResolvedSettings:
    """Effective settings and where each came from.

    Attributes:
        settings: the settings.
        config_file: the file that was read, or None.
        origins: dotted key to `Origin`, for every key that is not at its default.
    """

    settings: Settings
    config_file: Path | None
    origins: Mapping[str, Origin]

    def rows(self) -> Iterator[SettingRow]:
        """Every effective setting in the order of the example file, JSON-ready, secrets masked."""
        for key, value in leaves(self.settings.model_dump(mode="json")):
            yield SettingRow(key, value, self.origins.get(key, DEFAULT))


def load(
    config_file: Path | None = None,
    overrides: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
) -> Settings:
    """The effective settings; see `resolve`."""
    return resolve(config_file, overrides, environ).settings


def resolve(
    config_file: Path | None = None,
    overrides: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
) -> ResolvedSettings:
    """The effective settings and where each came from.

    Args:
        config_file: a TOML file; None for ``./spark-speech.toml`` where there is one.
        overrides: ``section.key=value``, as on the command line; the last of a key wins.
        environ: the environment; None for the process's own.

    Raises:
        ConfigurationError: an unreadable file, an unknown key (naming the nearest known one) or a wrong
            value, each with where it came from.
    """
    if config_file is None and Path(CONFIG_FILE_NAME).exists():
        config_file = Path(CONFIG_FILE_NAME)
    if config_file is not None:
        config_file = config_file.expanduser().absolute()
    layers: list[LayerSource] = [] if config_file is None else [TomlFileSource(Settings, config_file)]
    layers.append(EnvironmentSource(Settings, os.environ if environ is None else environ))
    layers.append(CommandLineSource(Settings, overrides))
    origins = {key: origin for layer in layers for key, origin in layer.origins.items()}

    class Layered(Settings):
        model_config = SettingsConfigDict(nested_model_default_partial_update=True)

        @classmethod
        def settings_customise_sources(
            cls, *_args: object, **_sources: object
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return tuple(reversed(layers))  # pydantic-settings wants the strongest first

    try:
        settings = Settings(**dict(Layered()))
    except ValidationError as error:
        raise _explained(error, origins) from error
    return ResolvedSettings(settings, config_file, origins)


def _explained(error: ValidationError, origins: Mapping[str, Origin]) -> ConfigurationError:
    problems = []
    for problem in error.errors(include_url=False, include_context=False, include_input=False):
        key = ".".join(str(part) for part in problem["loc"])
        concerned = [
            str(origin)
            for name, origin in origins.items()
            if name == key or name.startswith(f"{key}.") or key.startswith(f"{name}.")
        ]
        where = ", ".join(dict.fromkeys(concerned)) or str(DEFAULT)
        reason = problem["msg"].removeprefix("Value error, ")
        problems.append(f"{key} ({where}): {reason}")
    return ConfigurationError(
        "wrong setting: " + "; ".join(problems),
        fix="correct the value there, or take it out to get the default; "
        "`spark-speech config example` explains every key.",
    )
