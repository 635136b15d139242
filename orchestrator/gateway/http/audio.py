"""``/v1/audio``: transcriptions and, where they would be, translations."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from time import monotonic
from typing import Final

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from orchestrator.errors import SpeechError
from orchestrator.gateway.http import form, openapi, render
from orchestrator.gateway.http.errors import CLIENT_GONE, ApiError, as_api_error, refuse
from orchestrator.gateway.http.fields import TranscriptionRequest, parse
from orchestrator.gateway.http.form import Form, FormLimits
from orchestrator.gateway.http.sse import EventStream
from orchestrator.gateway.http.state import Note, Shared, caller_of, note_of, shared_of
from orchestrator.gateway.http.work import HEAD_START_S, ClientGoneError, Work
from orchestrator.transcript.models import Transcript

router: Final = APIRouter()


@router.post(
    "/v1/audio/transcriptions",
    summary="Write down what was said in a recording",
    responses=openapi.TRANSCRIPTION_RESPONSES,
    openapi_extra=openapi.TRANSCRIPTION_BODY,
    response_class=Response,
)
async def transcriptions(request: Request) -> Response:
    """OpenAI's endpoint; `docs/gateway.md` says what each field does here."""
    shared, note = shared_of(request), note_of(request)
    with ExitStack() as held:
        held.enter_context(caller_of(request).request())
        held.enter_context(shared.admission.admit())
        sent = held.enter_context(await _receive(request, shared))
        note.bytes_in = sent.size
        asked = parse(sent.fields)
        if sent.path is None:
            raise refuse(form.FILE_FIELD, "The recording is missing.", "missing_required_parameter")
        job = _transcribe(shared, note, sent, asked)
        # From here on the work holds the place and the file, until it ends.
        work = Work(job, request.receive, shared.admission, held.pop_all())
    if asked.stream:
        return await _stream(work, asked, note)
    async with work:
        transcript = await work.result()
    if transcript is None:
        raise RuntimeError("a wait without a limit ended without a result")
    if asked.response_format in ("text", "srt", "vtt"):
        content, media_type = render.as_text(transcript, asked.response_format)
        return Response(content, media_type=media_type)
    return JSONResponse(render.as_json(transcript, asked))


@router.post(
    "/v1/audio/translations",
    summary="Refused: no engine here translates",
    responses=openapi.errors(501),
    response_class=Response,
)
async def translations() -> Response:
    """OpenAI's endpoint for translation into English."""
    raise ApiError(
        "No engine here translates; /v1/audio/transcriptions writes down the language that is spoken.",
        status=501,
        code="unsupported_operation",
    )


async def _receive(request: Request, shared: Shared) -> Form:
    limits = FormLimits(shared.settings.max_upload_bytes, shared.settings.upload_timeout_s)
    async with shared.admission.until_expired():
        return await form.receive(request.headers, request.stream(), shared.spool, limits)


async def _transcribe(shared: Shared, note: Note, sent: Form, asked: TranscriptionRequest) -> Transcript:
    if sent.path is None:
        raise RuntimeError("there is no recording to transcribe")
    started = monotonic()
    transcript = await shared.service.transcribe(sent.path, asked.job)
    note.work_s, note.audio_s = monotonic() - started, transcript.duration
    shared.metrics.transcribed(note.audio_s, note.work_s)
    return transcript


async def _stream(work: Work, asked: TranscriptionRequest, note: Note) -> Response:
    """The stream's answer, once there is a result, an error (which is raised), or too long nothing."""
    try:
        await work.result(HEAD_START_S)
    except BaseException:
        async with work:
            raise

    def failed(error: SpeechError) -> None:
        note.error = CLIENT_GONE if isinstance(error, ClientGoneError) else as_api_error(error).code

    return EventStream(work, partial(render.events, request=asked), failed)
