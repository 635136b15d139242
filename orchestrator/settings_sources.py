"""The layers that settings come from, as pydantic-settings sources that remember where each value stood.

Each source checks its keys against the settings class, so that a misspelt key is reported with its own file,
variable or option, and with the nearest known key. Values are checked later, by the settings class.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Final, Literal, Union, get_args, get_origin

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from orchestrator.errors import ConfigurationError

ENVIRONMENT_PREFIX: Final = "SPARK_SPEECH__"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value came from: ``name`` is the file's path, the variable's name or the option."""

    kind: Literal["default", "file", "environment", "command line"]
    name: str | None = None

    def __str__(self) -> str:
        return self.kind if self.name is None else f"{self.kind} {self.name}"


DEFAULT: Final = Origin("default")


class LayerSource(PydanticBaseSettingsSource):
    """One layer of settings, filled by its subclass through `assign`.

    Attributes:
        origins: dotted key to where this layer got it from.
    """

    def __init__(self, settings_cls: type[BaseSettings]) -> None:
        super().__init__(settings_cls)
        self.origins: dict[str, Origin] = {}
        self._tree: dict[str, Any] = {}

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """The layer's value of a top-level field."""
        return self._tree.get(field_name), field_name, False

    def __call__(self) -> dict[str, Any]:
        """The layer as nested dictionaries."""
        return self._tree

    def assign(self, path: Sequence[str], value: object, origin: Origin) -> None:
        """Set the key at ``path``; a string for a section or a container is read as a TOML or JSON literal.

        Raises:
            ConfigurationError: the settings class has no such key, or a literal cannot be read.
        """
        model: type[BaseModel] = self.settings_cls
        for depth, part in enumerate(path, start=1):
            field = model.model_fields.get(part)
            if field is None:
                break
            rest = path[depth:]
            annotation, optional = _without_none(field.annotation)
            if isinstance(annotation, type) and issubclass(annotation, BaseModel):
                if not rest:
                    self._assign_entries(path, value, origin)
                    return
                model = annotation
            elif get_origin(annotation) is dict:
                if not rest:
                    self._assign_entries(path, value, origin)
                    return
                if len(rest) == 1:
                    if isinstance(value, str) and get_args(annotation)[1] not in (str, SecretStr):
                        value = _literal(value, ".".join(path), origin)
                    self._put(path, value, origin)
                    return
                break
            elif rest:
                break
            else:
                if optional and value == "":
                    value = None
                elif get_origin(annotation) in (list, tuple, set, frozenset) and isinstance(value, str):
                    value = _literal(value, ".".join(path), origin)
                self._put(path, value, origin)
                return
        raise self._unknown(".".join(path), origin)

    def _assign_entries(self, path: Sequence[str], value: object, origin: Origin) -> None:
        key = ".".join(path)
        if isinstance(value, str):
            value = _literal(value, key, origin)
        if not isinstance(value, Mapping):
            raise ConfigurationError(
                f"{key} ({origin}) is a table of keys, not a single value",
                fix=f"name the key too, as in {key}.NAME.",
            )
        if not value:  # written, if only to say that there is nothing
            node = self._tree
            for part in path:
                node = node.setdefault(part, {})
            self.origins.setdefault(key, origin)
        for name, entry in value.items():
            self.assign((*path, str(name)), entry, origin)

    def _put(self, path: Sequence[str], value: object, origin: Origin) -> None:
        node = self._tree
        for part in path[:-1]:
            node = node.setdefault(part, {})
        node[path[-1]] = value
        self.origins[".".join(path)] = origin

    def _unknown(self, key: str, origin: Origin) -> ConfigurationError:
        nearest = nearest_key(key, self.settings_cls)
        hint = f"did you mean {nearest}? " if nearest else ""
        return ConfigurationError(
            f"unknown setting {key} ({origin})",
            fix=f"{hint}`spark-speech config example` lists every key.",
        )


