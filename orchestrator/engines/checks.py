"""What engines check alike, options and languages, and how they name another library's fault."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeVar

from pydantic import BaseModel, ValidationError

from orchestrator.engines.base import EngineSource
from orchestrator.errors import ConfigurationError, UnsupportedLanguageError

Options = TypeVar("Options", bound=BaseModel)

_REASON_CHARACTERS: Final = 300


def options_in(source: EngineSource, kind: type[Options], engine: str) -> Options:
    """The engine's options.

    Raises:
        ConfigurationError: an unknown or invalid one.
    """
    try:
        return kind.model_validate(source.options)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        raise ConfigurationError(
            f"The option {name!r} of the engine {engine}: {first['msg']}.",
            fix=f"the options are {', '.join(kind.model_fields)}.",
            model=engine,
        ) from error


def primary_tag(language: str) -> str:
    """``en`` of ``en-US`` or ``EN_us`` (BCP-47, RFC 5646: the primary subtag comes first)."""
    return language.strip().replace("_", "-").split("-")[0].lower()


def language_in(known: Sequence[str], requested: str | None, model: str) -> str:
    """The primary tag of ``requested``, or the first of ``known`` where nothing was asked for.

    Raises:
        UnsupportedLanguageError: it is not one of ``known``.
    """
    if requested is None:
        return known[0]
    language = primary_tag(requested)
    if language not in known:
        raise UnsupportedLanguageError(
            f"The model {model} does not know the language {requested!r}.",
            fix=f"use one of {', '.join(known)}, or name no language.",
            model=model,
        )
    return language


def reason_of(error: BaseException) -> str:
    """The first line of what another library says, of a readable length; its class where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:_REASON_CHARACTERS]
