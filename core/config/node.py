"""The process: its name, its roles, the channel to other nodes, and metrics."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import Field, SecretStr, field_validator

from core.config.base import Name, Port, Section, secret_of

Role = Literal["gateway", "aaa", "edge", "api", "meter"]
ROLES: tuple[Role, ...] = get_args(Role)
AccessProtocol = Literal["gtp", "radius"]
ROLE_OF_PROTOCOL: Mapping[AccessProtocol, Role] = {"gtp": "gateway", "radius": "aaa"}
"""The role that a node needs to hold a gateway instance with this protocol."""
SECRET_CHARACTERS_MIN = 16
"""Of the secret that all nodes share."""


class NodeConfig(Section):
    """The process: its name, which owns its leases, and the folder for all its files.

    ``roles``: ``gateway`` and ``aaa`` hold gateway instances, those with the protocol ``gtp`` and those with
    the protocol ``radius``; ``edge`` serves devices inside their tunnels; ``api`` serves the customer API;
    ``meter`` counts messages from the stream, rolls usage up to days and closes months; ``all`` is all of
    them. ``preferred_gateways`` are the gateway instances that this node takes when it starts (empty: all);
    it takes another one only when its holder is gone.
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
    """The channel between nodes and for operators, with ``/healthz`` and ``/readyz`` for load balancers.

    It is open when ``secret``, the same on all nodes, is set; ``host`` is the address at which the other
    nodes reach this one. An operator on this host needs none of it: ``airloom node``, ``gateway``,
    ``operators`` and ``sims import`` use the socket in ``node.data_dir``.
    """

    host: str = "127.0.0.1"
    port: Port = 8_090
    secret: Annotated[SecretStr, secret_of(SECRET_CHARACTERS_MIN, may_be_empty=True)] = SecretStr("")

    @property
    def contact(self) -> str:
        """Where this node is reached; empty when it is not."""
        return f"http://{self.host}:{self.port}" if self.secret.get_secret_value() else ""


class MetricsConfig(Section):
    """Where Prometheus reads ``/metrics``, without credentials; with ``port`` 0 on no port.

    Metrics name partners, so they are not on the customers' port: open this one to the scraper's network
    only.
    """

    host: str = "127.0.0.1"
    port: Port = 9_464
