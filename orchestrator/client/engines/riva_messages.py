"""Riva's recognition messages: what is asked, and what an answer says. Pure.

The messages are those of ``nvidia.riva.asr`` in the ``nvidia-riva-client`` package. Times of words are whole
milliseconds from the start of the audio; words come with finals only.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import numpy as np
from riva.client.proto.riva_asr_pb2 import (
    EndpointingConfig,
    RecognitionConfig,
    RecognizeResponse,
    RivaSpeechRecognitionConfigResponse,
    SpeakerDiarizationConfig,
    SpeechContext,
    SpeechRecognitionAlternative,
)
from riva.client.proto.riva_audio_pb2 import AudioEncoding

from orchestrator.client.catalog import ModelCard
from orchestrator.client.routing.rules import MANY_LANGUAGES
from orchestrator.contract import SAMPLE_RATE_HZ, Task
from orchestrator.diarization.base import Diarization, DiarizationOptions, SpeakerTurn
from orchestrator.engines.base import Recognition, RecognizedWord, Samples
from orchestrator.engines.checks import primary_tag
from orchestrator.engines.endpointing import EndpointingOptions
from orchestrator.engines.spread import CONFIDENCE, spread_over
from orchestrator.settings_engines import RivaSettings

ENGINE: Final = "riva"
DIARIZER: Final = f"{ENGINE}/diarizer"
MULTI: Final = "multi"
"""A Riva model's language code that stands for many."""
_CHUNK_MS: Final = 160
"""A live stream's messages: the low-latency mode of Riva's own benchmarks."""
_TURN_GAP_MS: Final = 1000
"""A speaker's words that are further apart are two turns."""
_ENDPOINTING: Final = (
    ("start_history", "start_history_ms"),
    ("start_threshold", "start_threshold"),
    ("stop_history", "stop_history_ms"),
    ("stop_threshold", "stop_threshold"),
    ("stop_history_eou", "stop_history_eou_ms"),
    ("stop_threshold_eou", "stop_threshold_eou"),
)
"""Riva's field and ours."""


def name_of(model: str) -> str:
    """The server's name of a card's model."""
    return model.removeprefix(f"{ENGINE}/")


def cards(listed: RivaSpeechRecognitionConfigResponse, settings: RivaSettings) -> tuple[ModelCard, ...]:
    """A card for each model that the server lists, and one for its speakers where it takes recordings."""
    found: dict[tuple[str, Task], ModelCard] = {}
    for model in listed.model_config:
        told = {key.lower(): value for key, value in model.parameters.items()}
        live = told.get("type", "").lower() == "online" or (
            "type" not in told and told.get("streaming", "").lower() == "true"
        )
        codes = tuple(code.strip() for code in told.get("language_code", "").split(",") if code.strip())
        languages = tuple(MANY_LANGUAGES if code.lower() == MULTI else code for code in codes)
        task = Task.STREAM if live else Task.RECOGNIZE
        before = found.get((model.model_name, task))
        if before is not None:  # one name with several languages comes once for each
            languages = tuple(dict.fromkeys((*before.languages, *languages)))
        found[model.model_name, task] = ModelCard(
            name=f"{ENGINE}/{model.model_name}",
            ready=True,
            versions=("1",),
            task=task,
            engine=ENGINE,
            languages=languages or (MANY_LANGUAGES,),
            max_window_s=float("inf") if live else settings.window_s,
            rank=settings.rank,
            chunk_ms=_CHUNK_MS if live else 0,
            max_streams=settings.max_concurrency if live else 0,
            takes_pcm16=True,
            max_in_flight=settings.max_concurrency,
        )
    if any(task is Task.RECOGNIZE for _, task in found):
        found["", Task.DIARIZE] = ModelCard(
            name=DIARIZER,
            ready=True,
            versions=("1",),
            task=Task.DIARIZE,
            engine=ENGINE,
            rank=settings.rank,
            max_in_flight=settings.max_concurrency,
            embeds=False,
        )
    return tuple(found.values())


def language_code(card: ModelCard | None, language: str | None) -> str:
    """What to call a language to the server: its own code for it, such as ``en-US`` for ``en``."""
    known = () if card is None else card.languages
    many = MANY_LANGUAGES in known
    if language is None:
        if many:
            return MULTI
        return known[0] if len(known) == 1 else ""
    wanted = language.replace("_", "-").lower()
    for code in known:
        if code.lower() == wanted:
            return code
    for code in known:
        if code != MANY_LANGUAGES and primary_tag(code) == primary_tag(language):
            return code
    return MULTI if many else language


