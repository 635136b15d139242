from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import srt
import webvtt
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.errors import TranscriptFormatError
from orchestrator.transcript import Segment, Transcript, Turn, Word, formats
from orchestrator.transcript.formats.cues import LINE_CHARACTERS, LONGEST_MS, PAUSE_MS, cues, wrap
from orchestrator.transcript.formats.plain import clock

# Words as recognisers give them, and some that try to break a format.
words_text = st.one_of(
    st.sampled_from(
        ["hello", "so,", "yes.", "what?", "naïve", "漢字", "a&b", "<i>", "-->", "1", ";;", "[x]", "S:"]
    ),
    st.text(st.characters(codec="utf-8", exclude_categories=["Z", "C"]), min_size=1, max_size=12),
)
speakers = st.one_of(
    st.none(), st.sampled_from(["Speaker 1", "Speaker_1", "Ann & Bob", "<x>", "unknown", "Zoë"])
)


@st.composite
def transcripts(draw: st.DrawFn, *, with_words: bool = True) -> Transcript:
    segments = []
    at = draw(st.integers(0, 100_000_000))
    for speaker, texts in draw(
        st.lists(st.tuples(speakers, st.lists(words_text, min_size=1, max_size=25)), max_size=5)
    ):
        words = []
        for text in texts:
            start = at + draw(st.integers(0, 2_500))
            at = start + draw(st.integers(0, 900))
            confidence = draw(st.integers(0, 10_000)) / 10_000
            words.append(
                Word(
                    text=text,
                    start=start / 1000,
                    end=at / 1000,
                    confidence=confidence,
                    speaker=speaker,
                    channel=0,
                )
            )
        segments.append(
            Segment(
                start=words[0].start,
                end=words[-1].end,
                text=" ".join(texts),
                speaker=speaker,
                words=tuple(words) if with_words else (),
            )
        )
    turns = tuple(
        Turn(start=segment.start, end=segment.end, speaker=segment.speaker)
        for segment in segments
        if segment.speaker
    )
    return Transcript(
        source="team meeting.wav",
        duration=(at + 1000) / 1000,
        language="en",
        engine="moonshine",
        segments=tuple(segments),
        turns=turns,
        exclusive_turns=turns,
    )


def in_a_file(text: str, suffix: str, read: Callable[[Path], object]) -> object:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"t{suffix}"
        path.write_text(text, encoding="utf-8")
        return read(path)


HELLO = Transcript(
    source="call.wav",
    duration=4.0,
    segments=(
        Segment(
            start=0.5,
            end=1.25,
            text="Hello there.",
            speaker="Speaker 1",
            words=(
                Word(text="Hello", start=0.5, end=0.9, confidence=0.5, speaker="Speaker 1", channel=0),
                Word(text="there.", start=0.9, end=1.25, confidence=0.75, speaker="Speaker 1", channel=0),
            ),
        ),
        Segment(
            start=2.0,
            end=3.5,
            text="<Hi> & bye",
            words=(
                Word(text="<Hi>", start=2.0, end=2.5),
                Word(text="&", start=2.5, end=2.7),
                Word(text="bye", start=2.7, end=3.5),
            ),
        ),
    ),
    turns=(Turn(start=0.4, end=1.3, speaker="Speaker 1"), Turn(start=1.9, end=3.6, speaker="Speaker 2")),
)

WRITTEN = {
    "txt": "[00:00.5] Speaker 1: Hello there.\n[00:02.0] <Hi> & bye\n",
    "srt": "1\n00:00:00,500 --> 00:00:01,500\nSpeaker 1: Hello there.\n\n"
    "2\n00:00:02,000 --> 00:00:03,500\n<Hi> & bye\n",
    "vtt": "WEBVTT\n\n00:00:00.500 --> 00:00:01.500\n<v Speaker 1>Hello there.\n\n"
    "00:00:02.000 --> 00:00:03.500\n&lt;Hi&gt; &amp; bye\n",
    "rttm": "SPEAKER call 1 0.400 0.900 <NA> <NA> Speaker_1 <NA> <NA>\n"
    "SPEAKER call 1 1.900 1.700 <NA> <NA> Speaker_2 <NA> <NA>\n",
    "ctm": "call 1 0.500 0.400 Hello 0.5000\ncall 1 0.900 0.350 there. 0.7500\n"
    "call 1 2.000 0.500 <Hi> 1.0000\ncall 1 2.500 0.200 & 1.0000\ncall 1 2.700 0.800 bye 1.0000\n",
    "stm": "call 1 Speaker_1 0.500 1.250 Hello there.\ncall 1 unknown 2.000 3.500 <NA> <Hi> & bye\n",
}


