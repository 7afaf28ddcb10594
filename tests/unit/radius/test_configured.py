"""The section ``radius`` becomes subnets of NASes and their rights, key by key."""

from dataclasses import asdict
from ipaddress import IPv4Network

from pydantic import SecretStr

from core.config import RadiusClient, RadiusConfig
from radius.configured import nas_networks_of


def test_a_subnet_has_every_key_of_its_client() -> None:
    client = RadiusClient(
        network=IPv4Network("10.0.0.0/24"),
        secret=SecretStr("a secret of a NAS"),
        name="nas",
        require_message_authenticator=False,
        disconnect_port=1_700,
        imsi_prefixes=("00101",),
        apns=("internet",),
        may_take_over=("nas",),
        default_apn="internet",
        realms=("example.com",),
        check_passwords=False,
        own_addresses=True,
        require_event_timestamp=True,
        line_rate_mbps=0.5,
        enforces_speed_class=True,
    )
    (found,) = nas_networks_of(RadiusConfig(clients=(client,)))
    keys = client.model_dump(exclude={"network", "secret", "name", "line_rate_mbps"})
    for key, value in keys.items():
        made = getattr(found, key) if hasattr(found, key) else getattr(found.policy, key)
        assert made == (frozenset(value) if isinstance(made, frozenset) else value), key
    assert (found.network, found.secret, found.known_as) == (client.network, b"a secret of a NAS", "nas")
    assert asdict(found.policy)["line_rate_kbps"] == 500
