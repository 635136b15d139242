"""Tiny Whisper models in every format, which say what a test wants to hear, whatever the sound.

All layers are idle, so that what a position says is decided by its positional embedding alone: the
embedding of the token to be said, much larger than that of the token before it.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.engines.whisper.languages import CODES

WIDTH = 64
TEXT_TOKENS = 50_257
END, START = 50_257, 50_258
LANGUAGE_0 = 50_259
SPECIAL = ("translate", "transcribe", "startoflm", "startofprev", "nospeech", "notimestamps")
_LOUD = 50.0


def byte_letters() -> list[str]:
    """The letter that stands for each byte in a byte-level vocabulary (GPT-2's table)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = {byte: chr(byte) for byte in plain}
    others = [byte for byte in range(256) if byte not in letters]
    return [letters[byte] if byte in letters else chr(256 + others.index(byte)) for byte in range(256)]


class Tiny:
    """One model: the language that it hears, and the words (each one token) that it says."""

    def __init__(self, text: str, language: str = "en", *, multilingual: bool = True, seed: int = 1) -> None:
        self.words = [f" {word}" for word in text.split()]
        self.languages = CODES[:99] if multilingual else ()
        first_special = END if multilingual else END - 1
        names = ["endoftext", "startoftranscript", *(CODES[:99]), *SPECIAL]
        self.special = {f"<|{name}|>": first_special + number for number, name in enumerate(names)}
        self.times = first_special + len(names)
        self.vocabulary = self.times + 1501
        self.tokens = self._tokens(first_special)
        random = np.random.default_rng(seed)
        self.embedding = random.standard_normal((self.vocabulary, WIDTH)).astype(np.float32)
        self.positions = self._positions(language)

    def _tokens(self, count: int) -> list[bytes]:
        """The bytes of each text token: all single bytes, the words, and fillers."""
        own = list(dict.fromkeys(word.encode() for word in self.words))
        fillers = (f"filler{number}".encode() for number in range(count))
        tokens = [*(bytes([byte]) for byte in range(256)), *own, *fillers][:count]
        if self.languages:
            tokens[-1] = b""  # as Whisper has it; CTranslate2 knows from it that a model is multilingual
        return tokens

    def _positions(self, language: str) -> np.ndarray[Any, Any]:
        said = [self.tokens.index(word.encode()) for word in self.words]
        # Either the first word follows <|notimestamps|>, or <|0.00|> stands in its place.
        before = [self.special[f"<|{language}|>"], self.special["<|transcribe|>"], self.times]
        if not self.languages:
            before = before[-1:]
        line = [*before, *said, self.times + 1500]
        line += [self.special["<|endoftext|>"]] * (448 - len(line))
        return np.asarray(_LOUD * self.embedding[line[:448]], np.float32)

    def write_ggml(self, path: Path) -> Path:
        """The model as whisper.cpp's file, 16-bit."""
        shape = (self.vocabulary, 1500, WIDTH, 2, 1, 448, WIDTH, 2, 1, 80, 1)
        with path.open("wb") as file:
            file.write(struct.pack("<I11i", 0x67676D6C, *shape))
            file.write(struct.pack("<2i", 80, 201))
            file.write(np.full((80, 201), 0.01, np.float32).tobytes())
            file.write(struct.pack("<i", len(self.tokens)))
            for token in self.tokens:
                file.write(struct.pack("<i", len(token)) + token)
            for name, value in self._tensors().items():
                half = value.ndim > 1 and "positional" not in name and not name.endswith("bias")
                data = value.astype(np.float16 if half else np.float32)
                encoded = name.encode()
                file.write(struct.pack("<3i", data.ndim, len(encoded), int(half)))
                file.write(struct.pack(f"<{data.ndim}i", *reversed(data.shape)) + encoded)
                file.write(data.tobytes())
        return path

    def _tensors(self) -> dict[str, np.ndarray[Any, Any]]:
        """By whisper.cpp's names."""
        zeros = lambda *dims: np.zeros(dims, np.float32)  # noqa: E731
        ones = np.ones(WIDTH, np.float32)
        tensors = {
            "encoder.positional_embedding": zeros(1500, WIDTH),
            "encoder.conv1.weight": zeros(WIDTH, 80, 3),
            "encoder.conv1.bias": zeros(WIDTH, 1),
            "encoder.conv2.weight": zeros(WIDTH, WIDTH, 3),
            "encoder.conv2.bias": zeros(WIDTH, 1),
            "encoder.ln_post.weight": ones,
            "encoder.ln_post.bias": zeros(WIDTH),
            "decoder.positional_embedding": self.positions,
            "decoder.token_embedding.weight": self.embedding,
            "decoder.ln.weight": ones,
            "decoder.ln.bias": zeros(WIDTH),
        }
        for side, attentions in (("encoder", ("attn",)), ("decoder", ("attn", "cross_attn"))):
            block = f"{side}.blocks.0"
            tensors |= {
                f"{block}.mlp_ln.weight": ones,
                f"{block}.mlp_ln.bias": zeros(WIDTH),
                f"{block}.mlp.0.weight": zeros(4 * WIDTH, WIDTH),
                f"{block}.mlp.0.bias": zeros(4 * WIDTH),
                f"{block}.mlp.2.weight": zeros(WIDTH, 4 * WIDTH),
                f"{block}.mlp.2.bias": zeros(WIDTH),
            }
            for attention in attentions:
                tensors[f"{block}.{attention}_ln.weight"] = ones
                tensors[f"{block}.{attention}_ln.bias"] = zeros(WIDTH)
                for part in ("query", "key", "value", "out"):
                    tensors[f"{block}.{attention}.{part}.weight"] = zeros(WIDTH, WIDTH)
                    if part != "key":
                        tensors[f"{block}.{attention}.{part}.bias"] = zeros(WIDTH)
        return tensors

    def write_tokenizer(self, folder: Path) -> None:
        """``tokenizer.json``: what the tokens are."""
        from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

        letters = byte_letters()
        texts = ["".join(letters[byte] for byte in token) for token in self.tokens]
        tokenizer = Tokenizer(models.BPE({text: number for number, text in enumerate(texts)}, []))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.add_special_tokens([AddedToken(name, special=True) for name in self.special])
        tokenizer.save(str(folder / "tokenizer.json"))

    def write_transformers(self, folder: Path) -> Path:
        """The model as transformers keeps it."""
        import torch
        from transformers import PreTrainedTokenizerFast, WhisperConfig, WhisperForConditionalGeneration

        folder.mkdir(parents=True, exist_ok=True)
        config = WhisperConfig(
            vocab_size=self.vocabulary,
            d_model=WIDTH,
            encoder_layers=1,
            decoder_layers=1,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=WIDTH,
            decoder_ffn_dim=WIDTH,
            bos_token_id=self.special["<|endoftext|>"],
            eos_token_id=self.special["<|endoftext|>"],
            pad_token_id=self.special["<|endoftext|>"],
            decoder_start_token_id=self.special["<|startoftranscript|>"],
        )
        model = WhisperForConditionalGeneration(config)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.fill_(1.0 if "layer_norm.weight" in name else 0.0)
            model.model.decoder.embed_tokens.weight.copy_(torch.from_numpy(self.embedding))
            model.model.decoder.embed_positions.weight.copy_(torch.from_numpy(self.positions))
        generation = model.generation_config
        generation._from_model_config = False  # else it is made anew where the model is loaded
        generation.suppress_tokens, generation.begin_suppress_tokens = [], []
        generation.lang_to_id = {f"<|{code}|>": self.special[f"<|{code}|>"] for code in self.languages}
        model.save_pretrained(folder)
        self.write_tokenizer(folder)
        PreTrainedTokenizerFast(
            tokenizer_file=str(folder / "tokenizer.json"),
            bos_token="<|endoftext|>",
            eos_token="<|endoftext|>",
            unk_token="<|endoftext|>",
        ).save_pretrained(folder)
        self.write_tokenizer(folder)
        (folder / "preprocessor_config.json").write_text(json.dumps({"feature_size": 80}))
        return folder

    def write_ct2(self, folder: Path, scratch: Path) -> Path:
        """The model as CTranslate2's converter makes it from transformers'."""
        from ctranslate2.converters import TransformersConverter

        source = self.write_transformers(scratch)
        TransformersConverter(str(source), copy_files=["tokenizer.json", "preprocessor_config.json"]).convert(
            str(folder)
        )
        return folder
