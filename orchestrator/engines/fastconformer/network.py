"""Features, encoder and head of one recogniser as one torch module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from orchestrator.engines.fastconformer.causal import CausalEncoder
from orchestrator.engines.fastconformer.config import ModelConfig
from orchestrator.engines.fastconformer.encoder import Encoder
from orchestrator.engines.fastconformer.features import LogMel
from orchestrator.engines.fastconformer.heads import CtcHead, TransducerHead


class _Uninitialized(TorchFunctionMode):
    """Leaves new parameters without values.

    They are replaced at once; and to draw an embedding's random numbers on the meta device torch would
    import its compiler, for more than a second.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


class FastConformer(nn.Module):
    """Features, encoder and head of one recogniser."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.features = LogMel(config.features)
        encoder = CausalEncoder if config.encoder.causal else Encoder
        self.encoder: Encoder | CausalEncoder = encoder(config.features.mels, config.encoder)
        head = CtcHead if config.head.kind == "ctc" else TransducerHead
        self.head: CtcHead | TransducerHead = head(config.encoder.width, config.head)

    @classmethod
    def of(cls, config: ModelConfig, weights: Mapping[str, Tensor]) -> FastConformer:
        """A network of exactly ``weights``, which are neither copied nor cast, ready for inference.

        Raises:
            RuntimeError: a weight is missing, left over, or of another shape than ``config`` says.
        """
        with torch.device("meta"), _Uninitialized():
            network = cls(config)
        network.load_state_dict(weights, strict=True, assign=True)
        if isinstance(network.head, TransducerHead):  # not a weight, so not among them
            device = network.head.out.weight.device
            network.head.durations = torch.tensor(config.head.durations, dtype=torch.long, device=device)
        return network.eval().requires_grad_(False)
