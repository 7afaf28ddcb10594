"""docs/configuration.md lists what may be configured, and its example is one."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from pydantic import SecretStr

from core.config import Config
from core.config.base import Section

PAGE = Path(__file__).parents[4] / "docs" / "configuration.md"
ROW = re.compile(r"^\| `(\w+(?:\.\w+)+)` \| (.+) \|$", re.MULTILINE)


def shown(default: object) -> str:
    """As the page writes it."""
    match default:
        case SecretStr() | None | "" | ():
            return "none"
        case bool():
            return str(default).lower()
        case tuple():
            return ", ".join(getattr(each, "name", str(each)) for each in default)
        case float():
            return f"{default:g}"
    return str(default) if default != {} else "none"


def tables_in(annotation: Any) -> Iterator[type[Section]]:
    """The kinds of tables that a key holds."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    for part in get_args(annotation):
        yield from tables_in(part)


def keys_of(table: type[Section], path: str) -> Iterator[tuple[str, str]]:
    """Each key below a table, with its default; after a key that holds tables, theirs."""
    for name, field in table.model_fields.items():
        inner = list(tables_in(field.annotation))
        if path or not inner:
            yield f"{path}{name}", "required" if field.is_required() else shown(field.default)
        for each in inner:
            yield from keys_of(each, f"{path}{name}.")


def test_the_page_lists_each_key_with_its_default() -> None:
    listed = ROW.findall(PAGE.read_text())
    assert sorted(listed) == sorted(keys_of(Config, ""))


def test_the_example_can_be_served() -> None:
    example = PAGE.read_text().split("```toml\n")[1].split("```")[0]
    assert str(Config.model_validate(tomllib.loads(example)).gateway.address) == "10.0.0.12"
