"""A Whisper checkpoint of a real model's shape with random weights, as transformers would save it.

It says nonsense. What it is for is speed, memory and start-up where the real weights cannot be had, and tests
of everything that surrounds the network.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, Literal

import torch
from safetensors.torch import save_file
from torch import nn

from orchestrator.engines.torch_device import device_of
from orchestrator.engines.whisper.languages import CODES
from orchestrator.engines.whisper_native.checkpoint import CONFIG, FIELDS, WEIGHTS, WhisperShape
from orchestrator.engines.whisper_native.network import Norm, Whisper
from orchestrator.engines.whisper_native.tokens import (
    BYTES,
    END,
    NO_SPEECH,
    NO_TIMESTAMPS,
    START,
    TRANSCRIBE,
)

Shape = Literal["large-v3", "tiny", "toy"]
Precision = Literal["float32", "float16"]
_TIMESTAMPS: Final = 1501
SHAPES: Final[dict[Shape, WhisperShape]] = {
    # openai/whisper-large-v3 and openai/whisper-tiny, from their configurations.
    "large-v3": WhisperShape(128, 1280, 32, 20, 5120, 1500, 32, 20, 5120, 448, 51_866),
    "tiny": WhisperShape(80, 384, 4, 6, 1536, 1500, 4, 6, 1536, 448, 51_865),
    # For tests: everything is there and nothing is large.
    "toy": WhisperShape(80, 32, 2, 2, 64, 1500, 2, 2, 64, 64, 2_200),
}
_CERTAINTY: Final = 4.0
"""Deviation of the logits: with it the best token is often clear and sometimes not."""


def write(
    folder: Path,
    *,
    shape: Shape | WhisperShape = "large-v3",
    seed: int = 0,
    device: torch.device | str = "cpu",
    precision: Precision = "float16",
) -> None:
    """Write such a checkpoint; the same arguments on one machine give the same weights.

    Args:
        folder: made where it is not there.
        shape: a name of `SHAPES`, or any shape with room for Whisper's marks in its vocabulary.
        seed: of the weights.
        device: where they are made; a GPU takes seconds for the large shape.
        precision: of the stored weights.

    Raises:
        ConfigurationError: there is no such kind of device.
        ModelLoadError: it is not in this machine.
    """
    sizes = SHAPES[shape] if isinstance(shape, str) else shape
    device = device_of(str(device), "whisper")
    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.inference_mode():
        torch.manual_seed(seed)
        with device:
            network = Whisper(sizes)
        _initialize(network)
        weights = {
            f"model.{name}": value.to(getattr(torch, precision)).cpu().contiguous()
            for name, value in network.state_dict().items()
        }
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    names = vocabulary(sizes.vocabulary)
    _save(folder / CONFIG, _config(sizes, names))
    _save(folder / "generation_config.json", _generation(sizes, names))
    _save(folder / "tokenizer.json", _tokenizer(names))


def vocabulary(size: int) -> dict[str, int]:
    """Token names and numbers as Whisper orders them: text, the end, marks and times.

    Those after the times, in a vocabulary that is larger than needed, have no names.
    """
    marks = [
        *(END, START),
        *(f"<|{code}|>" for code in CODES),
        *("<|translate|>", TRANSCRIBE, "<|startoflm|>", "<|startofprev|>", NO_SPEECH[0], NO_TIMESTAMPS),
    ]
    times = [f"<|{20 * step / 1000:.2f}|>" for step in range(_TIMESTAMPS)]
    text = size - len(marks) - len(times)
    letters = [char for char, byte in BYTES.items() if chr(byte).isalpha() and byte < 128]
    space = next(char for char, byte in BYTES.items() if byte == ord(" "))
    syllables = (
        (space if number % 3 == 0 else "") + "".join(parts)
        for number, parts in enumerate(
            itertools.chain.from_iterable(itertools.product(letters, repeat=count) for count in (2, 3))
        )
    )
    pieces = [*BYTES, *itertools.islice(syllables, max(0, text - len(BYTES)))][:text]
    return {name: token for token, name in enumerate([*pieces, *marks, *times])}


def _initialize(network: Whisper) -> None:
    """Activations of order one, and logits that depend on audio, position and what was written."""
    width = network.shape.width
    for part in network.modules():
        if isinstance(part, nn.Linear | nn.Conv1d):
            part.weight.normal_(0.0, part.weight[0].numel() ** -0.5)
            if part.bias is not None:
                part.bias.normal_(0.0, 0.1)
        elif isinstance(part, nn.Embedding):
            part.weight.normal_(0.0, 1.0)
        elif isinstance(part, Norm):
            part.weight.fill_(1.0)
            part.bias.zero_()
    network.decoder.embed_tokens.weight.mul_(width**-0.5)
    network.decoder.layer_norm.weight.fill_(_CERTAINTY)


def _config(shape: WhisperShape, names: dict[str, int]) -> dict[str, Any]:
    return {
        "model_type": "whisper",
        "architectures": ["WhisperForConditionalGeneration"],
        **{FIELDS[name]: number for name, number in asdict(shape).items()},
        "num_hidden_layers": shape.encoder_layers,
        "activation_function": "gelu",
        "is_encoder_decoder": True,
        "scale_embedding": False,
        "tie_word_embeddings": True,
        "decoder_start_token_id": names[START],
        "bos_token_id": names[END],
        "eos_token_id": names[END],
        "pad_token_id": names[END],
    }


def _generation(shape: WhisperShape, names: dict[str, int]) -> dict[str, Any]:
    middle = shape.decoder_layers // 2
    return {
        "decoder_start_token_id": names[START],
        "bos_token_id": names[END],
        "eos_token_id": names[END],
        "pad_token_id": names[END],
        "is_multilingual": True,
        "lang_to_id": {f"<|{code}|>": names[f"<|{code}|>"] for code in CODES},
        "task_to_id": {"transcribe": names[TRANSCRIBE], "translate": names["<|translate|>"]},
        "no_timestamps_token_id": names[NO_TIMESTAMPS],
        "prev_sot_token_id": names["<|startofprev|>"],
        "max_length": shape.decoder_positions,
        "suppress_tokens": [1, 2],
        "begin_suppress_tokens": [3, names[END]],
        # The upper half's first heads: which ones does not matter where none has learned to align.
        "alignment_heads": [[layer, 0] for layer in range(middle, shape.decoder_layers)],
    }


def _tokenizer(names: dict[str, int]) -> dict[str, Any]:
    """tokenizer.json as far as the text of tokens needs it."""
    marks = {name: token for name, token in names.items() if name.startswith("<|")}
    return {
        "version": "1.0",
        "added_tokens": [
            {
                "id": token,
                "content": name,
                "special": True,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
            }
            for name, token in marks.items()
        ],
        "pre_tokenizer": {
            "type": "ByteLevel",
            "add_prefix_space": False,
            "trim_offsets": True,
            "use_regex": True,
        },
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "vocab": {name: token for name, token in names.items() if name not in marks},
            "merges": [],
        },
    }


def _save(path: Path, data: dict[str, Any]) -> None:
    path.write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")
