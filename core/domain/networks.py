"""Networks of both families, by their configuration keys.

Rule: an error names both keys, so that the operator knows which of them to change.
"""

from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network

Network = IPv4Network | IPv6Network


def demand_apart(named: Sequence[tuple[str, Network]]) -> None:
    """Raises ``ValueError`` when two of these networks, each with its name, overlap."""
    before: tuple[str, Network] | None = None
    for name, network in sorted(named, key=lambda each: (each[1].version, each[1], each[0])):
        if before is not None and before[1].version == network.version and before[1].overlaps(network):
            raise ValueError(
                f"{name} {network} overlaps {before[0]} {before[1]}; choose a network that does not overlap"
            )
        before = name, network
