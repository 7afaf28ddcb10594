"""The RADIUS door and its clients."""

from ipaddress import IPv4Address, IPv4Network
from typing import Annotated

from pydantic import Field, SecretStr

from core.config.base import Port, Section

SILENT_S_MIN = 1_800
"""Three of the intervals that RFC 2869 recommends."""


class RadiusClient(Section):
    """The NASes of one subnet and the secret that they share with us.

    ``require_message_authenticator`` off lets NASes in that cannot send it, and with them whoever sits
    between them and us (CVE-2024-3596); ``disconnect_port`` is where they take Disconnect-Requests.
    """

    network: IPv4Network
    secret: Annotated[SecretStr, Field(min_length=8)]
    require_message_authenticator: bool = True
    disconnect_port: Port = 3_799


class RadiusConfig(Section):
    """The RADIUS door of each virtual gateway; closed while it has no ``clients``.

    ``address``: where it listens, without one at the virtual gateway's own. An
    Access-Accept holds its address for ``provisional_s``; NASes are asked to report every ``interim_s``. A
    session of which nothing came for ``silent_intervals`` of these is ended, though not before half an hour:
    a NAS may go by an interval of its own (RFC 2869 §2.1).
    """

    address: IPv4Address | None = None
    authentication_port: Port = 1_812
    accounting_port: Port = 1_813
    clients: Annotated[tuple[RadiusClient, ...], Field(max_length=10_000)] = ()
    provisional_s: Annotated[float, Field(ge=1, le=3_600)] = 60.0
    interim_s: Annotated[int, Field(ge=60, le=86_400)] = 600
    silent_intervals: Annotated[int, Field(ge=2, le=1_000)] = 3

    @property
    def silent_s(self) -> int:
        """How long a session may be silent."""
        return max(self.silent_intervals * self.interim_s, SILENT_S_MIN)