@pytest.mark.parametrize("name", WRITTEN)
def test_what_is_written(name: str) -> None:
    assert formats.dumps(HELLO, name) == WRITTEN[name]


def test_seglst_as_meeteval_names_its_fields() -> None:
    assert json.loads(formats.dumps(HELLO, "seglst"))[0] == {
        "session_id": "call",
        "speaker": "Speaker 1",
        "start_time": 0.5,
        "end_time": 1.25,
        "words": "Hello there.",
    }


@pytest.mark.parametrize("name", formats.names())
def test_an_empty_transcript_can_be_written_and_read(name: str) -> None:
    text = formats.dumps(Transcript(), name)
    if formats.find(name).loads:
        assert formats.loads(text, name) == Transcript()


@settings(max_examples=40, deadline=None)
@given(transcripts())
def test_json_loses_nothing(transcript: Transcript) -> None:
    assert formats.loads(formats.dumps(transcript, "json"), "json") == transcript


@settings(max_examples=40, deadline=None)
@given(transcripts())
def test_rttm_keeps_turns(transcript: Transcript) -> None:
    back = formats.loads(formats.dumps(transcript, "rttm"), "rttm")
    kept = [turn for turn in transcript.turns if turn.end > turn.start]
    assert [(turn.start, turn.end) for turn in back.turns] == [(turn.start, turn.end) for turn in kept]
    names = {(new.speaker, old.speaker) for new, old in zip(back.turns, kept, strict=True)}
    assert len({new for new, _ in names}) == len({old for _, old in names}) == len(names)
    assert formats.loads(formats.dumps(back, "rttm"), "rttm") == back


@settings(max_examples=40, deadline=None)
@given(transcripts())
def test_ctm_keeps_words(transcript: Transcript) -> None:
    back = formats.loads(formats.dumps(transcript, "ctm"), "ctm")
    plain = [(w.text, w.start, w.end, w.confidence) for w in back.words]
    assert plain == [
        ("_" + w.text[1:] if w.text.startswith(";") else w.text, w.start, w.end, w.confidence)
        for w in sorted(transcript.words, key=lambda word: word.start)
    ]
    assert formats.loads(formats.dumps(back, "ctm"), "ctm") == back


@settings(max_examples=40, deadline=None)
@given(transcripts())
def test_stm_and_seglst_keep_segments(transcript: Transcript) -> None:
    for name in ("stm", "seglst"):
        back = formats.loads(formats.dumps(transcript, name), name)
        assert [(s.start, s.end, s.text) for s in back.segments] == [
            (s.start, s.end, s.text) for s in transcript.segments
        ]
        assert [s.speaker is None for s in back.segments] == [
            s.speaker in (None, "unknown") for s in transcript.segments
        ]


@settings(max_examples=40, deadline=None)
@given(transcripts())
def test_srt_as_another_parser_reads_it(transcript: Transcript) -> None:
    found = list(srt.parse(formats.dumps(transcript, "srt")))
    wanted = cues(transcript, name_speakers=True)
    assert [(s.start.total_seconds(), s.end.total_seconds()) for s in found] == [
        pytest.approx((cue.start_ms / 1000, cue.end_ms / 1000), abs=1e-6) for cue in wanted
    ]
    assert [s.content for s in found] == ["\n".join(cue.lines).replace("-->", "→") for cue in wanted]
    assert [s.index for s in found] == list(range(1, len(found) + 1))


