"""The device edge: what devices reach inside their tunnels."""

from ipaddress import IPv4Address, IPv4Network
from typing import Annotated, Literal

from pydantic import Field

from core.config.base import Contact, Name, Port, Section


class EdgeConfig(Section):
    """The device edge: platform addresses that devices reach inside their tunnel.

    ``message_address`` takes messages by UDP, TCP and HTTP, ``mqtt_address`` by MQTT, and
    ``metadata_address`` answers a device about its own SIM. ``gateway.dns`` resolves the ``…_names`` to them.
    TCP, HTTP and MQTT need a network namespace: with ``device_network`` ``auto`` they are served where one
    can be made, with ``on`` the node does not start without one, with ``off`` only UDP is served.

    A SIM has at most ``connections_per_sim_max`` connections, MQTT, HTTP and TCP together. One more replaces
    the one that has been silent for longest, or is refused if none has been silent for a minute.

    A gateway without the role ``edge`` hands packets for the platform to one of ``nodes``, the control
    channels of nodes with that role (``http://10.0.0.21:8090``).
    """

    nodes: Annotated[tuple[Contact, ...], Field(max_length=256)] = ()

    platform_network: IPv4Network = IPv4Network("100.127.0.0/16")
    message_address: IPv4Address = IPv4Address("100.127.65.43")
    message_names: tuple[Name, ...] = ("funnel.soracom.io", "unified.soracom.io", "uni.soracom.io")
    udp_port: Port = 23_080
    tcp_port: Port = 23_080
    http_port: Port = 80
    mqtt_address: IPv4Address = IPv4Address("100.127.127.100")
    mqtt_port: Port = 1_883
    mqtt_names: tuple[Name, ...] = ("beam.soracom.io",)
    metadata_address: IPv4Address = IPv4Address("100.127.100.127")
    metadata_names: tuple[Name, ...] = ("metadata.soracom.io",)
    connections_per_sim_max: Annotated[int, Field(ge=1, le=65_536)] = 32
    device_network: Literal["auto", "on", "off"] = "auto"