class TomlFileSource(LayerSource):
    """``spark-speech.toml``."""

    def __init__(self, settings_cls: type[BaseSettings], path: Path) -> None:
        super().__init__(settings_cls)
        try:
            content = tomllib.loads(path.read_text(encoding="utf-8"))
        except UnicodeDecodeError as error:
            raise ConfigurationError(
                f"{path} is not UTF-8 text: byte {error.start}", fix="save it as UTF-8.", path=path
            ) from error
        except (ValueError, RecursionError) as error:  # a TOMLDecodeError ends in the line and the column
            raise ConfigurationError(
                f"{path} is not valid TOML: {error}", fix="correct that line.", path=path
            ) from error
        except FileNotFoundError as error:
            raise ConfigurationError(
                f"there is no settings file {path}",
                fix=f"`spark-speech config example > {path.name}` writes one with every default.",
                path=path,
            ) from error
        except OSError as error:
            raise ConfigurationError(
                f"cannot read the settings file {path}: {error.strerror}",
                fix="name a readable TOML file with --config.",
                path=path,
            ) from error
        for section, value in content.items():
            self.assign((section,), value, Origin("file", str(path)))


class EnvironmentSource(LayerSource):
    """Variables ``SPARK_SPEECH__SECTION__KEY``; the names' case does not matter."""

    def __init__(self, settings_cls: type[BaseSettings], environ: Mapping[str, str]) -> None:
        super().__init__(settings_cls)
        # Sorted, so that a table given whole comes before its entries given one by one.
        for name in sorted(environ):
            if name.upper().startswith(ENVIRONMENT_PREFIX):
                path = name[len(ENVIRONMENT_PREFIX) :].lower().split("__")
                self.assign(path, environ[name], Origin("environment", name))


class CommandLineSource(LayerSource):
    """``--set section.key=value``, in order."""

    def __init__(self, settings_cls: type[BaseSettings], overrides: Sequence[str]) -> None:
        super().__init__(settings_cls)
        for number, override in enumerate(overrides, start=1):
            key, equals, value = override.partition("=")
            if not equals or not key.strip():
                # The text itself is not repeated: it may be a secret whose key was forgotten.
                raise ConfigurationError(
                    f"--set number {number} is not of the form SECTION.KEY=VALUE",
                    fix="for instance --set server.http_port=9000.",
                )
            key = key.strip()
            self.assign(key.split("."), value, Origin("command line", f"--set {key}"))


def known_keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every dotted key of a settings class, in order; a table of free names counts as one key."""
    for name, field in model.model_fields.items():
        annotation, _ = _without_none(field.annotation)
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield from known_keys(annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def nearest_key(key: str, model: type[BaseModel]) -> str | None:
    """The known key most like a misspelt one; one word of a key counts for it (``server.prot``)."""
    meant: dict[str, str] = {}
    for known in known_keys(model):
        section, _, name = known.rpartition(".")
        for alias in (known, *(f"{section}.{word}" for word in name.split("_"))):
            meant.setdefault(alias, known)
    found = get_close_matches(key, list(meant), n=1, cutoff=0.5)
    return meant[found[0]] if found else None


def leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Dotted keys and values of nested dictionaries, in order; an empty dictionary is a value."""
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _without_none(annotation: Any) -> tuple[Any, bool]:
    """``X | None`` as ``(X, True)``, anything else as ``(annotation, False)``."""
    if get_origin(annotation) in (Union, UnionType):
        members = [member for member in get_args(annotation) if member is not NoneType]
        if len(members) == 1 and len(members) < len(get_args(annotation)):
            return members[0], True
    return annotation, False


def _literal(text: str, key: str, origin: Origin) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(
            f"{key} ({origin}) is neither a JSON nor a TOML literal",
            fix=f'write it as in {key}={{name = "value"}}, or name one entry: {key}.NAME=VALUE.',
        ) from error
