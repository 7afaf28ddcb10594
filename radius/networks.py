"""The clients that the configuration names, by the addresses of their NASes, and their rights.

Rule: the longest prefix counts. An address in none of the networks is unknown.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network

SOURCES_MAX = 65_536
"""Addresses whose network is remembered; beyond it all are looked up anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientPolicy:
    """The rights of a client and the habits of its NASes: see ``RadiusClient``."""

    imsi_prefixes: tuple[str, ...] = ()
    apns: frozenset[str] = frozenset()
    may_take_over: frozenset[str] = frozenset()
    default_apn: str = ""
    realms: frozenset[str] = frozenset()
    check_passwords: bool = True
    own_addresses: bool = False
    require_event_timestamp: bool = False
    line_rate_kbps: int = 1_000_000
    enforces_speed_class: bool = False


@dataclass(frozen=True, slots=True)
class NasNetwork:
    """A client: the NASes of one network, and their shared secret (RFC 2865 §3). ``known_as``: its name in
    logs and metrics.
    """

    network: IPv4Network
    secret: bytes = field(repr=False)
    require_message_authenticator: bool = True
    disconnect_port: int = 3_799
    known_as: str = ""
    policy: ClientPolicy = ClientPolicy()
    name: str = field(init=False)
    """The network as text, which sessions remember."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", str(self.network))
        object.__setattr__(self, "known_as", self.known_as or self.name)


class NasNetworks(dict[str, NasNetwork | None]):
    """The client of each address, ``None`` for an unknown one; each is looked up once and remembered."""

    def __init__(self, networks: Iterable[NasNetwork]) -> None:
        super().__init__()
        self._networks = sorted(networks, key=lambda each: each.network.prefixlen, reverse=True)

    def __missing__(self, address: str) -> NasNetwork | None:
        """Look it up."""
        source = IPv4Address(address)
        network = next((each for each in self._networks if source in each.network), None)
        if len(self) >= SOURCES_MAX:
            self.clear()
        self[address] = network
        return network
