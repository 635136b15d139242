"""The models of the upstream as Riva lists them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from riva.client.proto.riva_asr_pb2 import RivaSpeechRecognitionConfigResponse

from orchestrator.client import ModelCard
from orchestrator.contract import SAMPLE_RATE_HZ, Task

_TYPES: Final = {Task.RECOGNIZE: "offline", Task.STREAM: "online"}


def configs(cards: Sequence[ModelCard], model_name: str) -> RivaSpeechRecognitionConfigResponse:
    """The models that are ready, the preferred first; of ``model_name`` only, where it is not empty."""
    response = RivaSpeechRecognitionConfigResponse()
    able = [card for card in cards if card.ready and card.task in _TYPES]
    for card in sorted(able, key=lambda card: (card.rank, card.name)):
        if card.task is None or model_name not in ("", card.name, card.engine):
            continue
        response.model_config.add(
            model_name=card.name,
            parameters={
                "type": _TYPES[card.task],
                "language_code": ",".join(card.languages),
                "streaming": str(card.task is Task.STREAM),
                "sample_rate_hertz": str(SAMPLE_RATE_HZ),
            },
        )
    return response
