"""What the scripts of NVIDIA's Riva clients for Python do with a server, through the installed library.

The flags that the scripts share are the library's own parsers; the others, and what each script sends and
prints, are as in `scripts/asr` of that project.
"""

from __future__ import annotations

import argparse
import io
import json
import threading
import wave
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import riva.client
from riva.client.argparse_utils import (
    add_asr_config_argparse_parameters,
    add_connection_argparse_parameters,
)
from riva.client.proto.riva_asr_pb2 import RivaSpeechRecognitionConfigRequest


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    parser.add_argument("--input-file", type=Path)
    parser.add_argument("--list-models", action="store_true")
    parser = add_connection_argparse_parameters(parser)
    return add_asr_config_argparse_parameters(  # type: ignore[no-any-return]
        parser, max_alternatives=True, profanity_filter=True, word_time_offsets=True
    )


def _streaming_parser() -> argparse.ArgumentParser:
    parser = _parser()
    parser.add_argument("--file-streaming-chunk", type=int, default=1600)
    parser.add_argument("--simulate-realtime", action="store_true")
    parser.add_argument("--show-intermediate", action="store_true")
    parser.add_argument("--print-confidence", action="store_true")
    parser.add_argument("--output-seglst", type=str)
    return parser


def _service(args: argparse.Namespace) -> Any:
    options = [
        ("grpc.max_receive_message_length", args.max_message_length),
        ("grpc.max_send_message_length", args.max_message_length),
    ]
    for name, value in args.options or []:
        options.append((name, int(value) if value.lstrip("-").isdigit() else value))
    auth = riva.client.Auth(
        args.ssl_root_cert,
        args.use_ssl,
        args.server,
        args.metadata,
        args.ssl_client_cert,
        args.ssl_client_key,
        options=options,
    )
    return riva.client.ASRService(auth)


def _config(args: argparse.Namespace) -> Any:
    return riva.client.RecognitionConfig(
        language_code=args.language_code,
        model=args.model_name,
        max_alternatives=args.max_alternatives,
        profanity_filter=args.profanity_filter,
        enable_automatic_punctuation=args.automatic_punctuation,
        verbatim_transcripts=not args.no_verbatim_transcripts,
        enable_word_time_offsets=args.word_time_offsets or args.speaker_diarization,
    )


def _add_shared(config: Any, args: argparse.Namespace) -> Any:
    riva.client.add_word_boosting_to_config(config, args.boosted_lm_words, args.boosted_lm_score)
    riva.client.add_speaker_diarization_to_config(
        config, args.speaker_diarization, args.diarization_max_speakers
    )
    riva.client.add_endpoint_parameters_to_config(
        config,
        args.start_history,
        args.start_threshold,
        args.stop_history,
        args.stop_history_eou,
        args.stop_threshold,
        args.stop_threshold_eou,
    )
    riva.client.add_custom_configuration_to_config(config, args.custom_configuration)
    return config


def _models(service: Any, kind: str) -> str:
    """Printed by ``--list-models``."""
    answer = service.stub.GetRivaSpeechRecognitionConfig(
        RivaSpeechRecognitionConfigRequest(), metadata=service.auth.get_auth_metadata()
    )
    models: dict[str, list[Any]] = {}
    for config in answer.model_config:
        if config.parameters["type"] == kind:
            models.setdefault(config.parameters["language_code"], []).append({"model": [config.model_name]})
    return json.dumps(dict(sorted(models.items())))


def _streaming(config: Any) -> Any:
    return riva.client.StreamingRecognitionConfig(config=config, interim_results=True)


def _closing(service: Any, work: Callable[[], str]) -> str:
    try:
        return work()
    finally:
        service.auth.channel.close()


def transcribe_file(argv: Sequence[str]) -> str:
    """A file in chunks, its header in the first of them; what is printed."""
    args = _streaming_parser().parse_args(argv)
    service = _service(args)

    def work() -> str:
        if args.list_models:
            return _models(service, "online")
        config = _add_shared(_streaming(_config(args)), args)
        config.config.max_alternatives = 1
        out = io.StringIO()
        delay = riva.client.sleep_audio_length if args.simulate_realtime else None
        with riva.client.AudioChunkFileIterator(
            args.input_file, args.file_streaming_chunk, delay_callback=delay
        ) as chunks:
            timed = args.word_time_offsets or args.speaker_diarization
            riva.client.print_streaming(
                service.streaming_response_generator(chunks, config),
                out,
                show_intermediate=args.show_intermediate,
                additional_info="time" if timed else "confidence" if args.print_confidence else "no",
                word_time_offsets=timed,
                speaker_diarization=args.speaker_diarization,
                seglst_output_file=args.output_seglst,
            )
        return out.getvalue()

    return _closing(service, work)


def transcribe_file_offline(argv: Sequence[str]) -> Any:
    """A whole file in one message; the response, or the list of models."""
    args = _parser().parse_args(argv)
    service = _service(args)

    def work() -> Any:
        if args.list_models:
            return _models(service, "offline")
        return service.offline_recognize(args.input_file.read_bytes(), _add_shared(_config(args), args))

    return _closing(service, work)


def riva_streaming_asr_client(argv: Sequence[str]) -> list[str]:
    """Several clients at once, each with the file some times over; what each printed."""
    parser = _streaming_parser()
    parser.add_argument("--num-clients", type=int, default=1)
    parser.add_argument("--num-iterations", type=int, default=1)
    args = parser.parse_args(argv)
    outputs: list[str] = [""] * args.num_clients
    failures: list[BaseException] = []

    def client(number: int) -> None:
        out = io.StringIO()
        try:
            service = _service(args)
            config = _add_shared(_streaming(_config(args)), args)
            riva.client.add_audio_file_specs_to_config(config, args.input_file)
            for _ in range(args.num_iterations):
                delay = riva.client.sleep_audio_length if args.simulate_realtime else None
                with riva.client.AudioChunkFileIterator(
                    args.input_file, args.file_streaming_chunk, delay_callback=delay
                ) as chunks:
                    riva.client.print_streaming(
                        service.streaming_response_generator(chunks, config),
                        out,
                        additional_info="time",
                        word_time_offsets=args.word_time_offsets,
                    )
            service.auth.channel.close()
        except (grpc.RpcError, OSError) as error:
            failures.append(error)
        outputs[number] = out.getvalue()

    threads = [threading.Thread(target=client, args=(number,)) for number in range(args.num_clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return outputs


def transcribe_mic(argv: Sequence[str], microphone: Iterator[bytes]) -> str:
    """What a microphone hears, as 16-bit samples without a header; what is printed."""
    parser = _streaming_parser()
    parser.add_argument("--sample-rate-hz", type=int, default=16_000)
    args = parser.parse_args(argv)
    service = _service(args)

    def work() -> str:
        config = _add_shared(_streaming(_config(args)), args)
        config.config.encoding = riva.client.AudioEncoding.LINEAR_PCM
        config.config.sample_rate_hertz = args.sample_rate_hz
        config.config.audio_channel_count = 1
        out = io.StringIO()
        riva.client.print_streaming(
            service.streaming_response_generator(microphone, config), out, show_intermediate=True
        )
        return out.getvalue()

    return _closing(service, work)


def microphone(path: Path, chunk_frames: int) -> Iterator[bytes]:
    """The samples of a WAV file as a microphone would give them."""
    with wave.open(str(path)) as file:
        while block := file.readframes(chunk_frames):
            yield block
