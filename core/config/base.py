"""What sections of the configuration are made of.

Rule: an unknown key is an error that names it (``core.config_file``).
"""

from ipaddress import ip_address
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Port = Annotated[int, Field(ge=0, le=65_535)]
Contact = Annotated[str, StringConstraints(pattern=r"^http://[a-zA-Z0-9.-]{1,253}:[0-9]{1,5}$")]
TunName = Annotated[str, StringConstraints(pattern=r"^([a-z][a-z0-9]{0,14})?$")]
DEVICE_CHARACTERS_MAX = 15
"""Of a network device's name (IFNAMSIZ)."""
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.-]{0,62}$")]


class Section(BaseModel):
    """A table of the configuration: immutable, and without unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def is_loopback(host: str) -> bool:
    """Whether nobody but this host reaches what listens there; of a name only ``localhost`` is known."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
