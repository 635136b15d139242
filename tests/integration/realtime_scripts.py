"""What the realtime script of NVIDIA's Riva clients for Python does, through the installed library."""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import logging
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from typing import Any

from riva.client.argparse_utils import (
    add_asr_config_argparse_parameters,
    add_connection_argparse_parameters,
    add_realtime_config_argparse_parameters,
)
from riva.client.asr import AudioChunkFileIterator, get_wav_file_parameters

LIMIT_S = 240


@dataclass
class Talked:
    """What the client received and printed."""

    events: list[dict[str, Any]] = field(default_factory=list)
    printed: str = ""
    final: str = ""

    @property
    def completed(self) -> list[dict[str, Any]]:
        return [event for event in self.events if event["type"].endswith("transcription.completed")]

    @property
    def text(self) -> str:
        """All finals, one after another."""
        return "".join(event["transcript"] for event in self.completed)

    @property
    def errors(self) -> list[dict[str, Any]]:
        return [event["error"] for event in self.events if event["type"] == "error"]


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--input-file")
    given.add_argument("--mic", action="store_true")
    parser.add_argument("--sample-rate-hz", type=int, default=16_000)
    parser.add_argument("--num-channels", type=int, default=1)
    parser.add_argument("--file-streaming-chunk", type=int, default=1600)
    parser.add_argument("--output-text")
    parser.add_argument("--prompt", default="")
    parser = add_connection_argparse_parameters(parser)
    parser.set_defaults(server="localhost:9000")
    parser = add_asr_config_argparse_parameters(
        parser, max_alternatives=True, profanity_filter=True, word_time_offsets=True
    )
    return add_realtime_config_argparse_parameters(parser).parse_args(argv)


def realtime_asr_client(
    argv: Sequence[str], microphone: Iterable[bytes] = (), force_eou: Sequence[bool] | None = None
) -> Talked:
    """A file as fast as it goes, or a microphone; every event is kept."""
    from riva.client.realtime import RealtimeClientASR

    logging.getLogger("riva.client.realtime").setLevel(logging.CRITICAL)
    args = parse(argv)
    talked, out = Talked(), io.StringIO()

    async def mic() -> AsyncIterator[bytes]:
        for block in microphone:
            await asyncio.sleep(0)
            yield block

    async def run() -> None:
        client = RealtimeClientASR(args)
        chunks: Any
        if args.mic:
            chunks = mic()
        else:
            wav = get_wav_file_parameters(args.input_file)
            if wav is not None:
                args.sample_rate_hz, args.num_channels = wav["framerate"], wav["nchannels"]
            chunks = AudioChunkFileIterator(args.input_file, args.file_streaming_chunk)
        try:
            await client.connect()
            receive = client.websocket.recv

            async def recorded() -> Any:
                text = await receive()
                talked.events.append(json.loads(text))
                return text

            client.websocket.recv = recorded
            await asyncio.gather(
                client.send_audio_chunks(chunks, force_eou_chunks=force_eou), client.receive_responses()
            )
            if args.output_text:
                client.save_responses(args.output_text)
        finally:
            await client.disconnect()
        talked.final = client.final_transcript

    with redirect_stdout(out):
        asyncio.run(asyncio.wait_for(run(), LIMIT_S))
    talked.printed = out.getvalue()
    return talked