@settings(max_examples=40, deadline=None)
@given(transcripts())
def test_vtt_as_another_parser_reads_it(transcript: Transcript) -> None:
    text = formats.dumps(transcript, "vtt")
    assert "-->" not in "".join(line for line in text.splitlines() if not line[:1].isdigit())
    found = list(webvtt.from_buffer(io.StringIO(text)))
    wanted = cues(transcript)
    assert [(c.start_in_seconds, c.end_in_seconds) for c in found] == [
        (cue.start_ms // 1000, cue.end_ms // 1000) for cue in wanted
    ]
    for caption, cue in zip(found, wanted, strict=True):
        raw = "\n".join(cue.lines).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        assert caption.raw_text.split(">", 1)[-1] == raw if cue.speaker else caption.raw_text == raw


@settings(max_examples=40, deadline=None)
@given(transcripts())
def test_rttm_as_pyannote_reads_it(transcript: Transcript) -> None:
    database = pytest.importorskip("pyannote.database.util", reason="the serve extra is not installed")
    text = formats.dumps(transcript, "rttm")
    read = in_a_file(text, ".rttm", database.load_rttm)
    assert isinstance(read, dict)
    back = formats.loads(text, "rttm")
    tracks = [
        (segment.start, segment.end, label)
        for a in read.values()
        for segment, _, label in a.itertracks(yield_label=True)
    ]
    assert sorted(tracks) == [
        (pytest.approx(turn.start), pytest.approx(turn.end), turn.speaker)
        for turn in sorted(back.turns, key=lambda turn: (turn.start, turn.end, turn.speaker))
    ]
    assert set(read) <= {"team_meeting"}


@settings(max_examples=40, deadline=None)
@given(transcripts())
def test_scoring_formats_as_meeteval_reads_them(transcript: Transcript) -> None:
    meeteval = pytest.importorskip("meeteval.io", reason="the bench extra is not installed")
    readers = {"stm": meeteval.STM, "ctm": meeteval.CTM, "rttm": meeteval.RTTM, "seglst": meeteval.SegLST}
    for name, reader in readers.items():
        text = formats.dumps(transcript, name)
        # meeteval reads SegLST files with a JSON package that it does not ask for.
        lines = list(
            reader(json.loads(text))
            if name == "seglst"
            else in_a_file(text, formats.suffix(name), reader.load)  # type: ignore[call-overload]
        )
        back = formats.loads(text, name)
        if name == "rttm":
            found = [(float(line.begin_time), line.speaker_id) for line in lines]
            assert found == [(turn.start, turn.speaker) for turn in back.turns]
        elif name == "ctm":
            found = [
                (float(line.begin_time), float(line.begin_time + line.duration), line.word) for line in lines
            ]
            assert found == [(word.start, word.end, word.text) for word in back.words]
        elif name == "stm":
            found = [(float(line.begin_time), float(line.end_time), line.speaker_id) for line in lines]
            assert found == [(part.start, part.end, part.speaker or "unknown") for part in back.segments]
        else:
            found = [(float(line["start_time"]), float(line["end_time"]), line["words"]) for line in lines]
            assert found == [(part.start, part.end, part.text) for part in back.segments]


@settings(max_examples=40, deadline=None)
@given(transcripts(), st.booleans(), st.booleans())
def test_cues_keep_every_word_and_the_limits(transcript: Transcript, with_words: bool, named: bool) -> None:
    if not with_words:
        bare = tuple(segment.model_copy(update={"words": ()}) for segment in transcript.segments)
        transcript = transcript.model_copy(update={"segments": bare})
    found = cues(transcript, name_speakers=named)
    said = " ".join(line for cue in found for line in cue.lines)
    if not named:
        assert said == transcript.text
    for cue in found:
        assert cue.start_ms < cue.end_ms
        assert len(cue.lines) <= 2
        assert all(len(line) <= LINE_CHARACTERS or line.count(" ") <= 3 for line in cue.lines)
        assert cue.end_ms - cue.start_ms <= LONGEST_MS or " " not in " ".join(cue.lines)
    assert [cue.start_ms for cue in found] == sorted(cue.start_ms for cue in found)


def sentence(text: str, start: float = 0.0, rate: float = 0.3) -> Segment:
    words = tuple(
        Word(text=word, start=start + at * rate, end=start + (at + 1) * rate)
        for at, word in enumerate(text.split())
    )
    return Segment(start=start, end=words[-1].end, text=text, words=words)


def lines_of(*segments: Segment) -> list[str]:
    return [" / ".join(cue.lines) for cue in cues(Transcript(segments=segments))]


def test_cues_end_with_sentences_and_clauses() -> None:
    assert lines_of(sentence("We went down to the old wooden harbour at dawn. Nobody was there yet.")) == [
        "We went down to the old / wooden harbour at dawn.",
        "Nobody was there yet.",
    ]
    long = "When the boats came in at last after that night, we counted them and found that one was not there"
    assert lines_of(sentence(long, rate=0.2)) == [
        "When the boats came in / at last after that night,",
        "we counted them and found / that one was not there",
    ]
    assert lines_of(sentence("Yes. No. Yes.")) == ["Yes. No. Yes."]


def test_cues_end_before_a_pause_and_at_the_longest_duration() -> None:
    first, second = sentence("so I said"), sentence("that was it", start=1.0 + PAUSE_MS / 1000)
    joined = Segment(start=0, end=second.end, text="so I said that was it", words=first.words + second.words)
    assert lines_of(joined) == ["so I said", "that was it"]
    slow = cues(Transcript(segments=(sentence("one two three four five six", rate=2.0),)))
    assert [len(" ".join(cue.lines).split()) for cue in slow] == [3, 3]


def test_short_cues_stay_for_a_second_unless_the_next_needs_the_time() -> None:
    found = cues(
        Transcript(segments=(sentence("Yes."), sentence("No.", start=0.5), sentence("Well.", start=9)))
    )
    assert [(cue.start_ms, cue.end_ms) for cue in found] == [(0, 500), (500, 1500), (9000, 10000)]


def test_lines_are_even() -> None:
    assert wrap("a" * 42) == ("a" * 42,)
    assert wrap("one two three four five six seven eight nine ten") == (
        "one two three four five",
        "six seven eight nine ten",
    )


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "00:00.0"),
        (6.7, "00:06.7"),
        (59.96, "00:59.9"),
        (61.25, "01:01.2"),
        (3600, "1:00:00.0"),
        (36_061, "10:01:01.0"),
    ],
)
def test_the_clock(seconds: float, shown: str) -> None:
    assert clock(seconds) == shown


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("json", "{", "JSON"),
        ("json", '{"schema_version": 2}', "schema_version"),
        ("json", '{"segments": [{"start": 2, "end": 1, "text": ""}]}', "before start"),
        ("rttm", "SPEAKER a 1 x 1 <NA> <NA> s <NA> <NA>", "Line 1 is no RTTM: 'x'"),
        ("rttm", "SPEAKER a 1", "Line 1"),
        ("rttm", "SPEAKER a 1 0 nan <NA> <NA> s", "'nan'"),
        ("rttm", "SPEAKER a 1 0 1 <NA> <NA> s\n\nSPEAKER b 1 0 1 <NA> <NA> s", "Line 3 .*second recording"),
        ("ctm", "a 1 0", "3 fields where 5 belong"),
        ("ctm", "a 1 -1 1 word", "'-1'"),
        ("ctm", "a zz 1 1 word", "no channel"),
        ("ctm", "a 1 1 1 word 1.5", "more than 1"),
        ("stm", "a 1 s 5 1 words", "before its start"),
        ("seglst", "{}", "no list"),
        ("seglst", "[1]", "entry 1 is no object"),
        ("seglst", '[{"session_id": "a", "words": 5, "start_time": 0, "end_time": 1}]', "entry 1, text"),
        ("seglst", '[{"session_id": "a"}, {"session_id": "b"}]', "2 sessions"),
        ("seglst", "not json", "no JSON"),
        ("srt", "1", "cannot be read back"),
        ("yaml", "", "no transcript format 'yaml'"),
    ],
)
def test_what_cannot_be_read_is_said_with_its_place(name: str, text: str, says: str) -> None:
    with pytest.raises(TranscriptFormatError, match=says) as caught:
        formats.loads(text, name)
    assert caught.value.fix


