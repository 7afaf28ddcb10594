"""What an operator may configure, read once into immutable objects.

Rule: an unknown key is an error that names it (``core.config_file``).
"""

from collections import Counter
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    StringConstraints,
    field_validator,
    model_validator,
)

from core.domain.apn import MTU_BYTES_MAX, NUMBER_BYTES, Apn
from core.domain.blocks import PREFIX_MAX
from core.domain.networks import Network, demand_apart
from core.domain.pools import UePrefixes
from core.domain.reasons import AttachRefusal
from core.domain.session import PdnType

Port = Annotated[int, Field(ge=0, le=65_535)]
Contact = Annotated[str, StringConstraints(pattern=r"^http://[a-zA-Z0-9.-]{1,253}:[0-9]{1,5}$")]
TunName = Annotated[str, StringConstraints(pattern=r"^([a-z][a-z0-9]{0,14})?$")]
DEVICE_CHARACTERS_MAX = 15
"""Of a network device's name (IFNAMSIZ)."""
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.-]{0,62}$")]


Role = Literal["gateway", "aaa", "edge", "api", "meter"]
ROLES: tuple[Role, ...] = get_args(Role)
Door = Literal["gtp", "radius"]
ROLE_OF_DOOR: Mapping[Door, Role] = {"gtp": "gateway", "radius": "aaa"}
"""What a node must be to hold a virtual gateway that has this door."""
SECRET_CHARACTERS_MIN = 16
"""Of the secret that nodes share."""
OWN_KEYS = "ue_pool, ue_prefixes and tun"
"""Of an access point: what it has apart."""
APN_POOLS_MAX = 64
"""Networks of access points' own: each gateway holds a block of each."""
ECHO_INTERVAL_S_MIN = 60
"""Echo Requests are not sent more often (TS 29.060 §7.2.1, TS 23.007 §20)."""
PARTNERS_MAX = 200
RELOADABLE = frozenset({"gateway.allowed_peers", "gateway.apns", "gateway.peers", "gateway.refusals"})
"""What a running node takes over when it reads its configuration again."""
SILENT_S_MIN = 1_800
"""Three of the intervals that RFC 2869 recommends."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class NodeConfig(_Section):
    """This process: its name (the owner of leases) and the folder for everything it keeps.

    ``roles``: ``gateway`` and ``aaa`` hold virtual gateways, those with the door ``gtp`` and those with the
    door ``radius``; ``edge`` is what devices reach inside their tunnels; ``api`` serves the customer API;
    ``meter`` counts messages from the stream and folds usage to days; ``all`` is each of them. ``home`` are
    the virtual gateways that this node takes when it starts (empty: all); any other it takes when its holder
    is gone.
    """

    name: Name = "node-1"
    data_dir: Path = Path("var")
    roles: Annotated[tuple[Role, ...], Field(min_length=1)] = ROLES
    home: tuple[Name, ...] = ()

    @field_validator("roles", mode="before")
    @classmethod
    def _all(cls, roles: object) -> object:
        return ROLES if isinstance(roles, list | tuple) and "all" in roles else roles


class ControlConfig(_Section):
    """The channel between nodes, and what load balancers ask (``/healthz``, ``/readyz``).

    Open when ``secret``, which all nodes share, is set; ``host`` is where the other nodes reach this one.
    """

    host: str = "127.0.0.1"
    port: Port = 8_090
    secret: SecretStr = SecretStr("")

    @field_validator("secret")
    @classmethod
    def _check_secret(cls, secret: SecretStr) -> SecretStr:
        if 0 < len(secret.get_secret_value()) < SECRET_CHARACTERS_MIN:
            raise ValueError(f"must have at least {SECRET_CHARACTERS_MIN} characters")
        return secret

    @property
    def contact(self) -> str:
        """Where this node is reached; empty when it is not."""
        return f"http://{self.host}:{self.port}" if self.secret.get_secret_value() else ""


class ApnConfig(_Section):
    """An access point name, and what its devices get: addresses of ``pdn_types`` (empty: of all that there
    are pools for), name servers (empty: the gateway's), P-CSCFs, and the MTU of their link.

    With ``ue_pool`` their addresses are of that network and of no other, and their /64s of ``ue_prefixes``,
    without which they have no IPv6; without it they are of the gateway's. Access points that name the same
    ``ue_pool`` share it. Its packets to and from the internet go through the device ``tun``, or without one
    through the gateway's.
    """

    name: Name
    pdn_types: tuple[PdnType, ...] = ()
    dns: tuple[IPv4Address, ...] = ()
    dns_ipv6: tuple[IPv6Address, ...] = ()
    p_cscf: tuple[IPv4Address | IPv6Address, ...] = ()
    mtu_bytes: Annotated[int, Field(ge=1_280, le=MTU_BYTES_MAX)] = MTU_BYTES_MAX
    ue_pool: IPv4Network | None = None
    ue_prefixes: IPv6Network | None = None
    tun: TunName = ""

    @property
    def own(self) -> tuple[object, ...]:
        """What it has apart from others; access points that share a pool share all of it."""
        return self.ue_pool, self.ue_prefixes, self.tun


class PeerConfig(_Section):
    """A roaming partner: the networks that its SGSNs, MMEs and SGWs speak GTP-C from.

    With ``requests_per_s`` (0: no limit) so many datagrams are read, ``burst`` at once; the rest is dropped.
    Their tunnels end there too, or in ``user_networks``, whence nobody may speak.
    ``echo``: whether its peers are sent Echo Requests. ``priority``: whose new sessions are refused first
    when there are too many at once.
    """

    name: Name
    networks: Annotated[tuple[IPv4Network, ...], Field(min_length=1, max_length=1_000)]
    user_networks: Annotated[tuple[IPv4Network, ...], Field(max_length=1_000)] = ()
    requests_per_s: Annotated[float, Field(ge=0, le=1_000_000)] = 0.0
    burst: Annotated[int, Field(ge=1, le=1_000_000)] = 1_000
    echo: bool = True
    priority: Literal["low", "normal", "high"] = "normal"


class RefusalConfig(_Section):
    """The causes that a refusal is answered with: of GTPv1 (TS 29.060 §7.7.1) and GTPv2 (TS 29.274 §8.4)."""

    gtpv1: Annotated[int, Field(ge=192, le=255)] | None = None
    gtpv2: Annotated[int, Field(ge=64, le=239)] | None = None


class VirtualGatewayConfig(_Section):
    """One virtual gateway: the address of its doors, and its devices' addresses.

    GTP-U ends at ``user_address``, or without one at ``address`` too. ``doors``: ``gtp`` (GTP-C and GTP-U)
    and ``radius``, which is open only when ``radius`` has ``clients``. A node holds a virtual gateway only if
    it has the roles of all its doors. With ``ue_pool`` its devices' addresses are of that part of
    ``gateway.ue_pool``, and nobody else's are; an access point's own pool is every gateway's.
    """

    id: Name
    address: IPv4Address
    user_address: IPv4Address | None = None
    ue_pool: IPv4Network | None = None
    doors: Annotated[tuple[Door, ...], Field(min_length=1)] = ("gtp", "radius")

    @property
    def addresses(self) -> tuple[IPv4Address, ...]:
        """Its own, the one of GTP-U last."""
        return (self.address,) if self.user_address is None else (self.address, self.user_address)


class GatewayConfig(_Section):
    """The virtual gateways, the same list on every node.

    One is written as ``id``, ``address``, ``user_address`` and ``doors``, several as ``virtual``, a table
    each. Devices'
    addresses are of ``ue_pool``, or of the pool of their access point, of which each takes blocks of
    2 ** (32 - ``block_prefix``) addresses as it needs them; SIMs' static addresses are of ``static_pool``.
    The n-th address has the n-th /64 of ``ue_prefixes`` (``static_prefixes``), without which there is no
    IPv6. An entry of ``apns`` is a name or a table (``ApnConfig``). A virtual gateway holds ``sessions_max``
    sessions, of one SIM ``sessions_per_sim_max`` (an IMSI has 11 NSAPIs). With ``tun`` named, packets to the
    internet go through that TUN device (needs NET_ADMIN), without it only the device edge is reachable; never
    are the gateways and the operator's ``core_networks``. With ``user_sequence_numbers`` each packet down has
    one (TS 29.281 §5.1), and links an MTU of 1,460 at most.

    Who may speak GTP-C is told by ``peers``, the table of roaming partners (``PeerConfig``), and by
    ``allowed_peers``, networks of partners without a name; both empty: everybody.

    Timers (TS 29.060 §7.6, TS 29.274 §7.6, TS 23.007 §20): a request is repeated ``n3_requests`` times,
    ``t3_response_s`` apart. Peers with sessions are sent an Echo Request every ``echo_interval_s`` (0:
    never), by GTP-U every ``user_echo_interval_s``; the sessions of one that does not answer by GTP-C are
    kept for ``path_keep_s``. A session through which nothing goes for ``idle_s`` (0: it does not matter)
    ends. A peer whose attaches for one APN are too many is told to stay away from it for ``back_off_s`` (0:
    it is not told how long).

    ``refusals``: which causes refusals are answered with, by their names (``RefusalConfig``), where not with
    the usual ones (docs/gateway-operations.md).

    ``address_mover``: how an address comes to the node that takes the gateway. ``none``: it is there already;
    ``interface``: it is added to ``address_interface`` and announced (needs NET_ADMIN and NET_RAW); ``ec2``:
    and before that assigned to this instance's network interface (docs/scale.md).
    """

    id: Name = "vg-1"
    address: IPv4Address = IPv4Address("127.0.0.1")
    user_address: IPv4Address | None = None
    doors: Annotated[tuple[Door, ...], Field(min_length=1)] = ("gtp", "radius")
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
    idle_s: Annotated[float, Field(ge=0, le=2_592_000)] = 0.0
    core_networks: tuple[Network, ...] = ()
    tun: TunName = ""
    sessions_max: Annotated[int, Field(ge=1, le=4_000_000)] = 65_536
    sessions_per_sim_max: Annotated[int, Field(ge=1, le=100)] = 11
    quarantine_s: Annotated[float, Field(ge=0)] = 60.0
    virtual: Annotated[tuple[VirtualGatewayConfig, ...], Field(max_length=1_000)] = ()
    address_mover: Literal["none", "interface", "ec2"] = "none"
    address_interface: Annotated[str, StringConstraints(pattern=r"^([a-zA-Z][a-zA-Z0-9_.-]{0,14})?$")] = ""

    @field_validator("echo_interval_s", "user_echo_interval_s")
    @classmethod
    def _check_echo(cls, interval_s: float) -> float:
        if 0 < interval_s < ECHO_INTERVAL_S_MIN:
            raise ValueError(f"must be 0 (none are sent) or at least {ECHO_INTERVAL_S_MIN}")
        return interval_s

    @field_validator("refusals", mode="before")
    @classmethod
    def _check_refusals(cls, refusals: object) -> object:
        known = [each.value for each in AttachRefusal if each is not AttachRefusal.UNKNOWN_SESSION]
        for name in refusals if isinstance(refusals, Mapping) else ():
            if name not in known:
                raise ValueError(
                    f"{name}: no refusal with a cause of its own; known here: {', '.join(known)}"
                )
        return refusals

    @field_validator("peers")
    @classmethod
    def _check_peers(cls, peers: tuple[PeerConfig, ...]) -> tuple[PeerConfig, ...]:
        names = [each.name for each in peers]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"{', '.join(twice)}: a name must be its own")
        widest: tuple[IPv4Network, str] | None = None
        for network, name in sorted((network, each.name) for each in peers for network in each.networks):
            if widest is not None and network.overlaps(widest[0]):
                if name != widest[1]:
                    raise ValueError(f"{name}: {network} overlaps {widest[1]}'s {widest[0]}")
            else:
                widest = network, name
        return peers

    @field_validator("apns", mode="before")
    @classmethod
    def _named(cls, apns: object) -> object:
        if not isinstance(apns, list | tuple):
            return apns
        return [{"name": apn} if isinstance(apn, str) else apn for apn in apns]

    @property
    def prefixes(self) -> UePrefixes:
        """Which /64 goes with which device address."""
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
        """The networks of access points' own, each with one of the access points whose it is."""
        return {each.ue_pool: each for each in reversed(self.apns) if each.ue_pool is not None}

    @property
    def fixed(self) -> Mapping[str, tuple[object, ...]]:
        """What access points have apart, by name: not to be changed while sessions are open."""
        return {each.name: each.own for each in self.apns if any(each.own)}

    @property
    def access_points(self) -> tuple[Apn, ...]:
        """What is served under each access point name."""
        return tuple(
            Apn(
                name=each.name,
                pdn_types=frozenset(each.pdn_types) or self._offered(each),
                dns=each.dns or self.dns,
                dns_ipv6=each.dns_ipv6 or self.dns_ipv6,
                p_cscf=each.p_cscf,
                mtu_bytes=min(each.mtu_bytes, self._mtu_bytes_max),
                ue_pool=each.ue_pool,
            )
            for each in self.apns
        )

    def _offered(self, apn: ApnConfig) -> frozenset[PdnType]:
        prefixes = apn.ue_prefixes if apn.ue_pool is not None else self.ue_prefixes
        return frozenset({PdnType.IPV4} if prefixes is None else PdnType)

    @property
    def mtu_bytes(self) -> int:
        """What every device was told that its link takes, whatever its access point."""
        return min((apn.mtu_bytes for apn in self.access_points), default=self._mtu_bytes_max)

    @property
    def _mtu_bytes_max(self) -> int:
        return MTU_BYTES_MAX - (NUMBER_BYTES if self.user_sequence_numbers else 0)

    @property
    def devices(self) -> tuple[IPv4Network, ...]:
        """Where devices' addresses are of."""
        common = (self.ue_pool,) if self.static_pool is None else (self.ue_pool, self.static_pool)
        return (*common, *self.apn_pools)

    @property
    def forbidden(self) -> tuple[Network, ...]:
        """Where no device's packets go: any of the gateways, and the operator's own networks."""
        own = (IPv4Network(address) for each in self.held for address in each.addresses)
        return (*own, *self.core_networks)

    @property
    def held(self) -> tuple[VirtualGatewayConfig, ...]:
        """All of them."""
        one = VirtualGatewayConfig(
            id=self.id, address=self.address, user_address=self.user_address, doors=self.doors
        )
        return self.virtual or (one,)

    @model_validator(mode="after")
    def _check_mover(self) -> "GatewayConfig":
        if self.address_mover != "none" and not self.address_interface:
            raise ValueError(f"address_mover {self.address_mover}: name the interface in address_interface")
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
    def _check_virtual(self) -> "GatewayConfig":
        used = Counter(address for each in self.held for address in each.addresses)
        for one in self.held:
            if any(used[address] > 1 for address in one.addresses):
                raise ValueError(f"virtual {one.id}: address and user_address must be its own, and differ")
            if one.user_address is not None and "gtp" not in one.doors:
                raise ValueError(f"virtual {one.id}: user_address is for the door gtp; leave it out")
        for place, one in enumerate(self.virtual):
            if one.ue_pool is not None and not one.ue_pool.subnet_of(self.ue_pool):
                raise ValueError(f"virtual {one.id}: {one.ue_pool} is not within ue_pool {self.ue_pool}")
            for other in self.virtual[:place]:
                if one.id == other.id:
                    raise ValueError(f"virtual {one.id}: the id must be its own")
                if one.ue_pool and other.ue_pool and one.ue_pool.overlaps(other.ue_pool):
                    raise ValueError(f"virtual {one.id}: {one.ue_pool} overlaps {other.id}'s {other.ue_pool}")
        return self

    @model_validator(mode="after")
    def _check_apn_pools(self) -> "GatewayConfig":
        if len(self.apn_pools) > APN_POOLS_MAX:
            raise ValueError(f"apns: at most {APN_POOLS_MAX} ue_pool; let access points share some")
        for each in self.apns:
            other = self.apn_pools[each.ue_pool] if each.ue_pool is not None else each
            if each.own != other.own:
                raise ValueError(
                    f"apns {each.name}: shares ue_pool {each.ue_pool} with {other.name}, so {OWN_KEYS}"
                    " must be the same; or give it an ue_pool of its own"
                )
            if each.tun and (each.ue_pool is None or each.tun == self.tun):
                need = "must not be gateway.tun" if each.tun == self.tun else "must have an ue_pool beside it"
                raise ValueError(f"apns {each.name}: tun {each.tun} {need}; or leave it out")
        more = f"-{len(self.held) - 1}" if len(self.held) > 1 else ""
        for tun in (self.tun, *(each.tun for each in self.apns)):
            if len(tun + more) > DEVICE_CHARACTERS_MAX:
                most = DEVICE_CHARACTERS_MAX - len(more)
                raise ValueError(f"tun {tun}: gateways add a number to it; at most {most} characters")
        demand_apart(self.networks)
        return self

    @property
    def networks(self) -> list[tuple[str, Network]]:
        """The networks that devices' addresses are of, and the gateways' addresses, by the key that tells."""
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


class RadiusClient(_Section):
    """The NASes of one subnet and the secret that they share with us.

    ``require_message_authenticator`` off lets NASes in that cannot send it, and with them whoever sits
    between them and us (CVE-2024-3596); ``disconnect_port`` is where they take Disconnect-Requests.
    """

    network: IPv4Network
    secret: Annotated[SecretStr, Field(min_length=8)]
    require_message_authenticator: bool = True
    disconnect_port: Port = 3_799


class RadiusConfig(_Section):
    """The RADIUS door of each virtual gateway; closed while it has no ``clients``.

    ``address``: where it listens, without one at the virtual gateway's own. An
    Access-Accept holds its address for ``provisional_s``; NASes are asked to report every ``interim_s``. A
    session of which nothing came for ``silent_intervals`` of these is ended, though not before half an hour:
    a NAS may go by an interval of its own (RFC 2869 §2.1).
    """

    address: IPv4Address | None = None
    authentication_port: Port = 1_812
    accounting_port: Port = 1_813
    clients: Annotated[tuple[RadiusClient, ...], Field(max_length=10_000)] = ()
    provisional_s: Annotated[float, Field(ge=1, le=3_600)] = 60.0
    interim_s: Annotated[int, Field(ge=60, le=86_400)] = 600
    silent_intervals: Annotated[int, Field(ge=2, le=1_000)] = 3

    @property
    def silent_s(self) -> int:
        """How long a session may be silent."""
        return max(self.silent_intervals * self.interim_s, SILENT_S_MIN)


class EdgeConfig(_Section):
    """The device edge: platform addresses that devices reach inside their tunnel.

    ``message_address`` takes messages by UDP, TCP and HTTP, ``mqtt_address`` by MQTT; the ``…_names`` are
    what ``gateway.dns`` answers with each. TCP, HTTP and MQTT need a network namespace: with ``inside`` at
    ``auto`` they are served where one can be made, ``on`` insists, ``off`` serves UDP alone.

    A gateway without the role ``edge`` hands what is for the platform to one of ``nodes``, the control
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
    inside: Annotated[str, StringConstraints(pattern=r"^(auto|on|off)$")] = "auto"


class StoreConfig(_Section):
    """The store: embedded in ``node.data_dir``, or the cluster of ``cassandra``, nodes that are asked first.

    ``datacenter`` is the local one, whose replicas answer; ``replication_factor`` is what ``airloom store
    migrate`` makes the keyspace with.
    """

    cassandra: tuple[Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9.-]{1,253}$")], ...] = ()
    port: Port = 9_042
    keyspace: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,47}$")] = "airloom"
    datacenter: Name = "datacenter1"
    user_name: str = ""
    password: SecretStr = SecretStr("")
    replication_factor: Annotated[int, Field(ge=1, le=9)] = 3


class StreamConfig(_Section):
    """The stream that device messages go into.

    Embedded: an append log of so many ``shards``. With ``kinesis`` named, that Kinesis data stream, in
    ``region`` (else AWS_DEFAULT_REGION), with credentials by AWS's usual chain; ``endpoint``: another server.
    """

    shards: Annotated[int, Field(ge=1, le=64)] = 4
    kinesis: Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9_.-]{0,128}$")] = ""
    region: Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]{0,32}$")] = ""
    endpoint: Annotated[str, StringConstraints(pattern=r"^(https?://.+)?$")] = ""


class ObjectsConfig(_Section):
    """Exports and dead letters: a folder in ``node.data_dir``, or the S3 bucket ``s3``, under ``prefix``.

    Nodes that share a store need a bucket, or whoever asks another node for an export does not find it.
    ``region``, ``endpoint``: as for the stream.
    """

    s3: Annotated[str, StringConstraints(pattern=r"^([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])?$")] = ""
    prefix: Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9_-]{0,128}$")] = ""
    region: Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]{0,32}$")] = ""
    endpoint: Annotated[str, StringConstraints(pattern=r"^(https?://.+)?$")] = ""


class ApiConfig(_Section):
    """The customer API.

    ``sandbox`` adds SORACOM's sandbox operations (no payment, SIMs from nothing); the SIMs get IMSIs of
    ``sandbox_plmn`` (MCC and MNC; 00101 is the test network).
    """

    host: str = "127.0.0.1"
    port: Port = 8_080
    sandbox: bool = True
    sandbox_plmn: Annotated[str, StringConstraints(pattern=r"^[0-9]{5,6}$")] = "00101"


class UsageConfig(_Section):
    """Metering: a report each interval for each session with change; a UTC day is folded ``fold_after_s``
    after its end, and what is reported of it later is folded as it comes.
    """

    report_interval_s: Annotated[float, Field(gt=0, le=300)] = 5.0
    fold_after_s: Annotated[float, Field(ge=0, le=864_000)] = 3_600.0


class BillingConfig(_Section):
    """The tariff: integer nano-units of the currency for each byte."""

    currency: Annotated[str, StringConstraints(pattern=r"^(USD|JPY|EUR)$")] = "USD"
    nano_per_byte: Annotated[int, Field(ge=0)] = 200
    unit_bytes: Annotated[int, Field(ge=1)] = 1


class Config(_Section):
    """Everything."""

    node: NodeConfig = NodeConfig()
    control: ControlConfig = ControlConfig()
    gateway: GatewayConfig = GatewayConfig()
    radius: RadiusConfig = RadiusConfig()
    edge: EdgeConfig = EdgeConfig()
    store: StoreConfig = StoreConfig()
    stream: StreamConfig = StreamConfig()
    objects: ObjectsConfig = ObjectsConfig()
    api: ApiConfig = ApiConfig()
    usage: UsageConfig = UsageConfig()
    billing: BillingConfig = BillingConfig()

    def doors_of(self, gateway: VirtualGatewayConfig) -> frozenset[Door]:
        """The doors that are open: RADIUS is closed as long as it has no clients."""
        return frozenset(door for door in gateway.doors if door != "radius" or self.radius.clients)

    @property
    def holdable(self) -> tuple[VirtualGatewayConfig, ...]:
        """The virtual gateways that a node of these roles may hold."""
        return tuple(each for each in self.gateway.held if not self._lacking(each))

    def _lacking(self, gateway: VirtualGatewayConfig) -> list[Role]:
        needed = {ROLE_OF_DOOR[door] for door in self.doors_of(gateway)}
        return sorted(needed.difference(self.node.roles))

    @model_validator(mode="after")
    def _check(self) -> "Config":
        known = [each.id for each in self.gateway.held]
        if unknown := set(self.node.home) - set(known):
            raise ValueError(f"node.home: {', '.join(sorted(unknown))} is none of {', '.join(known)}")
        if len(known) > 1 and self.radius.address is not None:
            raise ValueError("radius.address: each virtual gateway has its own; leave it out")
        for each in self.gateway.held:
            if not self.doors_of(each):
                raise ValueError(
                    f"gateway.doors: {each.id} has none that is open; radius.clients are missing"
                )
        if {"gateway", "aaa"} & set(self.node.roles):
            self._check_holdable()
        named = [(f"gateway.{key}", network) for key, network in self.gateway.networks]
        demand_apart([*named, ("edge.platform_network", self.edge.platform_network)])
        if 0 < self.gateway.idle_s < (least := max(60.0, 4 * self.usage.report_interval_s)):
            raise ValueError(f"gateway.idle_s: must be 0 (it does not matter) or at least {least:g}")
        if self.edge.nodes and not self.control.contact:
            raise ValueError("edge.nodes: control.secret must be set, the same as theirs")
        return self

    def _check_holdable(self) -> None:
        wanted = [each for each in self.gateway.held if each.id in self.node.home] or self.gateway.held
        lacking = [(each, roles) for each in wanted if (roles := self._lacking(each))]
        if len(lacking) == len(wanted) or (self.node.home and lacking):
            each, roles = lacking[0]
            raise ValueError(
                f"node.roles: {each.id} has the doors {', '.join(sorted(self.doors_of(each)))}, so whoever"
                f" holds it also needs the role {', '.join(roles)}"
            )
