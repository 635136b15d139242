"""Whisper's encoder and decoder, with the names that transformers gives their weights.

A. Radford et al., Robust Speech Recognition via Large-Scale Weak Supervision, 2022. One decoder, three ways
through it: `Decoder.step` writes into a cache of fixed size (torch), `Decoder.grow` takes and returns the
cache (ONNX graphs), `Decoder.attention` reads whole transcripts and tells where the alignment heads looked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from orchestrator.engines.whisper_native.checkpoint import WhisperShape

KeyValue = tuple[Tensor, Tensor]
"""Keys and values of one layer, ``[rows, heads, positions, head width]`` each."""


class Norm(nn.LayerNorm):
    """A layer norm whose sums are float32 in any precision."""

    def forward(self, x: Tensor) -> Tensor:
        """``[..., width]`` to the same."""
        weight, bias = self.weight.float(), self.bias.float()
        return F.layer_norm(x.float(), self.normalized_shape, weight, bias, self.eps).to(x.dtype)


class Attention(nn.Module):
    """The projections of multi-head attention; Whisper's keys have no bias."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width)
        self.q_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def query(self, x: Tensor) -> Tensor:
        """``[rows, time, width]`` to ``[rows, heads, time, head width]``."""
        return self._split(self.q_proj(x))

    def key_value(self, x: Tensor) -> KeyValue:
        """Keys and values of ``[rows, time, width]``."""
        return self._split(self.k_proj(x)), self._split(self.v_proj(x))

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """What ``query`` finds: ``[rows, time, width]``. ``mask`` is added to the scores."""
        found = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        out: Tensor = self.out_proj(found.transpose(1, 2).flatten(2))
        return out

    def _split(self, x: Tensor) -> Tensor:
        rows, time, width = x.shape
        return x.view(rows, time, self.heads, width // self.heads).transpose(1, 2)


class EncoderLayer(nn.Module):
    """Attention over all frames, and a feed-forward part."""

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.self_attn = Attention(width, heads)
        self.self_attn_layer_norm = Norm(width)
        self.fc1 = nn.Linear(width, inner)
        self.fc2 = nn.Linear(inner, width)
        self.final_layer_norm = Norm(width)

    def forward(self, x: Tensor) -> Tensor:
        """``[rows, frames, width]`` to the same."""
        normed = self.self_attn_layer_norm(x)
        x = x + self.self_attn.attend(self.self_attn.query(normed), *self.self_attn.key_value(normed))
        x = x + self.fc2(F.gelu(self.fc1(self.final_layer_norm(x))))
        if x.dtype == torch.float16:  # sums of many layers can leave its range
            x = x.clamp(min=-64504.0, max=64504.0)
        return x


class Encoder(nn.Module):
    """Log-mel features to frames of 20 ms."""

    def __init__(self, shape: WhisperShape) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(shape.mels, shape.width, kernel_size=3, padding=1)
        self.conv2 = nn.Conv1d(shape.width, shape.width, kernel_size=3, stride=2, padding=1)
        self.embed_positions = nn.Embedding(shape.encoder_positions, shape.width)
        self.layers = nn.ModuleList(
            EncoderLayer(shape.width, shape.encoder_heads, shape.encoder_inner)
            for _ in range(shape.encoder_layers)
        )
        self.layer_norm = Norm(shape.width)

    def forward(
        self, features: Tensor, layer: Callable[[EncoderLayer, Tensor], Tensor] | None = None
    ) -> Tensor:
        """``[rows, mels, 2 * positions]`` to ``[rows, positions, width]``.

        ``layer`` computes a layer: a compiled `EncoderLayer.forward`, or None for the layer itself.
        """
        x = F.gelu(self.conv2(F.gelu(self.conv1(features)))).transpose(1, 2)
        x = x + self.embed_positions.weight
        for part in self.layers:
            x = part(x) if layer is None else layer(part, x)  # type: ignore[arg-type]
        normed: Tensor = self.layer_norm(x)
        return normed


class DecoderLayer(nn.Module):
    """Attention over the tokens so far, attention over the audio, and a feed-forward part."""

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.self_attn = Attention(width, heads)
        self.self_attn_layer_norm = Norm(width)
        self.encoder_attn = Attention(width, heads)
        self.encoder_attn_layer_norm = Norm(width)
        self.fc1 = nn.Linear(width, inner)
        self.fc2 = nn.Linear(inner, width)
        self.final_layer_norm = Norm(width)

    def step(self, x: Tensor, position: Tensor, mask: Tensor, own: KeyValue, audio: KeyValue) -> Tensor:
        """One token each, ``[rows, 1, width]``; its key and value are written to ``own`` at ``position``."""
        normed = self.self_attn_layer_norm(x)
        key, value = self.self_attn.key_value(normed)
        own[0].index_copy_(2, position, key)
        own[1].index_copy_(2, position, value)
        x = x + self.self_attn.attend(self.self_attn.query(normed), own[0], own[1], mask)
        return self._rest(x, audio)

    def grow(self, x: Tensor, mask: Tensor, past: KeyValue, audio: KeyValue) -> tuple[Tensor, KeyValue]:
        """One token each; ``past`` is ``[positions, rows, heads, head width]``, so that a shorter past is
        one piece of memory. Returns the new key and value, ``[rows, heads, head width]``."""
        normed = self.self_attn_layer_norm(x)
        key, value = self.self_attn.key_value(normed)
        keys, values = (
            torch.cat((before.permute(1, 2, 0, 3), new), dim=2)
            for before, new in zip(past, (key, value), strict=True)
        )
        x = x + self.self_attn.attend(self.self_attn.query(normed), keys, values, mask)
        return self._rest(x, audio), (key.squeeze(2), value.squeeze(2))

    def read(self, x: Tensor, mask: Tensor, audio: KeyValue) -> tuple[Tensor, Tensor]:
        """Whole transcripts, ``[rows, tokens, width]``; also what the heads look for in the audio."""
        normed = self.self_attn_layer_norm(x)
        key, value = self.self_attn.key_value(normed)
        x = x + self.self_attn.attend(self.self_attn.query(normed), key, value, mask)
        query = self.encoder_attn.query(self.encoder_attn_layer_norm(x))
        return self._rest(x, audio), query

    def _rest(self, x: Tensor, audio: KeyValue) -> Tensor:
        query = self.encoder_attn.query(self.encoder_attn_layer_norm(x))
        x = x + self.encoder_attn.attend(query, *audio)
        rest: Tensor = x + self.fc2(F.gelu(self.fc1(self.final_layer_norm(x))))
        return rest


Step = Callable[[DecoderLayer, Tensor, Tensor, Tensor, KeyValue, KeyValue], Tensor]


class Decoder(nn.Module):
    """Tokens so far and the audio to the next token's logits."""

    def __init__(self, shape: WhisperShape) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocabulary, shape.width)
        self.embed_positions = nn.Embedding(shape.decoder_positions, shape.width)
        self.layers = nn.ModuleList(
            DecoderLayer(shape.width, shape.decoder_heads, shape.decoder_inner)
            for _ in range(shape.decoder_layers)
        )
        self.layer_norm = Norm(shape.width)

    def audio(self, encoded: Tensor) -> list[KeyValue]:
        """Each layer's keys and values of the encoder's frames."""
        return [layer.encoder_attn.key_value(encoded) for layer in self._layers()]

    def step(
        self,
        tokens: Tensor,
        position: Tensor,
        own: Sequence[KeyValue],
        audio: Sequence[KeyValue],
        layer: Step = DecoderLayer.step,
    ) -> Tensor:
        """Logits after one more token.

        Args:
            tokens: int64 ``[rows]``.
            position: int64 ``[1]``: how many tokens came before.
            own: each layer's cache ``[rows, heads, decoder positions, head width]``, written to.
            audio: from `audio`.
            layer: computes a layer: `DecoderLayer.step`, or the same compiled.

        Returns:
            float32 ``[rows, vocabulary]``.
        """
        x = (self.embed_tokens(tokens) + self.embed_positions(position)).unsqueeze(1)
        places = torch.arange(own[0][0].shape[2], device=position.device)
        later = torch.zeros(places.shape, dtype=x.dtype, device=x.device)
        mask = later.masked_fill(places > position, float("-inf"))[None, None, None]
        for part, mine, heard in zip(self._layers(), own, audio, strict=True):
            x = layer(part, x, position, mask, mine, heard)
        return self._logits(x)

    def grow(
        self,
        tokens: Tensor,
        position: Tensor,
        mask: Tensor,
        past: Sequence[KeyValue],
        audio: Sequence[KeyValue],
    ) -> tuple[Tensor, list[KeyValue]]:
        """As `step`, with the cache in and the new keys and values out.

        ``mask`` is ``[past positions + 1]``: 0 for what came before and for the token itself, at the end.
        """
        x = (self.embed_tokens(tokens) + self.embed_positions(position)).unsqueeze(1)
        added = []
        for part, before, heard in zip(self._layers(), past, audio, strict=True):
            x, new = part.grow(x, mask[None, None, None], before, heard)
            added.append(new)
        return self._logits(x), added

    def attention(
        self, tokens: Tensor, audio: Sequence[KeyValue], heads: Sequence[tuple[int, int]]
    ) -> Tensor:
        """Where ``heads`` (layer, head) look in the audio while each token is read.

        Args:
            tokens: int64 ``[rows, tokens]``, prompt included.
            audio: from `audio`.
            heads: at least one.

        Returns:
            float32 ``[rows, heads, tokens, encoder positions]``, each sums to 1.
        """
        x = self.embed_tokens(tokens) + self.embed_positions.weight[: tokens.shape[1]]
        places = torch.arange(tokens.shape[1], device=tokens.device)
        none = torch.zeros((tokens.shape[1], tokens.shape[1]), dtype=x.dtype, device=x.device)
        mask = none.masked_fill(places[None, :] > places[:, None], float("-inf"))[None, None]
        looks: dict[tuple[int, int], Tensor] = {}
        for number, (part, heard) in enumerate(zip(self._layers(), audio, strict=True)):
            x, query = part.read(x, mask, heard)
            for layer, head in heads:
                if layer == number:
                    scores = query[:, head].float() @ heard[0][:, head].float().transpose(1, 2)
                    looks[layer, head] = (scores * query.shape[-1] ** -0.5).softmax(-1)
        return torch.stack([looks[place] for place in heads], dim=1)

    def _logits(self, x: Tensor) -> Tensor:
        return F.linear(self.layer_norm(x).squeeze(1), self.embed_tokens.weight).float()

    def _layers(self) -> list[DecoderLayer]:
        return [layer for layer in self.layers if isinstance(layer, DecoderLayer)]


class Whisper(nn.Module):
    """Both, as transformers' ``model`` has them."""

    def __init__(self, shape: WhisperShape) -> None:
        super().__init__()
        self.shape = shape
        self.encoder = Encoder(shape)
        self.decoder = Decoder(shape)
