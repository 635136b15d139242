"""Which engines outside Triton the settings name."""

from __future__ import annotations

from orchestrator.client.retry import RetryPolicy
from orchestrator.client.transport import SpeechTransport
from orchestrator.engines import registry
from orchestrator.settings import Settings


def transports(settings: Settings) -> dict[str, SpeechTransport]:
    """A transport for each engine that is set up, by its name; nothing is connected yet.

    Raises:
        MissingDependencyError: an engine is set up whose libraries are not installed.
        ConfigurationError: an address is none.
    """
    found: dict[str, SpeechTransport] = {}
    if settings.riva.url is not None:
        registry.require("riva")
        from orchestrator.client.engines.riva import RivaTransport

        client = settings.client
        found["riva"] = RivaTransport(
            settings.riva, timeout_s=client.timeout_s, retry=RetryPolicy(client.retries)
        )
    if settings.sarvam.api_key is not None:
        registry.require("sarvam")
        from orchestrator.client.engines.sarvam import SarvamTransport

        found["sarvam"] = SarvamTransport(settings.sarvam)
    return found
