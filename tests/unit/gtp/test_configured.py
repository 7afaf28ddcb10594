"""The section ``gateway`` becomes partners, timers and causes, key by key."""

from dataclasses import asdict
from ipaddress import IPv4Network

from core.config import GatewayConfig, PeerConfig
from core.domain.reasons import AttachRefusal
from core.domain.session import Access
from gtp.configured import causes_of, partners_of, sources_of, timers_of
from gtp.partners import Priority

NETWORK, USER_NETWORK = IPv4Network("10.0.0.0/24"), IPv4Network("10.0.1.0/24")


def test_a_partner_has_every_key_of_its_table() -> None:
    peer = PeerConfig(
        name="a",
        networks=(NETWORK,),
        user_networks=(USER_NETWORK,),
        may_take_over=("*",),
        requests_per_s=7.0,
        burst=8,
        echo=False,
        priority="high",
        ipcp_ack=True,
        assume_dual_address_bearers=True,
    )
    (partner,) = partners_of(GatewayConfig(peers=(peer,)))
    assert asdict(partner) == {**peer.model_dump(), "priority": Priority.HIGH}


def test_tunnels_are_accepted_from_a_partners_user_networks_and_from_what_is_allowed() -> None:
    sources = sources_of(
        GatewayConfig(
            peers=(PeerConfig(name="a", networks=(NETWORK,), user_networks=(USER_NETWORK,)),),
            allowed_peers=(IPv4Network("10.0.2.0/24"),),
        )
    )
    assert sources.are_one("10.0.0.1", "10.0.1.1")
    assert sources.are_one("10.0.2.1", "10.0.2.2")
    assert not sources.are_one("10.0.0.1", "10.0.2.1")


def test_timers_are_the_gateways() -> None:
    wanted = {
        "t3_response_s": 2.0,
        "n3_requests": 3,
        "echo_interval_s": 61.0,
        "path_keep_s": 100.0,
        "back_off_s": 20.0,
    }
    assert asdict(timers_of(GatewayConfig.model_validate(wanted))) == wanted


def test_a_cause_that_is_left_out_stays_the_usual_one() -> None:
    reason = AttachRefusal.UNKNOWN_SIM
    causes = causes_of(GatewayConfig.model_validate({"refusals": {reason.value: {"gtpv2": 100}}}))
    assert causes == {Access.GTPV1: {}, Access.GTPV2: {reason: 100}}
