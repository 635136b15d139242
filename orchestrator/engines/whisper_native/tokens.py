"""What a Whisper checkpoint's token numbers stand for: pieces of text, and the marks that steer it.

Only reading is needed: text is never turned into tokens. A vocabulary writes each byte as one printable
character (byte-level BPE, as GPT-2 has it), so that a piece's bytes are looked up character by character.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from orchestrator.engines.whisper_native.checkpoint import read_json
from orchestrator.errors import ModelLoadError

START: Final = "<|startoftranscript|>"
END: Final = "<|endoftext|>"
TRANSCRIBE: Final = "<|transcribe|>"
NO_TIMESTAMPS: Final = "<|notimestamps|>"
NO_SPEECH: Final = ("<|nospeech|>", "<|nocaptions|>")
_LANGUAGE: Final = re.compile(r"<\|([a-z]{2,3})\|>")
_MARK: Final = re.compile(r"<\|.*\|>", re.DOTALL)


@dataclass(frozen=True, slots=True)
class WhisperTokens:
    """A checkpoint's tokens.

    Attributes:
        pieces: the bytes of each token; empty for marks.
        start, end: begin and finish a transcript.
        transcribe, no_timestamps: of the prompt; ``transcribe`` is None in English-only checkpoints.
        no_speech: its probability at the start tells silence; None where there is no such token.
        languages: Whisper's language codes and their tokens; empty in English-only checkpoints.
        suppressed: tokens never to write.
        suppressed_first: tokens not to begin with.
        alignment_heads: (decoder layer, head) whose attention follows the audio; empty where not known.
    """

    pieces: tuple[bytes, ...]
    start: int
    end: int
    transcribe: int | None
    no_timestamps: int
    no_speech: int | None
    languages: Mapping[str, int]
    suppressed: tuple[int, ...]
    suppressed_first: tuple[int, ...]
    alignment_heads: tuple[tuple[int, int], ...]

    def prompt(self, language: str | None) -> tuple[int, ...]:
        """What the decoder is given before it writes; ``language`` is one of `languages` where there are."""
        if not self.languages or self.transcribe is None:
            return (self.start, self.no_timestamps)
        return (self.start, self.languages[language or "en"], self.transcribe, self.no_timestamps)

    def text(self, tokens: Sequence[int]) -> str:
        """The text; marks are left out, and bytes that are no UTF-8 become the replacement character."""
        return b"".join(self.pieces[token] for token in tokens).decode("utf-8", errors="replace")

    def suppress(self, size: int) -> tuple[int, ...]:
        """All tokens of a vocabulary of ``size`` that must not be written: marks other than `end`, too."""
        marks = (token for token, piece in enumerate(self.pieces) if not piece and token != self.end)
        unnamed = range(len(self.pieces), size)
        return tuple(sorted({*self.suppressed, *marks, *unnamed}))


def tokens_in(files: Mapping[str, Path], size: int, model: str) -> WhisperTokens:
    """The tokens of a checkpoint.

    Args:
        files: by name: tokenizer.json, or vocab.json and added_tokens.json; generation_config.json tells
        more. size: the network's vocabulary.
        model: the engine, for errors.

    Raises:
        ModelLoadError: a file is missing or damaged, or a mark that Whisper needs is not there.
    """
    names = _vocabulary(files, model)
    try:
        if not all(isinstance(name, str) and 0 <= token < size for name, token in names.items()):
            raise ValueError(f"a token is outside of the {size} that the network has")
        pieces = [b""] * (max(names.values(), default=-1) + 1)
        for name, token in names.items():
            pieces[token] = b"" if _MARK.fullmatch(name) else _bytes_of(name)
        languages = {found[1]: token for name, token in names.items() if (found := _LANGUAGE.fullmatch(name))}
        more = _generation(files, model)
        return WhisperTokens(
            pieces=tuple(pieces),
            start=names[START],
            end=names[END],
            transcribe=names.get(TRANSCRIBE),
            no_timestamps=names[NO_TIMESTAMPS],
            no_speech=next((names[name] for name in NO_SPEECH if name in names), None),
            # Checkpoints that know English only carry the same marks and never learned them.
            languages=languages if more.get("is_multilingual", TRANSCRIBE in names) else {},
            suppressed=_numbers(more, "suppress_tokens", size),
            suppressed_first=_numbers(more, "begin_suppress_tokens", size),
            alignment_heads=tuple(
                (int(layer), int(head)) for layer, head in more.get("alignment_heads") or ()
            ),
        )
    except KeyError as error:
        raise _damaged(f"the token {error} is not in its vocabulary", model) from error
    except (ValueError, TypeError, AttributeError) as error:
        raise _damaged(str(error), model) from error


def _vocabulary(files: Mapping[str, Path], model: str) -> dict[str, int]:
    """Names of all tokens: from the one file, or from the older pair."""
    if "tokenizer.json" in files:
        data = read_json(files["tokenizer.json"], model)
        try:
            added = {str(entry["content"]): int(entry["id"]) for entry in data.get("added_tokens", ())}
            return {**{str(name): int(token) for name, token in data["model"]["vocab"].items()}, **added}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise _damaged(f"tokenizer.json lacks {error}", model) from error
    if "vocab.json" not in files:
        raise _damaged("there is neither tokenizer.json nor vocab.json", model)
    names: dict[str, Any] = read_json(files["vocab.json"], model)
    if "added_tokens.json" in files:
        names = {**names, **read_json(files["added_tokens.json"], model)}
    try:
        return {name: int(token) for name, token in names.items()}
    except (TypeError, ValueError) as error:
        raise _damaged(f"a token's number is none: {error}", model) from error


def _generation(files: Mapping[str, Path], model: str) -> dict[str, Any]:
    """generation_config.json over config.json, which has the lists in checkpoints before the former."""
    both: dict[str, Any] = {}
    for name in ("config.json", "generation_config.json"):
        if name in files:
            found = read_json(files[name], model)
            both |= {key: value for key, value in found.items() if value is not None}
    return both


def _numbers(data: Mapping[str, Any], key: str, size: int) -> tuple[int, ...]:
    numbers = tuple(int(token) for token in data.get(key) or ())
    if outside := [token for token in numbers if not 0 <= token < size and token != -1]:
        raise ValueError(f"{key} names {outside[0]}, and the network has {size} tokens")
    return tuple(token for token in numbers if token >= 0)


def _byte_alphabet() -> dict[str, int]:
    """Printable characters for all bytes: themselves where they are printable, else 256 and up in order."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {
        chr(256 + place): byte for place, byte in enumerate(others)
    }


BYTES: Final = _byte_alphabet()


def _bytes_of(name: str) -> bytes:
    """A piece's bytes; of added tokens that are plain text, their own UTF-8."""
    try:
        return bytes(BYTES[char] for char in name)
    except KeyError:
        return name.encode()


def _damaged(reason: str, model: str) -> ModelLoadError:
    return ModelLoadError(
        f"the checkpoint's tokens cannot be used: {reason}",
        fix="copy the checkpoint again, with its tokenizer.",
        model=model,
    )
