"""The gateway instances: their addresses, pools, access points, partners and timers."""

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from core.config.apn import ApnConfig, demand_equal_shares, demand_room_for_numbers, pools_of
from core.config.base import Name, Port, Section, TunName, text
from core.config.instances import GatewayInstanceConfig, demand_own_addresses
from core.config.node import AccessProtocol
from core.config.peers import PARTNERS_MAX, PeerConfig, RefusalConfig, demand_own_networks
from core.domain.address_blocks import PREFIX_MAX
from core.domain.apn import MTU_BYTES_DEFAULT, MTU_BYTES_MAX, NUMBER_BYTES, Apn
from core.domain.networks import Network, demand_apart
from core.domain.pools import UePrefixes
from core.domain.reasons import AttachRefusal
from core.domain.session import PdnType

ECHO_INTERVAL_S_MIN = 60
"""Echo Requests are not sent more often (TS 29.060 §7.2.1, TS 23.007 §20)."""


class GatewayConfig(Section):
    """The gateway instances, the same list on every node, and what they have in common.

    A single instance is written as ``id``, ``address``, ``user_address`` and ``protocols``, several as
    ``instances``, a table each.

    Addresses: a device gets one of ``ue_pool``, or of its access point's own pool; each instance reserves
    blocks of 2 ** (32 - ``block_prefix``) addresses as it needs them. SIMs' static addresses are of
    ``static_pool``. The n-th address of a pool has the n-th /64 of ``ue_prefixes`` (``static_prefixes``);
    without these there is no IPv6. An entry of ``apns`` is a name or a table (``ApnConfig``).

    Limits: an instance holds ``sessions_max`` sessions, a SIM ``sessions_per_sim_max`` of them (an IMSI has
    11 NSAPIs). A released address or TEID is not allocated again for ``quarantine_s``.

    Internet: with ``tun`` named, packets to the internet go through that TUN device (needs NET_ADMIN);
    without it devices reach the device edge only. The gateways' addresses and the operator's
    ``core_networks`` are never reached. With ``user_sequence_numbers`` each G-PDU down has one (TS 29.281
    §5.1), and the MTU of links is at most 1,460.

    Peers: GTP-C is accepted from ``peers``, the table of roaming partners (``PeerConfig``), and from
    ``allowed_peers``, networks of partners without a name; if both are empty, from every address.

    Timers (TS 29.060 §7.6, TS 29.274 §7.6, TS 23.007 §20): a request is repeated ``n3_requests`` times,
    ``t3_response_s`` apart. Peers with sessions are sent an Echo Request every ``echo_interval_s`` (0:
    never), by GTP-U every ``user_echo_interval_s``. The sessions of a peer that does not answer by GTP-C are
    kept for ``path_keep_s``. A session without a packet for ``idle_timeout_s`` ends (0: never). A peer that
    sends too many attaches for one APN is asked to back off for ``back_off_s`` (0: no time is given).

    ``refusals``: the causes of refusals, by the refusal's name (``RefusalConfig``), where they differ from
    the usual ones (docs/gateway-operations.md).

    ``floating_ip``: how an instance's address moves to the node that takes its lease. ``none``: it does not
    move; ``interface``: it is added to ``floating_ip_interface`` and announced (needs NET_ADMIN and NET_RAW);
    ``ec2``: before that it is assigned to the EC2 instance's network interface (docs/scale.md).
    """

    id: Name = "vg-1"
    address: IPv4Address = IPv4Address("127.0.0.1")
    user_address: IPv4Address | None = None
    protocols: Annotated[tuple[AccessProtocol, ...], Field(min_length=1)] = ("gtp", "radius")
    control_port: Port = 2123
    user_port: Port = 2152
    user_sequence_numbers: bool = False
    ue_pool: IPv4Network = IPv4Network("10.128.0.0/9")
    static_pool: IPv4Network | None = None
    block_prefix: Annotated[int, Field(ge=16, le=PREFIX_MAX)] = 22
    ue_prefixes: IPv6Network | None = None
    static_prefixes: IPv6Network | None = None
    apns: tuple[ApnConfig, ...] = (ApnConfig(name="soracom.io"), ApnConfig(name="internet"))
    dns: tuple[IPv4Address, ...] = (IPv4Address("100.127.0.53"), IPv4Address("100.127.1.53"))
    dns_ipv6: tuple[IPv6Address, ...] = ()
    allowed_peers: tuple[IPv4Network, ...] = ()
    peers: Annotated[tuple[PeerConfig, ...], Field(max_length=PARTNERS_MAX)] = ()
    t3_response_s: Annotated[float, Field(ge=0.5, le=60)] = 5.0
    n3_requests: Annotated[int, Field(ge=2, le=10)] = 4
    echo_interval_s: Annotated[float, Field(ge=0, le=86_400)] = 60.0
    user_echo_interval_s: Annotated[float, Field(ge=0, le=86_400)] = 0.0
    path_keep_s: Annotated[float, Field(ge=0, le=2_592_000)] = 14_400.0
    back_off_s: Annotated[float, Field(ge=0, le=1_116_000)] = 10.0
    refusals: Mapping[AttachRefusal, RefusalConfig] = {}
    idle_timeout_s: Annotated[float, Field(ge=0, le=2_592_000)] = 0.0
    core_networks: tuple[Network, ...] = ()
    tun: TunName = ""
    sessions_max: Annotated[int, Field(ge=1, le=4_000_000)] = 65_536
    sessions_per_sim_max: Annotated[int, Field(ge=1, le=100)] = 11
    quarantine_s: Annotated[float, Field(ge=0)] = 60.0
    instances: Annotated[tuple[GatewayInstanceConfig, ...], Field(max_length=1_000)] = ()
    floating_ip: Literal["none", "interface", "ec2"] = "none"
    floating_ip_interface: Annotated[
        str, text(r"([a-zA-Z][a-zA-Z0-9_.-]{0,14})?", "a network interface, as eth0, or empty")
    ] = ""

    @field_validator("echo_interval_s", "user_echo_interval_s")
    @classmethod
    def _check_echo(cls, interval_s: float) -> float:
        if 0 < interval_s < ECHO_INTERVAL_S_MIN:
            raise ValueError(f"must be 0 (disabled) or at least {ECHO_INTERVAL_S_MIN}")
        return interval_s

    @field_validator("refusals", mode="before")
    @classmethod
    def _check_refusals(cls, refusals: object) -> object:
        known = [each.value for each in AttachRefusal if each is not AttachRefusal.UNKNOWN_SESSION]
        for name in refusals if isinstance(refusals, Mapping) else ():
            if name not in known:
                raise ValueError(f"{name}: unknown refusal; known: {', '.join(known)}")
        return refusals

    @field_validator("peers")
    @classmethod
    def _check_peers(cls, peers: tuple[PeerConfig, ...]) -> tuple[PeerConfig, ...]:
        demand_own_networks(peers)
        return peers

    @field_validator("apns", mode="before")
    @classmethod
    def _named(cls, apns: object) -> object:
        if not isinstance(apns, list | tuple):
            return apns
        return [{"name": apn} if isinstance(apn, str) else apn for apn in apns]

    @property
    def prefixes(self) -> UePrefixes:
        """The /64 of each device address, by pool."""
        pairs = (
            (self.ue_pool, self.ue_prefixes),
            (self.static_pool, self.static_prefixes),
            *((pool, apn.ue_prefixes) for pool, apn in self.apn_pools.items()),
        )
        return UePrefixes(
            tuple((pool, ipv6) for pool, ipv6 in pairs if pool is not None and ipv6 is not None)
        )

    @property
    def apn_pools(self) -> Mapping[IPv4Network, ApnConfig]:
        """The pools that access points have of their own, each with the first access point that names it."""
        return pools_of(self.apns)

    @property
    def fixed(self) -> Mapping[str, tuple[object, ...]]:
        """The pool, prefixes and TUN device of each APN that has its own: fixed while sessions are open."""
        return {each.name: each.own for each in self.apns if any(each.own)}

    @property
    def access_points(self) -> tuple[Apn, ...]:
        """The access points, with the gateway's values where they have none of their own."""
        return tuple(
            each.access_point(
                pdn_types=self._offered(each),
                dns=self.dns,
                dns_ipv6=self.dns_ipv6,
                mtu_bytes_max=MTU_BYTES_MAX - (NUMBER_BYTES if self.user_sequence_numbers else 0),
            )
            for each in self.apns
        )

    def _offered(self, apn: ApnConfig) -> frozenset[PdnType]:
        prefixes = apn.ue_prefixes if apn.ue_pool is not None else self.ue_prefixes
        return frozenset({PdnType.IPV4} if prefixes is None else PdnType)

    @property
    def mtu_bytes(self) -> int:
        """The smallest MTU of all access points, which each device's link takes."""
        return min((apn.mtu_bytes for apn in self.access_points), default=MTU_BYTES_DEFAULT)

    @property
    def devices(self) -> tuple[IPv4Network, ...]:
        """The pools of devices' addresses."""
        common = (self.ue_pool,) if self.static_pool is None else (self.ue_pool, self.static_pool)
        return (*common, *self.apn_pools)

    @property
    def forbidden(self) -> tuple[Network, ...]:
        """Networks that no device reaches: the gateways' addresses, and ``core_networks``."""
        own = (IPv4Network(address) for each in self.held for address in each.addresses)
        return (*own, *self.core_networks)

    @property
    def held(self) -> tuple[GatewayInstanceConfig, ...]:
        """All gateway instances, also the one that is written without a table."""
        one = GatewayInstanceConfig(
            id=self.id, address=self.address, user_address=self.user_address, protocols=self.protocols
        )
        return self.instances or (one,)

    def instance(self, gateway_id: str) -> GatewayInstanceConfig:
        """One gateway instance; raises ``StopIteration`` for an id that is not configured."""
        return next(each for each in self.held if each.id == gateway_id)

    def pools_of_others(self, own: GatewayInstanceConfig) -> list[IPv4Network]:
        """The parts of ``ue_pool`` that other gateway instances allocate from alone."""
        return [each.ue_pool for each in self.held if each.ue_pool not in (None, own.ue_pool)]

    def tun_devices(self, gateway_id: str) -> Mapping[str, tuple[str, IPv4Network]]:
        """An instance's TUN device and its pool by APN, the common one under "".

        The first instance's devices are named as configured; the others' have its number appended.
        """
        number = [each.id for each in self.held].index(gateway_id)
        suffix = f"-{number}" if number else ""
        named = {each.name: (each.tun, each.ue_pool) for each in self.apns if each.tun}
        common = {"": (self.tun, self.ue_pool)} if self.tun else {}
        return {apn: (tun + suffix, pool) for apn, (tun, pool) in (common | named).items() if pool}

    @model_validator(mode="after")
    def _check_floating_ip(self) -> "GatewayConfig":
        if self.floating_ip != "none" and not self.floating_ip_interface:
            raise ValueError(f"floating_ip {self.floating_ip}: name the interface in floating_ip_interface")
        return self

    @model_validator(mode="after")
    def _check_prefixes(self) -> "GatewayConfig":
        for key, prefixes, pool, pool_key in (
            ("ue_prefixes", self.ue_prefixes, self.ue_pool, "ue_pool"),
            ("static_prefixes", self.static_prefixes, self.static_pool, "static_pool"),
            *(
                (f"apns {each.name}: ue_prefixes", each.ue_prefixes, each.ue_pool, "ue_pool")
                for each in self.apns
            ),
        ):
            if prefixes is not None and (pool is None or prefixes.prefixlen > pool.prefixlen + 32):
                need = f"/{pool.prefixlen + 32} or wider for {pool}" if pool else f"{pool_key} beside it"
                raise ValueError(f"{key} {prefixes}: must be {need}")
        is_ipv6 = any(PdnType.IPV6 in self._offered(each) for each in self.apns)
        if self.static_pool is not None and (self.static_prefixes is None) == (
            is_ipv6 or bool(self.ue_prefixes)
        ):
            raise ValueError("ue_prefixes and static_prefixes: with a static_pool both, or neither")
        for each in self.apns:
            if set(each.pdn_types) - self._offered(each):
                raise ValueError(f"apns {each.name}: pdn_types with IPv6 need ue_prefixes")
        return self

    @model_validator(mode="after")
    def _check_instances(self) -> "GatewayConfig":
        demand_own_addresses(self.held, self.ue_pool)
        return self

    @model_validator(mode="after")
    def _check_apn_pools(self) -> "GatewayConfig":
        demand_equal_shares(self.apns, self.tun)
        demand_room_for_numbers((self.tun, *(each.tun for each in self.apns)), instances=len(self.held))
        demand_apart(self.networks)
        return self

    @property
    def networks(self) -> list[tuple[str, Network]]:
        """The networks of devices' addresses, and the gateways' addresses, by configuration key."""
        return [
            (key, network)
            for key, network in (
                *((f"address of {own.id}", IPv4Network(each)) for own in self.held for each in own.addresses),
                ("ue_pool", self.ue_pool),
                ("ue_prefixes", self.ue_prefixes),
                ("static_pool", self.static_pool),
                ("static_prefixes", self.static_prefixes),
                *((f"apns {apn.name}: ue_pool", pool) for pool, apn in self.apn_pools.items()),
                *((f"apns {apn.name}: ue_prefixes", apn.ue_prefixes) for apn in self.apn_pools.values()),
            )
            if network is not None
        ]
