"""No secret is shown by what describes an object, or by an error of the configuration."""

import dataclasses
import importlib
import json
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from pydantic import BaseModel, SecretStr

import airloom
import api
import billing
import core
import gtp
import loadtest
import mqtt_bridge
import radius
from core.config import Config
from core.config_file import exposed, load
from core.domain.stock import StockRow
from core.errors import ConfigurationError

SECRET = re.compile(r"(.*[_a-z])?([sS]ecret|[pP]assword|[tT]oken|token_key|api_key|auth_?[kK]ey)(_hash)?")
SHOWN = "do-not-show-this-secret"
ROOTS = (airloom, api, core, gtp, radius, mqtt_bridge, billing, loadtest)


def classes() -> Iterator[type]:
    for root in ROOTS:
        for found in pkgutil.walk_packages(root.__path__, f"{root.__name__}."):
            if found.name.endswith("__main__"):
                continue
            module = importlib.import_module(found.name)
            for value in vars(module).values():
                if isinstance(value, type) and value.__module__ == found.name:
                    yield value


def shown_fields(kind: type) -> list[str]:
    """Fields that ``repr`` shows as they are."""
    if dataclasses.is_dataclass(kind):
        return [each.name for each in dataclasses.fields(kind) if each.repr]
    if issubclass(kind, msgspec.Struct):
        return [] if "__repr__" in vars(kind) else list(kind.__struct_fields__)
    if issubclass(kind, BaseModel) and kind.__repr_args__ is BaseModel.__repr_args__:
        fields = kind.model_fields.items()
        return [name for name, each in fields if each.repr and each.annotation is not SecretStr]
    return []


def test_nothing_that_describes_itself_shows_a_secret() -> None:
    looked_at = list(classes())
    assert len(looked_at) > 300
    kinds = {str, bytes, str | None, "str", "bytes"}
    shown = [
        f"{kind.__module__}.{kind.__name__}.{name}"
        for kind in looked_at
        for name in shown_fields(kind)
        if SECRET.fullmatch(name) and _type_of(kind, name) in kinds
    ]
    assert not shown, "\n".join(shown)
    assert SHOWN not in repr(StockRow("001010000000001", "8981100000000000001", registration_secret=SHOWN))


def _type_of(kind: type, name: str) -> Any:
    for each in kind.__mro__:
        if name in (annotations := vars(each).get("__annotations__", {})):
            annotation = annotations[name]
            return getattr(annotation, "__origin__", annotation)
    return None


def places(model: type[BaseModel], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every secret of the configuration, by where it is."""
    for name, each in model.model_fields.items():
        annotation: Any = each.annotation
        inner = annotation if isinstance(annotation, type) else None
        for argument in getattr(annotation, "__args__", ()):
            inner = argument if isinstance(argument, type) and issubclass(argument, BaseModel) else inner
        if annotation is SecretStr:
            yield (*path, name)
        elif inner is not None and issubclass(inner, BaseModel):
            yield from places(inner, (*path, name))


PLACES = list(places(Config))


def test_the_secrets_of_the_configuration_are_known() -> None:
    assert {("control", "secret"), ("radius", "clients", "secret"), ("store", "password")} <= set(PLACES)


def mistakes(place: tuple[str, ...]) -> dict[str, Any]:
    """Sections that are wrong in different ways, each with the secret in it."""
    keys = place[1:]
    if len(keys) == 1:
        (key,) = keys
        return {
            "wrong type": {key: [SHOWN]},
            "a number": {key: 5},
            "an extra key": {key: SHOWN, "extra": SHOWN},
            "no table": SHOWN,
            "a table in its place": {key: {"value": SHOWN}},
        }
    items, key = keys
    return {
        "missing sibling": {items: [{key: SHOWN}]},
        "wrong siblings": {items: [{key: SHOWN, "network": "10.0.0.0/99", "disconnect_port": "x"}]},
        "an extra key": {items: [{key: SHOWN, "network": "10.0.0.0/8", "extra": SHOWN}]},
        "wrong type": {items: [{key: [SHOWN], "network": "10.0.0.0/8"}]},
        "a table in its place": {items: [{key: {"value": SHOWN}, "network": "10.0.0.0/8"}]},
        "a text for an item": {items: [SHOWN]},
        "a text for all": {items: SHOWN},
        "a list in a list": {items: [[{key: SHOWN}]]},
    }


CASES = [(place, what) for place in PLACES for what in mistakes(place)]


@pytest.mark.parametrize(("place", "what"), CASES)
def test_no_mistake_shows_a_secret(tmp_path: Path, place: tuple[str, ...], what: str) -> None:
    section, wrong = place[0], mistakes(place)[what]
    file = tmp_path / "airloom.toml"
    file.write_text(f"{section} = {_toml(wrong)}\n")
    given: list[tuple[Path | None, dict[str, str]]] = [(file, {})]
    if isinstance(wrong, dict):
        environment = {
            f"AIRLOOM_{section}__{key}".upper(): value if isinstance(value, str) else json.dumps(value)
            for key, value in wrong.items()
        }
        given += [(None, environment)]
    for path, variables in given:
        with pytest.raises(ConfigurationError) as caught:
            load(path, variables)
            raise ConfigurationError("that is a good secret")  # a text in the variable for it
        assert SHOWN not in str(caught.value)
        assert caught.value.__cause__ is None, "what stands behind it shows its input"


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value)


def test_a_value_that_is_no_secret_is_shown() -> None:
    with pytest.raises(ConfigurationError, match=re.escape("api.port: must be at most 65535")):
        load(None, {"AIRLOOM_API__PORT": "99999"})
    with pytest.raises(ConfigurationError, match=re.escape("(got '99999')")):
        load(None, {"AIRLOOM_API__PORT": "99999"})


@pytest.mark.parametrize(
    ("text", "mode", "told"),
    [
        (f'[control]\nsecret = "{SHOWN}"\n', 0o644, "readable by others (mode 644) and contains secret"),
        (
            f'[[radius.clients]]\nnetwork = "10.0.0.0/8"\nsecret = "{SHOWN}"\n',
            0o640,
            "readable by others (mode 640) and contains secret",
        ),
        (f'[control]\nsecret = "{SHOWN}"\n', 0o600, ""),
        ("[api]\nport = 1\n", 0o644, ""),
        ('[store]\npassword = ""\n', 0o644, ""),
    ],
)
def test_a_file_with_secrets_that_others_can_read_is_complained_of(
    tmp_path: Path, text: str, mode: int, told: str
) -> None:
    file = tmp_path / "airloom.toml"
    file.write_text(text)
    file.chmod(mode)
    said = exposed(file)
    assert told in said
    assert bool(said) is bool(told)
    assert SHOWN not in said
