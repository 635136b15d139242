"""Features, encoder and head of one recogniser as one torch module."""

from __future__ import annotations

from torch import nn

from orchestrator.engines.fastconformer.config import ModelConfig
from orchestrator.engines.fastconformer.encoder import Encoder
from orchestrator.engines.fastconformer.features import LogMel
from orchestrator.engines.fastconformer.heads import CtcHead, TransducerHead


class FastConformer(nn.Module):
    """Features, encoder and head of one recogniser."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.features = LogMel(config.features)
        self.encoder = Encoder(config.features.mels, config.encoder)
        head = CtcHead if config.head.kind == "ctc" else TransducerHead
        self.head: CtcHead | TransducerHead = head(config.encoder.width, config.head)
