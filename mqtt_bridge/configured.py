"""The section ``edge`` of the configuration, as the values of the device edge.

Rule: nothing else of ``mqtt_bridge`` knows the configuration.
"""

from collections.abc import Sequence
from ipaddress import IPv4Address

from core.config.edge import EdgeConfig
from mqtt_bridge.service import EdgeAddresses

METADATA_PORT = 80
"""Of HTTP, as devices of SORACOM Air ask for their metadata."""


def addresses_of(edge: EdgeConfig, *, name_servers: Sequence[IPv4Address]) -> EdgeAddresses:
    """Where devices reach the entry points; ``name_servers`` are those that their gateways announce."""
    return EdgeAddresses(
        message=edge.message_address,
        mqtt=edge.mqtt_address,
        metadata=edge.metadata_address,
        name_servers=name_servers,
        names={
            **dict.fromkeys(edge.message_names, edge.message_address),
            **dict.fromkeys(edge.mqtt_names, edge.mqtt_address),
            **dict.fromkeys(edge.metadata_names, edge.metadata_address),
        },
        udp_port=edge.udp_port,
        tcp_port=edge.tcp_port,
        http_port=edge.http_port,
        mqtt_port=edge.mqtt_port,
        metadata_port=METADATA_PORT,
    )
