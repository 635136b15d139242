from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.gateway.http.errors import ApiError
from orchestrator.gateway.http.fields import OPENAI_MODELS, RESPONSE_FORMATS, parse
from orchestrator.gateway.service import Job


def asked(**fields: str | list[str]) -> Any:
    listed = {name: [value] if isinstance(value, str) else value for name, value in fields.items()}
    return parse({"model": ["auto"]} | listed)


def test_defaults() -> None:
    request = asked()
    assert request.job == Job()
    assert (request.response_format, request.stream) == ("json", False)


@pytest.mark.parametrize("name", OPENAI_MODELS)
def test_openais_models_mean_auto(name: str) -> None:
    assert asked(model=name).job.model == "auto"


def test_other_models_and_languages_are_passed_on() -> None:
    request = asked(model="parakeet", language="de-CH")
    assert (request.job.model, request.job.language) == ("parakeet", "de-CH")
    assert parse({"language": ["de"]}).job == Job(language="de")


@pytest.mark.parametrize("fields", [{}, {"model": [""]}, {"model": [" "], "language": [""]}])
def test_neither_model_nor_language(fields: dict[str, list[str]]) -> None:
    with pytest.raises(ApiError) as caught:
        parse(fields)
    assert (caught.value.status, caught.value.code) == (400, "missing_required_parameter")


@pytest.mark.parametrize(
    ("form", "speakers"),
    [
        ("json", "none"),
        ("text", "none"),
        ("verbose_json", "none"),
        ("srt", "if possible"),
        ("vtt", "if possible"),
        ("diarized_json", "required"),
    ],
)
def test_only_formats_with_speakers_are_diarized(form: str, speakers: str) -> None:
    assert asked(response_format=form).job.speakers == speakers


def test_a_number_of_speakers() -> None:
    job = asked(response_format="srt", num_speakers="3").job
    assert (job.num_speakers, job.speakers) == (3, "required")


@pytest.mark.parametrize("name", ["timestamp_granularities", "timestamp_granularities[]"])
def test_granularities(name: str) -> None:
    both = asked(response_format="verbose_json", **{name: ["word", "segment"]})
    assert both.granularities == {"word", "segment"}
    assert asked(response_format="verbose_json", **{name: ["word"]}).granularities == {"word"}
    assert asked(response_format="verbose_json").granularities == {"segment"}


def test_what_cannot_change_the_result_is_accepted() -> None:
    assert asked(temperature="0", chunking_strategy="auto", prompt="", stream="false") == asked()
    assert asked(temperature="0.0") == asked()


@pytest.mark.parametrize("text", ["true", "True", "1"])
def test_stream(text: str) -> None:
    assert asked(stream=text).stream


@pytest.mark.parametrize(
    ("param", "fields"),
    [
        ("prompt", {"prompt": "Names: Ada"}),
        ("temperature", {"temperature": "0.2"}),
        ("temperature", {"temperature": "-1"}),
        ("temperature", {"temperature": "nan"}),
        ("temperature", {"temperature": "warm"}),
        ("response_format", {"response_format": "xml"}),
        ("response_format", {"response_format": "srt", "stream": "true"}),
        ("response_format", {"response_format": "verbose_json", "stream": "true"}),
        ("timestamp_granularities", {"timestamp_granularities[]": "word"}),
        ("timestamp_granularities", {"response_format": "verbose_json", "timestamp_granularities": "x"}),
        ("stream", {"stream": "maybe"}),
        ("chunking_strategy", {"chunking_strategy": '{"type": "server_vad"}'}),
        ("chunking_strategy", {"chunking_strategy[type]": "server_vad"}),
        ("known_speaker_names", {"known_speaker_names[]": ["Ada", "Bob"]}),
        ("known_speaker_references", {"known_speaker_references[]": "data:audio/wav;base64,AAAA"}),
        ("include", {"include[]": "logprobs"}),
        ("keywords", {"keywords[]": "Ada"}),
        ("languages", {"languages[]": ["en", "de"]}),
        ("num_speakers", {"num_speakers": "2"}),
        ("num_speakers", {"num_speakers": "2", "response_format": "verbose_json"}),
        ("num_speakers", {"num_speakers": "0", "response_format": "srt"}),
        ("num_speakers", {"num_speakers": "²", "response_format": "srt"}),
        ("num_speakers", {"num_speakers": "1e3", "response_format": "srt"}),
        ("language", {"language": "English please"}),
        ("language", {"language": "e"}),
        ("language", {"language": ["en", "de"]}),
        ("model", {"model": ["auto", "echo"]}),
        ("model", {"model": "a\nb"}),
        ("tempature", {"tempature": "0"}),
    ],
)
def test_what_cannot_be_done_is_refused_by_its_name(param: str, fields: dict[str, Any]) -> None:
    with pytest.raises(ApiError) as caught:
        asked(**fields)
    assert (caught.value.status, caught.value.param) == (400, param)


@given(
    st.dictionaries(
        st.one_of(
            st.sampled_from(
                ["model", "language", "response_format", "stream", "temperature", "num_speakers", "[]"]
            ),
            st.text(max_size=8),
        ),
        st.lists(st.one_of(st.text(max_size=8), st.sampled_from(RESPONSE_FORMATS)), max_size=3),
        max_size=6,
    )
)
def test_any_fields_are_a_request_or_a_400(fields: dict[str, list[str]]) -> None:
    status = None
    try:
        parse(fields)
    except ApiError as error:
        status = error.status
    assert status in (None, 400)
