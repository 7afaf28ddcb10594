"""The section ``gateway`` of the configuration, as the values of GTP: partners, timers and causes.

Rule: nothing else of ``gtp`` knows the configuration.
"""

from core.config.gateway import GatewayConfig
from core.domain.session import Access
from gtp.partners import Partner, Priority
from gtp.transaction import Timers
from gtp.userplane.sources import Sources
from gtp.version import Causes


def partners_of(gateway: GatewayConfig) -> list[Partner]:
    """The table of roaming partners, in the order of ``gateway.peers``."""
    return [
        Partner(
            name=each.name,
            networks=each.networks,
            requests_per_s=each.requests_per_s,
            burst=each.burst,
            echo=each.echo,
            priority=Priority(each.priority),
            user_networks=each.user_networks,
            ipcp_ack=each.ipcp_ack,
            assume_dual_address_bearers=each.assume_dual_address_bearers,
            may_take_over=each.may_take_over,
        )
        for each in gateway.peers
    ]


def sources_of(gateway: GatewayConfig) -> Sources:
    """The addresses from which G-PDUs of a partner's tunnels are accepted."""
    return Sources(partners_of(gateway), gateway.allowed_peers)


def timers_of(gateway: GatewayConfig) -> Timers:
    """The timers of GTP-C, which also hold for paths of GTP-U."""
    return Timers(
        t3_response_s=gateway.t3_response_s,
        n3_requests=gateway.n3_requests,
        echo_interval_s=gateway.echo_interval_s,
        path_keep_s=gateway.path_keep_s,
        back_off_s=gateway.back_off_s,
    )


def causes_of(gateway: GatewayConfig) -> Causes:
    """The causes of ``gateway.refusals``, which take the place of the usual ones."""
    refusals = gateway.refusals.items()
    return {
        Access.GTPV1: {reason: each.gtpv1 for reason, each in refusals if each.gtpv1 is not None},
        Access.GTPV2: {reason: each.gtpv2 for reason, each in refusals if each.gtpv2 is not None},
    }
