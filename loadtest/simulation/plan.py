"""How a run of the virtual world is made: how big it is, what may go wrong, how its nodes are configured."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from core.config import Config, GatewayConfig, NodeConfig, RadiusConfig, UsageConfig
from loadtest.simulation.faults import FaultRates, RetoldRates
from loadtest.simulation.virtual import NetworkFaults

NAS_SECRET = b"the secret of all NASes"
SLOTS = 64
ROLLUP_AFTER_S = 10.0
"""A day is rolled up during the next day's traffic, and before its last reports have arrived."""
PATH_LOSS_S_MAX = 60.0
QUIET_S = 90.0
"""After the last action: longer than every repeat, retry and quarantine."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How big the run is and what may go wrong in it."""

    sims: int = 5
    active_s: float = 120.0
    pace_s: float = 4.0
    """Between the actions of a device, at the mean."""
    network: NetworkFaults = NetworkFaults(loss=0.05, duplication=0.05, delay_s_max=0.08)  # noqa: RUF009 - frozen
    store: FaultRates = field(default_factory=lambda: FaultRates(0.03, 0.03, 0.2))
    stream: FaultRates = field(default_factory=lambda: FaultRates(0.05, 0.05, 0.2))
    crashes: int = 2
    takeover: float = 0.5
    """How often another node goes on after a crash, and not the same one."""
    outages: int = 2
    peer_restarts: int = 0
    peer_replacements: int = 0
    """How often a peer restarts with any restart counter, and how often a second host takes its address."""
    path_losses: int = 0
    """How often a peer is out of reach, for up to ``PATH_LOSS_S_MAX``."""
    retold: RetoldRates | None = None
    quarantine_s: float = 60.0
    path_keep_s: float = 14_400.0
    idle_timeout_s: float = 0.0
    echo_interval_s: float = 60.0
    user_echo_interval_s: float = 0.0
    quiet_s: float = QUIET_S
    reservation_ttl_s: float = 60.0
    """How long an Access-Accept reserves an address; longer than ``quiet_s`` it would count as leaked."""
    partners: tuple[Mapping[str, object], ...] = ()
    """The table of roaming partners; empty: all peers are of one."""
    policies: int = 0
    """How often a session's grant is changed, and a dedicated bearer of it made or ended."""
    clock_jumps: int = 0
    """How often the nodes' wall clock is set wrong, by an hour at most."""


ROAMING = Plan(
    sims=5, active_s=240.0, peer_restarts=3, peer_replacements=2, path_losses=4, crashes=2, outages=1
)
"""Peers that restart with any counter, vanish and return, during moves between peers and versions."""
EXACTLY_ONCE = Plan(
    sims=4,
    crashes=3,
    outages=3,
    retold=RetoldRates(again=0.05, rewound=0.05, late=0.03),
    clock_jumps=4,
)
"""Every fault that could make a meter count twice or omit usage."""


def config_of(name: str, plan: Plan) -> Config:
    """The configuration of a node of this name."""
    return Config(
        node=NodeConfig(name=name),
        usage=UsageConfig(rollup_after_s=ROLLUP_AFTER_S),
        gateway=GatewayConfig.model_validate(
            {
                "allowed_peers": [] if plan.partners else ["127.0.0.0/8"],
                "peers": list(plan.partners),
                "sessions_max": SLOTS,
                "quarantine_s": plan.quarantine_s,
                "path_keep_s": plan.path_keep_s,
                "idle_timeout_s": plan.idle_timeout_s,
                "echo_interval_s": plan.echo_interval_s,
                "user_echo_interval_s": plan.user_echo_interval_s,
                "static_pool": "10.127.0.0/24",
                "ue_prefixes": "2001:db8::/41",
                "static_prefixes": "2001:db8:ff00::/56",
            }
        ),
        radius=RadiusConfig.model_validate(
            {
                "clients": [
                    {"network": "127.0.3.0/24", "secret": NAS_SECRET.decode()},
                    {"network": "127.0.4.0/24", "secret": "another secret of ours"},
                ],
                "reservation_ttl_s": plan.reservation_ttl_s,
            }
        ),
    )
