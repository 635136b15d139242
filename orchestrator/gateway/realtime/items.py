"""What was heard as the events of conversation items: one an utterance, or one from commit to commit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, Final

from orchestrator.client.stream.events import Final as FinalEvent
from orchestrator.client.stream.events import Partial, StreamEvent
from orchestrator.gateway.realtime.events import TRANSCRIPTION, Event, event, new_id
from orchestrator.gateway.realtime.session import Setup
from orchestrator.gateway.riva.text import Writer
from orchestrator.transcript.models import Word

_MS_PER_S: Final = 1000
_NOBODY: Final = 0


class Items:
    """The items of one stream.

    In NIM's protocol a delta is the whole utterance as it is known now, and the next replaces it. In OpenAI's
    it is what comes after the deltas before it, so only words that two partial results agree on are told
    before they are final.
    """

    def __init__(self, setup: Setup, *, openai: bool) -> None:
        """Begin without an item; ``openai`` chooses the protocol."""
        self._setup = setup
        self._openai = openai
        self._writer = Writer(setup.ask.text)
        self._tags: dict[str, int] = {}
        self._offset_s = 0.0
        self._item: str | None = None
        self._before: str | None = None
        self._settled: list[Word] = []
        self._told: list[str] = []
        self._last_seen: list[str] = []
        self._announced = False
        self._heard_s = 0.0

    @property
    def item(self) -> str:
        """The identifier of the item in progress."""
        if self._item is None:
            self._item = new_id("item")
        return self._item

    def committed(self) -> Event:
        """The answer to a commit."""
        return event("input_audio_buffer.committed", item_id=self.item, previous_item_id=self._before)

    def tell(self, events: Sequence[StreamEvent], language: str | None, received_s: float) -> list[Event]:
        """Finals in order, then the latest partial if it is newer.

        Args:
            events: what happened.
            language: BCP-47 tag of what is spoken.
            received_s: audio taken in so far, in seconds.

        Raises:
            RpcError: profanity is to be hidden, and there is no list of the language.
        """
        said: list[Event] = []
        last = next((each for each in reversed(events) if isinstance(each, FinalEvent | Partial)), None)
        for each in events:
            if isinstance(each, FinalEvent):
                said += self._final(each, language, received_s)
            elif isinstance(each, Partial) and (each is last or self._openai):
                said += self._partial(each, language)
        return said

    def close(self, received_s: float) -> list[Event]:
        """End the item that commits end: the answer to a commit where they do."""
        committed = [self.committed(), self._added()] if self._openai else [self.committed()]
        return committed + self._completed(self._settled, received_s)

    def ended(self, said: list[Event], received_s: float) -> list[Event]:
        """``said`` as the end of the stream: the last item is marked, an empty one if there is none."""
        kind = f"{TRANSCRIPTION}.completed"
        if self._setup.by_hand and (self._settled or self._told):
            said = said + self._completed(self._settled, received_s)
        if not said or said[-1]["type"] != kind:
            said = said + self._completed([], received_s)
        said[-1]["is_last_result"] = True
        return said

    def restart(self, at_s: float) -> None:
        """The stream begins anew ``at_s`` seconds into the audio; what was not final is dropped."""
        self._offset_s = at_s
        self._tags = {f"{name}@{at_s}": tag for name, tag in self._tags.items()}  # new names, new tags
        self._next()

    def _partial(self, partial: Partial, language: str | None) -> list[Event]:
        words = self._settled + self._written(partial.segment.words, language)
        if not words:
            return []
        said = self._begun(words)
        if not self._openai:
            return [*said, self._delta("".join(f"{word.text} " for word in words))]
        seen = [word.text for word in words]
        agreed = _common(seen, self._last_seen)[:-1]  # the last word may be one half of one
        self._last_seen = seen
        return said + self._more(agreed)

    def _final(self, final: FinalEvent, language: str | None, received_s: float) -> list[Event]:
        words = self._written(final.segment.words, language)
        if not words:
            return []
        said = self._begun(self._settled + words)
        if self._setup.by_hand:
            self._settled += words
            texts = [word.text for word in self._settled]
            self._last_seen = texts
            return said + (self._more(texts) if self._openai else [])
        if self._openai:
            said += self._more([word.text for word in words])
            end_ms = round(words[-1].end * _MS_PER_S)
            said += [
                event("input_audio_buffer.speech_stopped", audio_end_ms=end_ms, item_id=self.item),
                self.committed(),
                self._added(),
            ]
        return said + self._completed(words, received_s)

    def _begun(self, words: Sequence[Word]) -> list[Event]:
        if self._announced or not self._openai or self._setup.by_hand:
            return []
        self._announced = True
        start_ms = round(words[0].start * _MS_PER_S)
        return [event("input_audio_buffer.speech_started", audio_start_ms=start_ms, item_id=self.item)]

    def _more(self, texts: Sequence[str]) -> list[Event]:
        """A delta of what ``texts`` say beyond what was told; none where they contradict it."""
        known = len(self._told)
        if len(texts) <= known or list(texts[:known]) != self._told:
            return []
        self._told = list(texts)
        more = " ".join(texts[known:])
        return [self._delta(f" {more}" if known else more)]

    def _delta(self, text: str) -> Event:
        return event(f"{TRANSCRIPTION}.delta", item_id=self.item, content_index=0, delta=text)

    def _completed(self, words: Sequence[Word], received_s: float) -> list[Event]:
        said: list[Event] = []
        if self._openai and self._setup.ask.max_speakers is not None:
            said += self._segments(words)
        text = " ".join(word.text for word in words)
        said.append(
            event(
                f"{TRANSCRIPTION}.completed",
                item_id=self.item,
                content_index=0,
                # Clients of NIM put transcripts one after another as they are.
                transcript=text if self._openai or not text else f"{text} ",
                is_last_result=False,
                words_info={"words": self._infos(words)},
                usage={"type": "duration", "seconds": round(received_s - self._heard_s, 3)},
            )
        )
        self._heard_s = received_s
        self._next()
        return said

    def _added(self) -> Event:
        content = [{"type": "input_audio", "transcript": None}]
        item = {
            "id": self.item,
            "object": "realtime.item",
            "type": "message",
            "status": "completed",
            "role": "user",
            "content": content,
        }
        return event("conversation.item.added", previous_item_id=self._before, item=item)

    def _segments(self, words: Sequence[Word]) -> Iterator[Event]:
        for tag, part in groupby(words, key=self._tag):
            spoken = list(part)
            yield event(
                f"{TRANSCRIPTION}.segment",
                id=new_id("seg"),
                item_id=self.item,
                content_index=0,
                speaker="unknown" if tag == _NOBODY else f"speaker_{tag}",
                start=round(spoken[0].start, 3),
                end=round(spoken[-1].end, 3),
                text=" ".join(word.text for word in spoken),
            )

    def _infos(self, words: Sequence[Word]) -> list[dict[str, Any]]:
        if not self._setup.ask.word_times:
            return []
        return [
            {
                "word": word.text,
                "start_time": round(word.start * _MS_PER_S),
                "end_time": round(word.end * _MS_PER_S),
                "confidence": round(word.confidence, 4),
                "speaker_tag": self._tag(word),
            }
            for word in words
        ]

    def _tag(self, word: Word) -> int:
        if word.speaker is None or self._setup.ask.max_speakers is None:
            return _NOBODY
        return self._tags.setdefault(word.speaker, len(self._tags) + 1)

    def _written(self, words: Sequence[Word], language: str | None) -> list[Word]:
        moved = words
        if self._offset_s:
            moved = [
                word.model_copy(
                    update={"start": word.start + self._offset_s, "end": word.end + self._offset_s}
                )
                for word in words
            ]
        return self._writer.words(moved, language)

    def _next(self) -> None:
        self._before, self._item = self._item or self._before, None
        self._settled, self._told, self._last_seen = [], [], []
        self._announced = False


def _common(left: Sequence[str], right: Sequence[str]) -> list[str]:
    """The words that both begin with."""
    return [mine for mine, _ in _equal(left, right)]


def _equal(left: Sequence[str], right: Sequence[str]) -> Iterator[tuple[str, str]]:
    for pair in zip(left, right, strict=False):
        if pair[0] != pair[1]:
            return
        yield pair
