"""Reading what an operator configured.

Rules: `airloom.toml` and then `AIRLOOM_*` variables (`AIRLOOM_API__PORT=8081`), the later wins; an unknown
key is an error that names it, and a renamed one (``core.config.renamed``) an error with its present name;
nothing else in Airloom reads the environment or that file. An error shows the value that is wrong only where
the type of its place says that it is no secret.
"""

import json
import os
import stat
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, SecretStr, ValidationError

from core.config import Config
from core.config.renamed import name_now
from core.errors import ConfigurationError
from core.validation import problem_of

SHOWN_MAX = 80
"""Characters of a wrong value that are repeated."""
Place = tuple[str | int, ...]
"""Keys and numbers of items, from the outermost section on."""


def load(
    path: Path | None, environment: Mapping[str, str] = os.environ, *, roles: Sequence[str] = ()
) -> Config:
    """Read the file (if any) and the ``AIRLOOM_*`` variables; ``roles``, if there are any, win over both.

    Raises ``ConfigurationError`` with one line per mistake: key, what is wrong, what would be right.
    """
    values = _read_file(path) if path is not None else {}
    _overlay(values, environment)
    if roles:
        _overlay(values, {"AIRLOOM_NODE__ROLES": ",".join(roles)})
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ConfigurationError("\n".join(mistakes_of(error))) from None


def mistakes_of(error: ValidationError) -> list[str]:
    """A line for each: key, what is wrong, what would be right."""
    return [_explain(place, items) for place, items in _by_place(error).items()]


def exposed(path: Path | None) -> str:
    """What is wrong with the file's mode, when others may read it and it holds a secret; else empty."""
    if path is None or not (mode := stat.S_IMODE(path.stat().st_mode)) & 0o077:
        return ""
    if not (found := list(_secrets_in(_read_file(path), Config))):
        return ""
    return f"{path}: readable by others (mode {mode:o}) and contains {found[0]}; run: chmod 600 {path}"


def _read_file(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}; name a readable file with --config") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: not TOML: {error}") from error


def _overlay(values: dict[str, Any], environment: Mapping[str, str]) -> None:
    """``AIRLOOM_SECTION__KEY=value``; a comma separates the items of a list; tables are a JSON array."""
    for variable, text in environment.items():
        if not variable.startswith("AIRLOOM_"):
            continue
        section, separator, key = variable.removeprefix("AIRLOOM_").lower().partition("__")
        if not separator:  # one of a command, or of another program
            _demand_not_meant(variable, section)
            continue
        if now := name_now(f"{section}.{key}"):
            raise ConfigurationError(f"{variable}: is now {_variable_of(now)}")
        of_section = values.setdefault(section, {})
        if not isinstance(of_section, dict):
            raise ConfigurationError(f"{section}: must be a table, as in [{section}]")
        of_section[key] = _items(variable, text) if _is_list(section, key) else text


def _demand_not_meant(variable: str, name: str) -> None:
    """Raises ``ConfigurationError`` for ``AIRLOOM_API_PORT``: ignored, the operator would believe that it is
    in force.
    """
    for section in Config.model_fields:
        key = name.removeprefix(f"{section}_")
        now = name_now(f"{section}.{key}")
        if now or (key != name and key in _known_keys(section)):
            meant = _variable_of(now or f"{section}.{key}")
            raise ConfigurationError(f"{variable}: no such variable; write {meant}, with two underscores")


def _variable_of(key: str) -> str:
    """The variable of a key; of one within a table, of which there is none, that of the table."""
    section, name, *_ = key.split(".")
    return f"AIRLOOM_{section}__{name}".upper()


def _items(variable: str, text: str) -> list[Any]:
    if not text.startswith("["):
        return text.split(",")
    try:
        return list(json.loads(text))
    except json.JSONDecodeError as error:
        raise ConfigurationError(f"{variable}: not a JSON array: {error}") from error


def _is_list(section: str, key: str) -> bool:
    fields = Config.model_fields
    if section not in fields:
        return False
    annotation = fields[section].annotation
    inner = getattr(annotation, "model_fields", {}).get(key)
    return inner is not None and "tuple[" in str(inner.annotation)


