"""The configuration's sections as immutable objects, one file per kind of section.

Rule: an unknown key is an error that names it (``core.config_file``).
"""

from collections.abc import Callable
from ipaddress import IPv4Address

from pydantic import model_validator

from core.config.apn import OWN_KEYS, ApnConfig
from core.config.base import Section
from core.config.customers import ApiConfig, BillingConfig, UsageConfig
from core.config.edge import EdgeConfig
from core.config.gateway import GatewayConfig
from core.config.instances import GatewayInstanceConfig
from core.config.node import (
    ROLE_OF_PROTOCOL,
    ROLES,
    AccessProtocol,
    ControlConfig,
    MetricsConfig,
    NodeConfig,
    Role,
)
from core.config.peers import PeerConfig, RefusalConfig
from core.config.radius import RadiusClient, RadiusConfig
from core.config.storage import ObjectsConfig, StoreConfig, StreamConfig
from core.domain.networks import demand_apart
from core.errors import ConfigurationError

__all__ = [
    "OWN_KEYS",
    "RELOADABLE",
    "ROLES",
    "AccessProtocol",
    "ApiConfig",
    "ApnConfig",
    "BillingConfig",
    "Config",
    "ControlConfig",
    "EdgeConfig",
    "GatewayConfig",
    "GatewayInstanceConfig",
    "MetricsConfig",
    "NodeConfig",
    "ObjectsConfig",
    "PeerConfig",
    "RadiusClient",
    "RadiusConfig",
    "RefusalConfig",
    "Role",
    "StoreConfig",
    "StreamConfig",
    "UsageConfig",
    "reloadable_changes",
]

RELOADABLE = frozenset({"gateway.allowed_peers", "gateway.apns", "gateway.peers", "gateway.refusals"})
"""The keys that a running node takes over when it reads its configuration again."""
_PUT_ASIDE = {"api": "exports", "edge": "dead letters"}
"""The objects that nodes write, by role."""


class Config(Section):
    """All sections."""

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
    metrics: MetricsConfig = MetricsConfig()

    def protocols_of(self, gateway: GatewayInstanceConfig) -> frozenset[AccessProtocol]:
        """The protocols that are open; RADIUS is closed while it has no clients."""
        return frozenset(
            protocol for protocol in gateway.protocols if protocol != "radius" or self.radius.clients
        )

    @property
    def holdable(self) -> tuple[GatewayInstanceConfig, ...]:
        """The gateway instances that a node of these roles may hold."""
        return tuple(each for each in self.gateway.held if not self._lacking(each))

    def gateways_within(self, may_attach: Callable[[IPv4Address], bool]) -> tuple[GatewayInstanceConfig, ...]:
        """Those that this node may hold and whose addresses it may have; raises ``ConfigurationError`` when
        a preferred one, or every one, has an address that it may not have.
        """
        within = tuple(each for each in self.holdable if all(map(may_attach, each.addresses)))
        preferred = {each.id for each in self.holdable if each.id in self.node.preferred_gateways}
        beyond = preferred.difference(each.id for each in within)
        if beyond or (self.holdable and not within):
            raise ConfigurationError(
                f"node.preferred_gateways: the address of"
                f" {', '.join(sorted(beyond)) or 'every gateway instance'} is not in"
                f" the subnet of {self.gateway.floating_ip_interface}; set gateways of this node's subnet"
            )
        return within

    def demand_shared_objects(self) -> None:
        """Raises ``ConfigurationError`` when nodes share a store, but not what this one puts aside."""
        here = [what for role, what in _PUT_ASIDE.items() if role in self.node.roles]
        if self.store.cassandra and here and not self.objects.s3 and self.objects.folder is None:
            raise ConfigurationError(
                f"objects.s3: not set, but nodes share a store (store.cassandra) and the other nodes could"
                f" not read {' and '.join(here)} in this node's folder; set a bucket, or objects.folder to a"
                f" folder that all nodes mount"
            )

    def _lacking(self, gateway: GatewayInstanceConfig) -> list[Role]:
        needed = {ROLE_OF_PROTOCOL[protocol] for protocol in self.protocols_of(gateway)}
        return sorted(needed.difference(self.node.roles))

    @model_validator(mode="after")
    def _check(self) -> "Config":
        known = [each.id for each in self.gateway.held]
        if unknown := set(self.node.preferred_gateways) - set(known):
            raise ValueError(
                f"node.preferred_gateways: {', '.join(sorted(unknown))}: no such gateway instance; known:"
                f" {', '.join(known)}"
            )
        if len(known) > 1 and self.radius.address is not None:
            raise ValueError("radius.address: each gateway instance has its own address; remove the key")
        for each in self.gateway.held:
            if not self.protocols_of(each):
                raise ValueError(
                    f"gateway.protocols: {each.id} no protocol is enabled; radius needs radius.clients"
                )
        if {"gateway", "aaa"} & set(self.node.roles):
            self._check_holdable()
        named = [(f"gateway.{key}", network) for key, network in self.gateway.networks]
        demand_apart([*named, ("edge.platform_network", self.edge.platform_network)])
        if 0 < self.gateway.idle_timeout_s < (least := max(60.0, 4 * self.usage.report_interval_s)):
            raise ValueError(f"gateway.idle_timeout_s: must be 0 (disabled) or at least {least:g}")
        if self.edge.nodes and not self.control.contact:
            raise ValueError("edge.nodes: control.secret must be set, to the edge nodes' value")
        return self

    def _check_holdable(self) -> None:
        wanted = [
            each for each in self.gateway.held if each.id in self.node.preferred_gateways
        ] or self.gateway.held
        lacking = [(each, roles) for each in wanted if (roles := self._lacking(each))]
        if len(lacking) == len(wanted) or (self.node.preferred_gateways and lacking):
            each, roles = lacking[0]
            raise ValueError(
                f"node.roles: {each.id} has the protocols {', '.join(sorted(self.protocols_of(each)))}, so a"
                f" node that serves it also needs the role {', '.join(roles)}"
            )


def reloadable_changes(before: Config, after: Config) -> frozenset[str]:
    """The keys whose values differ, as ``gateway.peers``; raises ``ConfigurationError`` when a running node
    cannot take one of them over.
    """
    changed = frozenset(
        f"{section}.{key}"
        for section in Config.model_fields
        for key in type(getattr(before, section)).model_fields
        if getattr(getattr(before, section), key) != getattr(getattr(after, section), key)
    )
    if before.gateway.fixed != after.gateway.fixed:
        raise ConfigurationError(
            f"gateway.apns: {OWN_KEYS} of an access point cannot be changed, nor such an access point"
            f" added, in a running node; restart it"
        )
    if fixed := changed - RELOADABLE:
        raise ConfigurationError(
            f"{', '.join(sorted(fixed))}: cannot be changed in a running node; restart it, or change only"
            f" {', '.join(sorted(RELOADABLE))}"
        )
    return changed