def config(
    settings: RivaSettings,
    model: str,
    language: str,
    *,
    speakers: int | None = None,
    endpointing: EndpointingOptions | None = None,
) -> RecognitionConfig:
    """What is asked of a recording or a stream of 16-bit samples at 16 kHz.

    Args:
        settings: punctuation, boosting.
        model: the server's name; empty: it chooses.
        language: the server's code.
        speakers: tell so many apart at most; None: none.
        endpointing: what differs from Riva's own defaults is sent.
    """
    made = RecognitionConfig(
        encoding=AudioEncoding.LINEAR_PCM,
        sample_rate_hertz=SAMPLE_RATE_HZ,
        language_code=language,
        max_alternatives=1,
        audio_channel_count=1,
        enable_word_time_offsets=True,
        enable_automatic_punctuation=settings.punctuation,
        verbatim_transcripts=settings.verbatim,
        model=model,
    )
    if settings.boosted_words:
        made.speech_contexts.append(SpeechContext(phrases=settings.boosted_words, boost=settings.boost))
    if speakers is not None:
        made.diarization_config.CopyFrom(
            SpeakerDiarizationConfig(enable_speaker_diarization=True, max_speaker_count=speakers)
        )
    if endpointing is not None:
        usual = EndpointingOptions()
        given = {
            theirs: value
            for theirs, ours in _ENDPOINTING
            if (value := getattr(endpointing, ours)) is not None and value != getattr(usual, ours)
        }
        if given:
            made.endpointing_config.CopyFrom(EndpointingConfig(**given))
    return made


def recognition(response: RecognizeResponse, samples: Samples, language: str | None) -> Recognition:
    """The words of a recording, ``samples`` (float32, 16 kHz); spread over its sound without times."""
    best = [result.alternatives[0] for result in response.results if result.alternatives]
    spoken = spoken_language(best) or ("" if language is None else primary_tag(language))
    words = tuple(_in_order(word for one in best for word in timed(one)))
    texts = [text for one in best for text in one.transcript.split()]
    if words or not texts:
        return Recognition(words, spoken, times_estimated=False)
    return Recognition(tuple(spread_over(texts, samples)), spoken, times_estimated=True)


def timed(alternative: SpeechRecognitionAlternative) -> Iterator[RecognizedWord]:
    """The words that have times; their confidence is that of the whole where they have none of their own."""
    for word in alternative.words:
        if word.word.strip():
            sure = word.confidence or alternative.confidence
            start, end = max(0, word.start_time), max(0, word.start_time, word.end_time)
            yield RecognizedWord(word.word.strip(), start, end, confidence(sure))


def confidence(value: float) -> float:
    """A confidence of Riva's as one of ours; a model that measures none says 0."""
    return CONFIDENCE if not value > 0 else min(value, 1.0)


def spoken_language(alternatives: Iterable[SpeechRecognitionAlternative]) -> str:
    """The first language that an answer names, as a primary tag; empty where it names none."""
    named = [code for one in alternatives for code in one.language_code if code and code.lower() != MULTI]
    return primary_tag(named[0]) if named else ""


def diarization(response: RecognizeResponse) -> Diarization:
    """Who spoke when, from the speakers of the words; Riva gives no embeddings, so they are NaN."""
    tagged = [
        (word.speaker_tag, max(0, word.start_time), max(0, word.start_time, word.end_time))
        for result in response.results
        if result.alternatives
        for word in result.alternatives[0].words
        if word.speaker_tag > 0
    ]
    tagged.sort(key=lambda row: row[1])
    order = {tag: number for number, tag in enumerate(dict.fromkeys(tag for tag, _, _ in tagged))}
    turns: list[SpeakerTurn] = []
    for tag, start, end in tagged:
        last = turns[-1] if turns else None
        if last is not None and last.speaker == order[tag] and start - last.end_ms <= _TURN_GAP_MS:
            turns[-1] = SpeakerTurn(last.start_ms, max(last.end_ms, end), last.speaker)
        else:
            turns.append(SpeakerTurn(start, end, order[tag]))
    return Diarization(tuple(turns), tuple(_apart(turns)), np.full((len(order), 1), np.nan, dtype=np.float32))


def speakers_wanted(options: DiarizationOptions, settings: RivaSettings) -> int:
    """The most speakers to tell apart."""
    return options.num_speakers or options.max_speakers or settings.max_speakers


def _apart(turns: Sequence[SpeakerTurn]) -> Iterator[SpeakerTurn]:
    """Turns that end where the next one begins."""
    for turn, after in itertools.zip_longest(turns, turns[1:]):
        end = turn.end_ms if after is None else min(turn.end_ms, after.start_ms)
        if end > turn.start_ms:
            yield SpeakerTurn(turn.start_ms, end, turn.speaker)


def _in_order(words: Iterable[RecognizedWord]) -> Iterator[RecognizedWord]:
    """Starts never go back, whatever the server says."""
    last = 0
    for word in words:
        start = max(last, word.start_ms)
        yield RecognizedWord(word.text, start, max(start, word.end_ms), word.confidence)
        last = start
