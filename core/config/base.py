"""The types that sections of the configuration are made of.

Rule: an unknown key is an error that names it (``core.config_file``).
"""

import re
from ipaddress import ip_address
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr

DEVICE_CHARACTERS_MAX = 15
"""Of a network device's name (IFNAMSIZ)."""


def text(pattern: str, wanted: str) -> AfterValidator:
    """A text that ``pattern`` matches as a whole; the error for any other is "must be ``wanted``"."""
    matches = re.compile(pattern).fullmatch

    def check(value: str) -> str:
        if not matches(value):
            raise ValueError(f"must be {wanted}")
        return value

    return AfterValidator(check)


def secret_of(least: int, *, may_be_empty: bool = False) -> AfterValidator:
    """A secret of at least ``least`` characters."""

    def check(value: SecretStr) -> SecretStr:
        length = len(value.get_secret_value())
        if length < least and not (may_be_empty and length == 0):
            raise ValueError(f"must have {least} or more characters")
        return value

    return AfterValidator(check)


Port = Annotated[int, Field(ge=0, le=65_535)]
Contact = Annotated[
    str, text(r"http://[a-zA-Z0-9.-]{1,253}:[0-9]{1,5}", "http://HOST:PORT, as http://10.0.0.12:8090")
]
TunName = Annotated[
    str, text(r"([a-z][a-z0-9]{0,14})?", "at most 15 lower-case letters and digits, as airloom0, or empty")
]
Name = Annotated[
    str, text(r"[a-z0-9][a-z0-9.-]{0,62}", "1 to 63 lower-case letters, digits, '.' and '-', as vg-1")
]
Region = Annotated[str, text(r"[a-z0-9-]{0,32}", "an AWS region, as eu-central-1, or empty")]
Endpoint = Annotated[str, text(r"(https?://.+)?", "a URL, as https://127.0.0.1:4566, or empty")]


class Section(BaseModel):
    """A table of the configuration: immutable, and without unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def is_loopback(host: str) -> bool:
    """Whether a listener there is reachable from this host only; of names, ``localhost`` alone is known."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
