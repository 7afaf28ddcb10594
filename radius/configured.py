"""The section ``radius`` of the configuration, as the values of RADIUS: the NASes and their rights.

Rule: nothing else of ``radius`` knows the configuration.
"""

from core.config.radius import RadiusClient, RadiusConfig
from radius.networks import ClientPolicy, NasNetwork


def nas_networks_of(radius: RadiusConfig) -> list[NasNetwork]:
    """The subnets of NASes, each with its secret and its rights."""
    return [
        NasNetwork(
            network=each.network,
            secret=each.secret.get_secret_value().encode(),
            require_message_authenticator=each.require_message_authenticator,
            disconnect_port=each.disconnect_port,
            known_as=each.known_as,
            policy=_policy_of(each),
        )
        for each in radius.clients
    ]


def _policy_of(client: RadiusClient) -> ClientPolicy:
    return ClientPolicy(
        imsi_prefixes=client.imsi_prefixes,
        apns=frozenset(client.apns),
        may_take_over=frozenset(client.may_take_over),
        default_apn=client.default_apn or "",
        realms=frozenset(client.realms),
        check_passwords=client.check_passwords,
        own_addresses=client.own_addresses,
        require_event_timestamp=client.require_event_timestamp,
        line_rate_kbps=max(1, round(client.line_rate_mbps * 1_000)),
        enforces_speed_class=client.enforces_speed_class,
    )
