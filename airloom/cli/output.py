"""How the CLI prints what it got: a table for people, JSON for programs."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from rich.console import Console
from rich.table import Column, Table


class Format(StrEnum):
    """``--output``."""

    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"


_SECONDS = ("createDateTime", "lastUsedDateTime", "unixtime")
"""Fields that count seconds since 1970; other times are milliseconds."""
_TIMES = ("time", "createdAt", "lastModifiedAt", "lastUpdatedAt")


def show(value: Any, format_: Format | None, columns: Sequence[str] = ()) -> None:
    """Print a value; without a format, a table on a terminal and JSON elsewhere.

    ``columns`` are dotted paths into each item. Bytes go out as they are.
    """
    if isinstance(value, bytes):
        sys.stdout.buffer.write(value)
        sys.stdout.flush()
        return
    if value is None:
        return
    chosen = format_ or (Format.TABLE if sys.stdout.isatty() else Format.JSON)
    if chosen is Format.TABLE:
        _show_table(value, columns)
    elif chosen is Format.JSONL:
        for item in value if isinstance(value, list) else [value]:
            sys.stdout.write(json.dumps(item, ensure_ascii=False) + "\n")
    else:
        sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def _show_table(value: Any, columns: Sequence[str]) -> None:
    if (
        isinstance(value, Mapping)
        and len(value) == 1
        and isinstance(only := next(iter(value.values())), list)
    ):
        value = only  # as the list of bills
    console = Console()
    if isinstance(value, Mapping):
        table = Table(Column(overflow="fold"), Column(overflow="fold"), show_header=False, box=None)
        for path, item in _leaves(value):
            table.add_row(_printable(path), _text(item, path))
    elif value == []:
        sys.stderr.write("none found\n")
        return
    elif isinstance(value, list):
        names = list(columns) or _keys(value)
        table = Table(*(name.rpartition(".")[2] for name in names), box=None)
        for item in value:
            table.add_row(*[_text(_at(item, name), name) for name in names])
    else:
        console.print(_text(value, ""))
        return
    console.print(table)


def _leaves(value: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Each value by its dotted path."""
    for name, item in value.items():
        if isinstance(item, Mapping) and item:
            yield from _leaves(item, f"{path}{name}.")
        else:
            yield f"{path}{name}", item


def _keys(items: list[Any]) -> list[str]:
    """Of all items: one that lacks a field has an empty cell."""
    keys: dict[str, None] = {}
    for item in items:
        keys |= dict.fromkeys(item if isinstance(item, Mapping) else ["value"])
    return list(keys)


def _at(item: Any, path: str) -> Any:
    """The value at a dotted path; a table's ``value`` column is the item itself."""
    if not isinstance(item, Mapping):
        return item
    for name in path.split("."):
        item = item.get(name) if isinstance(item, Mapping) else None
    return item


def _text(value: Any, path: str) -> str:
    """In words on one line: times as a clock shows them, tables as ``name=value``."""
    name = path.rpartition(".")[2]
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and (name in _SECONDS or name in _TIMES or name.endswith("Time")):
        return _moment(value if name in _SECONDS else value / 1_000)
    if isinstance(value, Mapping):
        return ", ".join(f"{_printable(str(key))}={_text(item, key)}" for key, item in _leaves(value))
    if isinstance(value, list):
        return ", ".join(_text(item, path) for item in value)
    return _printable(str(value))


def _moment(seconds: float) -> str:
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%SZ}"
    except (OverflowError, OSError, ValueError):
        return f"{seconds:g}"


def printable(text: str) -> str:
    """On one line, without what a terminal would obey."""
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)


def _printable(text: str) -> str:
    """Nor what rich would."""
    return printable(text).replace("[", r"\[")
