"""Peer ACL and per-partner rate limiting: the table of roaming partners.

Rules:

- A datagram from outside all partners' networks is dropped before anything of it is read. Without a table
  every peer may speak, each for itself.
- A peer has tunnels end at addresses of its own partner alone, or where that one's user plane is.
- What a peer begins another address of the same partner may go on with. A partner that is allowed to
  (``may_take_over``) may move it to itself, no other may.
- A partner's datagrams are paid for from one bucket of tokens, whichever of its addresses they name as their
  source. The last quarter of a bucket is for what changes or ends sessions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network

EACH = "*"
"""Every partner, in ``may_take_over``."""
OTHER = "other"
"""Who is allowed without a name."""
ADDRESSES_MAX = 16_384
"""Addresses whose partner is remembered; then it is looked up again."""
RESERVE = 0.25


class Priority(StrEnum):
    """Who is heard longest when there is too much to do."""

    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"


@dataclass(frozen=True, slots=True)
class Partner:
    """A roaming partner. ``requests_per_s`` 0: no limit; ``burst`` is what may come at once.

    ``echo``: whether its peers are sent Echo Requests. ``user_networks``: where its user plane is beside
    ``networks``; it may not speak. ``ipcp_ack``: IPCP is answered by a Configure-Ack with our values;
    ``assume_dual_address_bearers``: its bearers carry both families, whether it sets the flag or not.
    ``may_take_over``: whose sessions it may have, by name, or ``EACH``.
    """

    name: str
    networks: tuple[IPv4Network, ...]
    requests_per_s: float = 0.0
    burst: int = 1
    echo: bool = True
    priority: Priority = Priority.NORMAL
    user_networks: tuple[IPv4Network, ...] = ()
    ipcp_ack: bool = False
    assume_dual_address_bearers: bool = False
    may_take_over: tuple[str, ...] = ()

    def party_of(self, address: str) -> str:
        """Whose share of a table its address takes: the partner's; without a name the address' own."""
        return address if self.name == OTHER else self.name


EVERYBODY = Partner(OTHER, (IPv4Network("0.0.0.0/0"),))
"""Where there is no table."""


class Partners:
    """The table, with the buckets; ``allowed`` are networks of partners that have no name."""

    def __init__(self, partners: Sequence[Partner], allowed: Sequence[IPv4Network]) -> None:
        self._partners: tuple[Partner, ...] = ()
        self._is_everybody = False
        self._by_address: dict[str, Partner | None] = {}
        self._tokens: dict[str, tuple[float, float]] = {}
        self.reload(partners, allowed)

    def reload(self, partners: Sequence[Partner], allowed: Sequence[IPv4Network]) -> None:
        """The table is this from now on; what is left in the buckets of partners that stay is left."""
        named = (*partners, *(Partner(OTHER, (network,)) for network in allowed))
        self._partners = named or (EVERYBODY,)
        self._is_everybody = not named
        self._by_address.clear()
        stay = {partner.name for partner in named}
        self._tokens = {name: bucket for name, bucket in self._tokens.items() if name in stay}

    def of(self, address: str) -> Partner | None:
        """The partner that this address is of, if it may speak."""
        try:
            return self._by_address[address]
        except KeyError:
            if len(self._by_address) >= ADDRESSES_MAX:
                self._by_address.clear()
            number = IPv4Address(address)
            found = next((p for p in self._partners if any(number in each for each in p.networks)), None)
            self._by_address[address] = found
            return found

    def party_of(self, address: str) -> str:
        """Whose share of a table its places are of: its partner's, or its own where that has no name."""
        partner = self.of(address)
        return address if partner is None else partner.party_of(address)

    def name_of(self, address: str) -> str:
        """The name of the partner that this address is of."""
        partner = self.of(address)
        return OTHER if partner is None else partner.name

    def are_one(self, address: str, other: str) -> bool:
        """Whether both are of one partner; with no table each is a stranger to the other."""
        if address == other:
            return True
        partner = self.of(address)
        return partner is not None and not self._is_everybody and partner is self.of(other)

    def may_take_over(self, address: str, holder: str) -> bool:
        """Whether it may have a session that another partner's address, or none, holds (empty: a NAS)."""
        partner = self.of(address)
        if partner is None:
            return False
        held_by = self.of(holder) if holder else None
        return EACH in partner.may_take_over or (
            held_by is not None and held_by.name != OTHER and held_by.name in partner.may_take_over
        )

    def may_name(self, address: str, other: str) -> bool:
        """Whether it may have us answer to this other address, whose owner may not have asked for it."""
        return self._is_everybody or self.are_one(address, other)

    def may_receive(self, address: str, user: str) -> bool:
        """Whether it may have us send its sessions' packets to this address."""
        if self.may_name(address, user):
            return True
        partner = self.of(address)
        if partner is None or not partner.user_networks:
            return False
        number = IPv4Address(user)
        return any(number in network for network in partner.user_networks)

    def take(self, partner: Partner, now: float) -> bool:
        """Take a token of a partner with a rate; false when there is none, and the datagram is too much."""
        tokens, at = self._tokens.get(partner.name, (float(partner.burst), now))
        tokens = min(partner.burst, tokens + (now - at) * partner.requests_per_s)
        is_paid = tokens >= 1
        self._tokens[partner.name] = (tokens - is_paid, now)
        return is_paid

    def is_reserved(self, partner: Partner) -> bool:
        """Whether what is left of its rate is no longer for new sessions."""
        tokens, _ = self._tokens.get(partner.name, (float(partner.burst), 0.0))
        return tokens < partner.burst * RESERVE
