"""Access points: the PDN types, name servers and MTU of sessions with an access point name.

Rule: an access point that does not offer the requested PDN type offers the nearest one, or none; never an
address family that was not requested (TS 23.401 §5.3.1.1).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address

from core.domain.session import PdnType

MTU_BYTES_MAX = 1_464
"""1,500 without the outer IPv4, UDP and GTP-U headers (TS 23.060 §9.3)."""
MTU_BYTES_DEFAULT = 1_358
"""The largest packet that passes unfragmented through an IPsec tunnel of 1,500 octets between operators, over
IPv6 too (TS 23.501 annex J): inner packet, GTP-U with a sequence number (12), UDP (8) and IPv6 (40) are 1,418
octets; the trailer of ESP (2) and padding make 1,424; initialisation vector (16), header (8) and check value
(12) of ESP 1,460; the outer IPv6 header (40) 1,500.
"""
NUMBER_BYTES = 4
"""Additional octets of a GTP-U header with a sequence number (TS 29.281 §5.1)."""


@dataclass(frozen=True, slots=True)
class Apn:
    """One access point; ``name`` is the network identifier, lower case (TS 23.003 §9.1.1).

    Its devices' addresses come from ``ue_pool``; ``None``: from the common pool.
    """

    name: str
    pdn_types: frozenset[PdnType] = frozenset({PdnType.IPV4})
    dns: tuple[IPv4Address, ...] = ()
    dns_ipv6: tuple[IPv6Address, ...] = ()
    p_cscf: tuple[IPv4Address | IPv6Address, ...] = ()
    mtu_bytes: int = MTU_BYTES_DEFAULT
    ue_pool: IPv4Network | None = None
    dns_of: Mapping[PdnType, tuple[str, ...]] = field(init=False, repr=False, compare=False)
    """The name servers that a device gets, of its address families."""

    def __post_init__(self) -> None:
        ipv4, ipv6 = tuple(map(str, self.dns)), tuple(map(str, self.dns_ipv6))
        of_type = {PdnType.IPV4: ipv4, PdnType.IPV6: ipv6, PdnType.IPV4V6: ipv4 + ipv6}
        object.__setattr__(self, "dns_of", of_type)

    def grant(self, asked: PdnType) -> PdnType | None:
        """The PDN type that a device gets on this request; ``None``: none is possible."""
        if asked in self.pdn_types:
            return asked
        if asked is PdnType.IPV4V6:
            return next((one for one in (PdnType.IPV4, PdnType.IPV6) if one in self.pdn_types), None)
        return None
