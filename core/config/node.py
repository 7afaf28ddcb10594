"""This process: its name, its roles, and the channel to the other nodes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import Field, SecretStr, field_validator

from core.config.base import Name, Port, Section, secret_of

Role = Literal["gateway", "aaa", "edge", "api", "meter"]
ROLES: tuple[Role, ...] = get_args(Role)
AccessProtocol = Literal["gtp", "radius"]
ROLE_OF_PROTOCOL: Mapping[AccessProtocol, Role] = {"gtp": "gateway", "radius": "aaa"}
"""What a node must be to hold a gateway instance that has this protocol."""
SECRET_CHARACTERS_MIN = 16
"""Of the secret that nodes share."""


class NodeConfig(Section):
    """This process: its name (the owner of leases) and the folder for everything it keeps.

    ``roles``: ``gateway`` and ``aaa`` hold gateway instances, those with the protocol ``gtp`` and those with
    the protocol ``radius``; ``edge`` is what devices reach inside their tunnels; ``api`` serves the customer
    API; ``meter`` counts messages from the stream and rolls usage up to days; ``all`` is each of them.
    ``preferred_gateways`` are the gateway instances that this node takes when it starts (empty: all); any
    other it takes when its holder is gone.
    """

    name: Name = "node-1"
    data_dir: Path = Path("var")
    roles: Annotated[tuple[Role, ...], Field(min_length=1)] = ROLES
    preferred_gateways: tuple[Name, ...] = ()

    @field_validator("roles", mode="before")
    @classmethod
    def _all(cls, roles: object) -> object:
        return ROLES if isinstance(roles, list | tuple) and "all" in roles else roles


class ControlConfig(Section):
    """The channel between nodes, and what load balancers ask (``/healthz``, ``/readyz``).

    Open when ``secret``, which all nodes share, is set; ``host`` is where the other nodes reach this one. An
    operator on this host needs none of it: ``airloom node``, ``gateway``, ``operators`` and ``sims import``
    find the socket in ``node.data_dir``.
    """

    host: str = "127.0.0.1"
    port: Port = 8_090
    secret: Annotated[SecretStr, secret_of(SECRET_CHARACTERS_MIN, may_be_empty=True)] = SecretStr("")

    @property
    def contact(self) -> str:
        """Where this node is reached; empty when it is not."""
        return f"http://{self.host}:{self.port}" if self.secret.get_secret_value() else ""


class MetricsConfig(Section):
    """Where Prometheus finds ``/metrics``, without credentials; ``port`` 0: nowhere.

    They name partners and count what happens, so they are on no customer's port: open them to the network
    that scrapes alone.
    """

    host: str = "127.0.0.1"
    port: Port = 9_464
