"""Every error this package raises on purpose.

Third-party exceptions do not leave the public API: they are caught where they arise and raised again as
one of these, with the original as ``__cause__``.

::

    SpeechError
    ├── ConfigurationError        a setting is wrong or unknown
    ├── MissingDependencyError    an optional extra is not installed
    ├── AudioError                the recording cannot be used
    │   ├── AudioNotFoundError        no such file, or not readable
    │   ├── AudioDecodeError          not audio, truncated, or an unknown codec
    │   ├── AudioEmptyError           no samples
    │   ├── AudioValueError           NaN, infinite, wrong shape or type
    │   └── AudioTooLongError         longer or larger than the configured maximum
    ├── TranscriptFormatError     a transcript file or format name is wrong
    ├── EngineError               a model in this process
    │   ├── ModelLoadError            weights missing, corrupt, or of another kind
    │   │   └── UnsupportedModelError     sound weights, but a runtime cannot compute them
    │   ├── UnsupportedLanguageError  the engine does not know the language
    │   └── InferenceError            the model failed on an input
    ├── RepositoryError           building, storing or checking releases
    │   ├── ArtifactError             one input of a build
    │   │   ├── ArtifactNotFoundError     no such file, package, model or revision
    │   │   ├── HubUnreachableError       the model hub does not answer
    │   │   ├── GatedModelError           the model needs an accepted licence and a token
    │   │   └── DigestMismatchError       the bytes are not the ones that were pinned
    │   ├── ReleaseNotFoundError      no such release
    │   ├── ReleaseCorruptError       a release's files do not match its manifest
    │   ├── ReleaseInvalidError       a release fails its validation
    │   └── DiskFullError             no space left while writing
    ├── RuntimeFailure            the local server process
    │   ├── TritonNotFoundError       no usable tritonserver on this machine
    │   ├── PortInUseError            a configured port is taken
    │   ├── AlreadyRunningError       a server was started from here before
    │   ├── NotRunningError           there is no server to act on
    │   └── ServerStartError          the server died or never became ready
    ├── AuditError                a program, image or process cannot be audited
    ├── DeployError               hosts, and rolling a release out to them
    │   ├── InventoryError            the inventory cannot be read or lacks the host
    │   ├── HostUnreachableError      a host does not answer
    │   └── HostError                 what the program on the host says
    │       ├── HostLockedError           another deployment has the host
    │       ├── HostStateError            the host's own record is damaged
    │       ├── TransitionError           not now: the step does not follow from those before it
    │       ├── SlotError                 a slot's services do not start, stop or become ready
    │       └── FrontError                the front on the host does not answer or obey
    └── ServiceError              a server that was asked over the network
        ├── ServerUnavailableError    not there, or went away
        ├── RequestTimeoutError       no answer in time
        ├── ModelNotFoundError        the server has no such model or version
        ├── ModelNotReadyError        the model is there but not loaded
        ├── AccessDeniedError         the server does not accept the caller's key
        ├── MessageTooLargeError      the request is over the transport's limit
        ├── OverloadedError           the server refuses more work now
        │   └── StreamLimitError          as many live streams as the server was set up for
        ├── StreamLostError           the server no longer knows a live stream
        ├── InvalidRequestError       the server rejects the request itself
        └── RemoteInferenceError      the model failed on the server
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar


class SpeechError(Exception):
    """Base of all errors of this package.

    Attributes:
        message: what went wrong, one sentence, naming the thing it happened to.
        fix: what the reader can do about it, one sentence, or None where nothing is known to help.
        host: the server concerned, ``host:port``.
        model: the model concerned.
        path: the file or folder concerned.
    """

    exit_code: ClassVar[int] = 1
    """What the command line exits with (2: usage and configuration, 1: everything else)."""

    def __init__(
        self,
        message: str,
        *,
        fix: str | None = None,
        host: str | None = None,
        model: str | None = None,
        path: Path | str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix
        self.host = host
        self.model = model
        self.path = None if path is None else str(path)

    def __str__(self) -> str:
        where = [
            f"{name}: {value}"
            for name, value in (("host", self.host), ("model", self.model), ("file", self.path))
            if value is not None and value not in self.message
        ]
        text = self.message if not where else f"{self.message} ({', '.join(where)})"
        return text if self.fix is None else f"{text}\nFix: {self.fix}"

    def to_dict(self) -> dict[str, Any]:
        """The error as JSON-ready data: ``error, message, fix, host, model, path``."""
        return {
            "error": type(self).__name__,
            "message": self.message,
            "fix": self.fix,
            "host": self.host,
            "model": self.model,
            "path": self.path,
        }


class ConfigurationError(SpeechError):
    """A setting is wrong or unknown."""

    exit_code = 2


class MissingDependencyError(SpeechError):
    """An optional extra is not installed."""

    exit_code = 2


class AudioError(SpeechError):
    """The recording cannot be used."""


class AudioNotFoundError(AudioError):
    """No such audio file, or it is not readable."""


class AudioDecodeError(AudioError):
    """Not audio, truncated, or an unknown codec."""


class AudioEmptyError(AudioError):
    """The recording holds no samples."""


class AudioValueError(AudioError):
    """Samples that are NaN or infinite, or an array of the wrong shape or type."""


class AudioTooLongError(AudioError):
    """Longer or larger than the configured maximum."""


class TranscriptFormatError(SpeechError):
    """A transcript file cannot be read, or a format name is unknown."""


class EngineError(SpeechError):
    """A model in this process failed."""


class ModelLoadError(EngineError):
    """Weights are missing, corrupt, or of another kind than the engine's."""


