"""From where packets of a tunnel may come beside its peer: a tunnel's other end may send by several addresses
(TS 29.281 §3.1, §4.3.0), as an SGW does that has several boards.

Rules: they are the addresses of the partner that the peer is of, in its ``networks`` or ``user_networks``;
with no table of partners there are none. What goes down still goes to the peer alone, and what ends a tunnel
(Error Indications) is still heeded from it alone. What was looked up is remembered; nothing is made for a
packet.
"""

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network

from gtp.partners import Partner

PAIRS_MAX = 16_384
"""Pairs of peer and source that are remembered; then they are looked up again."""


class Sources:
    """``allowed`` are networks of partners without a name, each of another."""

    def __init__(self, partners: Sequence[Partner] = (), allowed: Sequence[IPv4Network] = ()) -> None:
        self._partners = (
            *((*partner.networks, *partner.user_networks) for partner in partners),
            *((network,) for network in allowed),
        )
        self._known: dict[str, dict[str, bool]] = {}
        self._count = 0

    def __len__(self) -> int:
        """How many pairs are remembered."""
        return self._count

    def are_one(self, peer: str, source: str) -> bool:
        """Whether this source is of a partner that the peer is of too."""
        found = self._known.get(peer)
        verdict = found.get(source) if found is not None else None
        return self._look_up(peer, source) if verdict is None else verdict

    def _look_up(self, peer: str, source: str) -> bool:
        if self._count >= PAIRS_MAX:
            self._known.clear()
            self._count = 0
        one, other = IPv4Address(peer), IPv4Address(source)
        verdict = any(_has(networks, other) and _has(networks, one) for networks in self._partners)
        self._known.setdefault(peer, {})[source] = verdict
        self._count += 1
        return verdict


def _has(networks: Sequence[IPv4Network], address: IPv4Address) -> bool:
    return any(address in network for network in networks)


NO_SOURCES = Sources()
"""Only the peer itself."""
