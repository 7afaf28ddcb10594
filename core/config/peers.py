"""Roaming partners, and the causes that they are refused with."""

from collections.abc import Sequence
from ipaddress import IPv4Network
from typing import Annotated, Literal

from pydantic import Field

from core.config.base import Name, Section

PARTNERS_MAX = 200
EACH_PARTNER = "*"


class PeerConfig(Section):
    """A roaming partner: the networks from which its SGSNs, MMEs and SGWs send GTP-C.

    Of its GTP-C datagrams ``requests_per_s`` are read (0: all), ``burst`` at once; the rest is dropped. Its
    tunnels end in the same networks, or in ``user_networks``, from which GTP-C is dropped. ``may_take_over``:
    names of partners, or ``*`` for all of them and every NAS. A session that one of these holds may be handed
    over to this partner, or be replaced by it; the session of any other partner stays, and a new one is
    opened beside it. ``echo``: whether its peers are sent Echo Requests. ``priority``: under overload, new
    sessions of ``low`` are refused first.

    For peers that deviate from the specifications: with ``ipcp_ack``, IPCP in protocol configuration options
    is answered by a Configure-Ack with our values, not by a Configure-Nak (RFC 1877 §1.1); with
    ``assume_dual_address_bearers``, a device that asks for IPv4 and IPv6 gets both even if the peer does not
    set the Dual Address Bearer Flag (TS 29.060 §7.7.48, TS 29.274 §8.12).
    """

    name: Name
    networks: Annotated[tuple[IPv4Network, ...], Field(min_length=1, max_length=1_000)]
    user_networks: Annotated[tuple[IPv4Network, ...], Field(max_length=1_000)] = ()
    may_take_over: Annotated[tuple[str, ...], Field(max_length=PARTNERS_MAX)] = ()
    requests_per_s: Annotated[float, Field(ge=0, le=1_000_000)] = 0.0
    burst: Annotated[int, Field(ge=1, le=1_000_000)] = 1_000
    echo: bool = True
    priority: Literal["low", "normal", "high"] = "normal"
    ipcp_ack: bool = False
    assume_dual_address_bearers: bool = False


def demand_own_networks(peers: Sequence[PeerConfig]) -> None:
    """Raises ``ValueError`` when two partners share a name or an address, or ``may_take_over`` has no
    partner.
    """
    names = [each.name for each in peers]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{', '.join(twice)}: used twice; each partner needs its own name")
    for each in peers:
        for named in each.may_take_over:
            if named != EACH_PARTNER and (named == each.name or named not in names):
                raise ValueError(
                    f"{each.name}: may_take_over names {named}, which is not another partner in"
                    f" gateway.peers;"
                    f' use the name of one, or "{EACH_PARTNER}" for all'
                )
    widest: tuple[IPv4Network, str] | None = None
    for network, name in sorted((network, each.name) for each in peers for network in each.networks):
        if widest is not None and network.overlaps(widest[0]):
            if name != widest[1]:
                raise ValueError(f"{name}: {network} overlaps {widest[1]}'s {widest[0]}")
        else:
            widest = network, name


class RefusalConfig(Section):
    """The causes that a refusal is answered with: of GTPv1 (TS 29.060 §7.7.1) and GTPv2 (TS 29.274 §8.4)."""

    gtpv1: Annotated[int, Field(ge=192, le=255)] | None = None
    gtpv2: Annotated[int, Field(ge=64, le=239)] | None = None