@settings(max_examples=200)
@given(
    st.sampled_from(["json", "rttm", "ctm", "stm", "seglst"]), st.text(max_size=200), st.binary(max_size=60)
)
def test_reading_anything_gives_a_transcript_or_the_one_error(name: str, text: str, junk: bytes) -> None:
    written = formats.dumps(HELLO, name)
    for candidate in (text, written[: len(text)] + text + written[len(text) :], junk.decode("latin-1")):
        try:
            formats.loads(candidate, name)
        except TranscriptFormatError:
            continue


def test_scoring_files_of_others_are_read() -> None:
    rttm = (
        ";; a comment\nSPKR-INFO a 1 <NA> <NA> <NA> unknown s <NA>\nSPEAKER a 1 1.5 2 <NA> <NA> s <NA> <NA>\n"
    )
    assert formats.loads(rttm, "rttm").turns == (Turn(start=1.5, end=3.5, speaker="s"),)
    assert formats.loads("a A 0.1 0.2 w\na B 0 1 v NA\n", "ctm").text == "w v"
    stm = "a 1 s 0 1 <o,f0,male> hello you\na 1 s 1 2\n"
    assert [segment.text for segment in formats.loads(stm, "stm").segments] == ["hello you", ""]


def test_ctm_needs_words() -> None:
    with pytest.raises(TranscriptFormatError, match="words with times"):
        formats.dumps(Transcript(segments=(Segment(start=0, end=1, text="hi"),)), "ctm")


def test_names_and_suffixes() -> None:
    for name in formats.names():
        assert formats.name_of(f"talk{formats.suffix(name).upper()}") == name
    with pytest.raises(TranscriptFormatError, match=r"notes\.doc"):
        formats.name_of("notes.doc")
    with pytest.raises(TranscriptFormatError) as caught:
        formats.suffix("SRTT")
    assert caught.value.fix == "use srt."
