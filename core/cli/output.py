"""How the CLI prints what it got: a table for people, JSON for programs."""

import json
import sys
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

from rich.console import Console
from rich.table import Table


class Format(StrEnum):
    """``--output``."""

    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"


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
    console = Console()
    if isinstance(value, Mapping):
        table = Table(show_header=False, box=None)
        for key, item in value.items():
            table.add_row(key, _text(item))
    elif isinstance(value, list):
        names = list(columns) or _keys(value)
        table = Table(*(name.rpartition(".")[2] for name in names), box=None)
        for item in value:
            table.add_row(*[_text(_at(item, name)) for name in names])
    else:
        console.print(_text(value))
        return
    console.print(table)


def _keys(items: list[Any]) -> list[str]:
    return list(items[0]) if items and isinstance(items[0], Mapping) else ["value"]


def _at(item: Any, path: str) -> Any:
    """The value at a dotted path; a table's ``value`` column is the item itself."""
    if not isinstance(item, Mapping):
        return item
    for name in path.split("."):
        item = item.get(name) if isinstance(item, Mapping) else None
    return item


def _text(value: Any) -> str:
    """On one line, without what a terminal would obey."""
    if value is None:
        return ""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    printable = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return printable.replace("[", r"\[")
