"""Dedicated bearers: which packets of a session use which tunnel.

Rule: the filters of a session's dedicated bearers are evaluated in ascending order of precedence; packets
that match none use the default bearer (TS 23.060 §15.3, TS 23.401 §4.7.2).
"""

from dataclasses import dataclass

Ports = tuple[int, int]
"""The first and the last port, both included."""


@dataclass(frozen=True, slots=True)
class PacketFilter:
    """One packet filter of a TFT (TS 24.008 §10.5.6.12), seen from the device: ``remote`` is the far end as
    a network in CIDR notation, ``local_ports`` are the device's. Empty or ``None`` matches everything.
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
