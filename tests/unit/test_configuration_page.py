"""docs/configuration.md lists what may be configured, and its example is one."""

import re
import tomllib
from pathlib import Path

from pydantic import SecretStr

from core.config import Config

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"
ROW = re.compile(r"^\| `(\w+\.\w+)` \| (.+) \|$", re.MULTILINE)


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


def test_the_page_lists_each_key_with_its_default() -> None:
    config = Config()
    known = {
        f"{section}.{key}": shown(getattr(getattr(config, section), key))
        for section in Config.model_fields
        for key in type(getattr(config, section)).model_fields
    }
    assert dict(ROW.findall(PAGE.read_text())) == known


def test_the_example_can_be_served() -> None:
    example = PAGE.read_text().split("```toml\n")[1].split("```")[0]
    assert str(Config.model_validate(tomllib.loads(example)).gateway.address) == "10.0.0.12"
