"""Reading what an operator configured.

Rules: `airloom.toml` and then `AIRLOOM_*` variables (`AIRLOOM_API__PORT=8081`), the later wins; an unknown
key is an error that names it; nothing else in Airloom reads the environment or that file.
"""

import json
import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from core.config import Config
from core.errors import ConfigurationError


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
        raise ConfigurationError("\n".join(_explain(item) for item in error.errors())) from None


def changed(before: Config, after: Config) -> frozenset[str]:
    """The keys whose values differ, as ``gateway.peers``."""
    return frozenset(
        f"{section}.{key}"
        for section in Config.model_fields
        for key in _known_keys(section)
        if getattr(getattr(before, section), key) != getattr(getattr(after, section), key)
    )


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
        section, separator, key = variable.removeprefix("AIRLOOM_").lower().partition("__")
        if not variable.startswith("AIRLOOM_") or not separator:
            continue
        of_section = values.setdefault(section, {})
        if not isinstance(of_section, dict):
            raise ConfigurationError(f"{section}: must be a table, as in [{section}]")
        of_section[key] = _items(variable, text) if _is_list(section, key) else text


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


def _explain(item: Any) -> str:  # pydantic_core.ErrorDetails is a TypedDict that differs by version
    key = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        known = _known_keys(str(item["loc"][0]) if len(item["loc"]) > 1 else "")
        return f"{key}: unknown key; known here: {', '.join(known)}"
    if item["type"] == "value_error":  # of a whole section, whose input may hold secrets
        return ": ".join(part for part in (key, str(item["ctx"]["error"])) if part)
    got = "not shown" if item["loc"][-1] in ("secret", "password") else repr(item["input"])
    return f"{key}: {item['msg']} (got {got})"


def _known_keys(section: str) -> list[str]:
    if not section:
        return list(Config.model_fields)
    return list(getattr(Config.model_fields[section].annotation, "model_fields", {}))
