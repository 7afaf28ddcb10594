"""Keys that an earlier version had under another name.

Rule: such a key, or its variable, is an error that says the present name, so that an upgrade loses no
setting.
"""

from collections.abc import Mapping

RENAMED: Mapping[str, str] = {
    "edge.inside": "edge.device_network",
    "gateway.address_interface": "gateway.floating_ip_interface",
    "gateway.address_mover": "gateway.floating_ip",
    "gateway.doors": "gateway.protocols",
    "gateway.idle_s": "gateway.idle_timeout_s",
    "gateway.instances.doors": "gateway.instances.protocols",
    "gateway.virtual": "gateway.instances",
    "node.home": "node.preferred_gateways",
    "radius.provisional_s": "radius.reservation_ttl_s",
    "radius.silent_intervals": "radius.interim_missed_max",
    "usage.fold_after_s": "usage.rollup_after_s",
}
"""Present keys by earlier ones, both from the section on, no item numbers: ``gateway.peers.name``."""


def name_now(key: str) -> str:
    """The present name of a key; empty: it was not renamed."""
    return RENAMED.get(key, "")