class UnsupportedModelError(ModelLoadError):
    """The weights are sound, but the chosen runtime cannot compute them."""


class UnsupportedLanguageError(EngineError):
    """The engine does not know the requested language."""


class InferenceError(EngineError):
    """The model failed on an input."""


class RepositoryError(SpeechError):
    """Building, storing or checking a release failed."""


class ArtifactError(RepositoryError):
    """One input of a build cannot be had."""


class ArtifactNotFoundError(ArtifactError):
    """No such file, package, model or revision."""


class HubUnreachableError(ArtifactError):
    """The model hub does not answer."""


class GatedModelError(ArtifactError):
    """The model needs an accepted licence and a token."""


class DigestMismatchError(ArtifactError):
    """The bytes are not the ones that were pinned."""


class ReleaseNotFoundError(RepositoryError):
    """There is no such release."""


class ReleaseCorruptError(RepositoryError):
    """A release's files do not match its manifest."""


class ReleaseInvalidError(RepositoryError):
    """A release fails its validation."""


class DiskFullError(RepositoryError):
    """No space left while writing."""


class RuntimeFailure(SpeechError):
    """The local server process failed."""


class TritonNotFoundError(RuntimeFailure):
    """No usable tritonserver on this machine."""


class PortInUseError(RuntimeFailure):
    """A configured port is taken."""


class AlreadyRunningError(RuntimeFailure):
    """A server was started from this home before and still runs."""


class NotRunningError(RuntimeFailure):
    """There is no server to act on."""


class ServerStartError(RuntimeFailure):
    """The server died or never became ready."""


class AuditError(SpeechError):
    """A program, image or process cannot be audited."""


class DeployError(SpeechError):
    """Something about the hosts of a deployment failed."""


class InventoryError(DeployError):
    """The Ansible inventory is missing, cannot be read, or has no such host."""

    exit_code = 2


class HostUnreachableError(DeployError):
    """A host does not answer over its connection in time."""


class HostError(DeployError):
    """The program on a host cannot do what it was asked."""


class HostLockedError(HostError):
    """Another deployment has the host."""


class HostStateError(HostError):
    """The host's record of what it serves is damaged, or of another version."""


class TransitionError(HostError):
    """A step of a rollout that does not follow from the steps before it."""


class SlotError(HostError):
    """The services of a slot do not start, do not stop, or do not become ready."""


class FrontError(HostError):
    """The front (HAProxy) of a host does not answer, or does not do what it is told."""


class ServiceError(SpeechError):
    """A server that was asked over the network failed to answer."""


class ServerUnavailableError(ServiceError):
    """The server is not there, or went away during the request."""


class RequestTimeoutError(ServiceError):
    """No answer in time."""


class ModelNotFoundError(ServiceError):
    """The server has no such model or version."""


class ModelNotReadyError(ServiceError):
    """The model is known to the server but not loaded."""


class AccessDeniedError(ServiceError):
    """The server does not accept the caller's key, or the account behind it."""


class MessageTooLargeError(ServiceError):
    """The request is over the transport's limit."""


class OverloadedError(ServiceError):
    """The server refuses more work now."""


class StreamLimitError(OverloadedError):
    """The server has as many live streams as it was set up for."""


class StreamLostError(ServiceError):
    """The server no longer knows a live stream: it restarted, or the stream was idle for too long."""


class InvalidRequestError(ServiceError):
    """The server rejects the request itself."""


class RemoteInferenceError(ServiceError):
    """The model failed on the server."""