def _by_place(error: ValidationError) -> dict[Place, list[Any]]:
    """What is wrong at each place; but not that a list is too short for an item of it that is wrong."""
    found: dict[Place, list[Any]] = {}
    for item in error.errors():
        found.setdefault(_place_of(item), []).append(item)
    return {
        place: items
        for place, items in found.items()
        if items[0]["type"] != "too_short" or not any(each[:-1] == place for each in found if each)
    }


def _place_of(item: Any) -> Place:
    """Without the alternative that pydantic names when a value is none of several types."""
    place: Place = item["loc"]
    is_alternative = bool(place) and get_origin(_type_at(place[:-1])) in (Union, UnionType)
    return place[:-1] if is_alternative else place


def _explain(place: Place, items: Sequence[Any]) -> str:  # pydantic_core.ErrorDetails differs by version
    """What is wrong at one place, in one line; ``items`` are several when all of its types are refused."""
    key, item = ".".join(str(part) for part in place), items[0]
    if item["type"] == "extra_forbidden":
        if now := name_now(".".join(part for part in place if isinstance(part, str))):
            return f"{key}: is now {now}"
        return f"{key}: unknown key; known here: {', '.join(_fields(_type_at(place[:-1])))}"
    first, *others = dict.fromkeys(problem_of(each, table="a table") for each in items)
    problem = ", or ".join((first, *(each.removeprefix("must be ") for each in others)))
    is_shown = isinstance(item["input"], str | int | float) and not _may_hold_secret(_type_at(place))
    shown = f" (got {item['input']!r:.{SHOWN_MAX}})" if is_shown else ""
    return ": ".join(part for part in (key, f"{problem}{shown}") if part)


def _type_at(place: Sequence[str | int]) -> Any:
    """The type of what stands at this place of the configuration; ``None``: it is not known."""
    found: Any = Config
    for part in place:
        if isinstance(part, int):
            items = [each for each in _alternatives(found) if get_args(each)]
            found = get_args(items[0])[0] if items else None
        elif get_origin(found) is Mapping:
            found = get_args(found)[1]
        else:
            fields = [_fields(each)[part] for each in _alternatives(found) if part in _fields(each)]
            found = fields[0].annotation if fields else None
    return found


def _fields(annotation: Any) -> dict[str, Any]:
    is_section = isinstance(annotation, type) and issubclass(annotation, BaseModel)
    return dict(annotation.model_fields) if is_section else {}


def _alternatives(annotation: Any) -> Iterator[Any]:
    """A type, and those that it is a union of or that ``Annotated`` stands around."""
    yield annotation
    if not isinstance(annotation, type):
        for part in get_args(annotation):
            yield from _alternatives(part)


def _may_hold_secret(annotation: Any) -> bool:
    """A secret, what has one in it, and what is not known."""
    if annotation is None or annotation is SecretStr or annotation is Any:
        return True
    inner = [field.annotation for field in _fields(annotation).values()]
    return any(_may_hold_secret(each) for each in (*inner, *map(_known, get_args(annotation))))


def _known(argument: Any) -> Any:
    """An argument of a type: the dots of ``tuple[str, ...]``, a literal's word and a bound hide nothing."""
    return argument if isinstance(argument, type) or get_args(argument) else str


def _secrets_in(value: Any, annotation: Any) -> Iterator[str]:
    """The keys of a file under which secrets stand."""
    if isinstance(value, list):
        arguments = [get_args(each)[0] for each in _alternatives(annotation) if get_args(each)]
        for item in value:
            yield from _secrets_in(item, arguments[0] if arguments else None)
    elif isinstance(value, dict):
        for name, inner in value.items():
            found = [_fields(each)[name] for each in _alternatives(annotation) if name in _fields(each)]
            if found and found[0].annotation is SecretStr and inner:
                yield name
            elif found:
                yield from _secrets_in(inner, found[0].annotation)


def _known_keys(section: str) -> list[str]:
    return list(_fields(Config.model_fields[section].annotation))
