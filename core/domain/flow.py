"""Dedicated bearers: which packets of a session go apart, and in which tunnel.

Rule: the filters of a session's dedicated bearers are asked in ascending order of precedence; what none of
them takes goes by the default bearer (TS 23.060 §15.3, TS 23.401 §4.7.2).
"""

from dataclasses import dataclass

Ports = tuple[int, int]
"""First and last, both within."""


@dataclass(frozen=True, slots=True)
class PacketFilter:
    """One packet filter of a TFT (TS 24.008 §10.5.6.12), seen from the device: ``remote`` is the far side as
    a network in CIDR notation, ``local_ports`` are the device's. What is empty or ``None`` may be anything.
    """

    identifier: int
    precedence: int
    is_uplink: bool = True
    is_downlink: bool = True
    remote: str = ""
    protocol: int | None = None
    local_ports: Ports | None = None
    remote_ports: Ports | None = None


@dataclass(frozen=True, slots=True)
class DedicatedBearer:
    """A bearer beside the default one (TS 29.274 §8.28), with its own tunnel and charging id."""

    ebi: int
    qci: int
    arp: int
    filters: tuple[PacketFilter, ...]
    local_teid_user: int
    peer_teid_user: int
    peer_user_address: str
    charging_id: int
