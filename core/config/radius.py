"""The RADIUS protocol and its clients."""

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr, StringConstraints

from core.config.base import Name, Port, Section, secret_of, text

SECRET_CHARACTERS_MIN = 8
"""Of the secret that a NAS shares with us."""
SILENT_S_MIN = 1_800
"""Three of the intervals that RFC 2869 recommends."""

ImsiPrefix = Annotated[str, text(r"[0-9]{1,15}", "1 to 15 digits")]
ApnName = Annotated[str, text(r"[a-z0-9.-]{1,63}", "1 to 63 lower-case letters, digits, '.' and '-'")]
Realm = Annotated[
    str,
    StringConstraints(to_lower=True),
    text(r"[^\s@\\/]{1,253}", "1 to 253 characters without spaces, '@', '/' and backslashes"),
]


class RadiusClient(Section):
    """The NASes of one subnet, the secret that they share with us, and their rights.

    ``name`` is used in logs, metrics and other clients' ``may_take_over``; without one it is the network.
    Without ``require_message_authenticator`` NASes that cannot send the attribute are accepted, and so is an
    attacker on the path (CVE-2024-3596). Disconnect-Requests go to ``disconnect_port``.

    Rights: SIMs whose IMSI begins with one of ``imsi_prefixes``, and access points of ``apns`` (empty: all).
    A new session replaces those of the same SIM at the same NAS, and those of the clients in
    ``may_take_over``, whose NASes are sent a Disconnect-Request; with its own name there, its NASes take over
    from each other. Other sessions of the SIM stay beside the new one.

    Requests: ``default_apn`` is used where Called-Station-Id names no access point; ``realms`` are those that
    a User-Name may have (empty: any; a name without a realm is always accepted). Without ``check_passwords``
    a password that no group demands is not verified, so that User-Name alone identifies the SIM. With
    ``own_addresses`` its NASes assign addresses of their own pools, and may report sessions that they did not
    ask access for. With ``require_event_timestamp`` an Accounting-On or -Off ends sessions only if its
    Event-Timestamp is within five minutes.

    Usage: a report may add at most ``line_rate_mbps`` of one session and direction since the one before; with
    ``enforces_speed_class``, for NASes that enforce it, at most the fastest speed class that the SIM had
    since the session was opened.
    """

    network: IPv4Network
    secret: Annotated[SecretStr, secret_of(SECRET_CHARACTERS_MIN)]
    name: Name | None = None
    require_message_authenticator: bool = True
    disconnect_port: Port = 3_799
    imsi_prefixes: Annotated[tuple[ImsiPrefix, ...], Field(max_length=1_000)] = ()
    apns: Annotated[tuple[ApnName, ...], Field(max_length=1_000)] = ()
    may_take_over: Annotated[tuple[str, ...], Field(max_length=1_000)] = ()
    default_apn: ApnName | None = None
    realms: Annotated[tuple[Realm, ...], Field(max_length=1_000)] = ()
    check_passwords: bool = True
    own_addresses: bool = False
    require_event_timestamp: bool = False
    line_rate_mbps: Annotated[float, Field(gt=0, le=1_000_000)] = 1_000.0
    enforces_speed_class: bool = False

    @property
    def known_as(self) -> str:
        """Its name, or its network."""
        return self.name or str(self.network)


def _demand_own_names(clients: Sequence[RadiusClient]) -> Sequence[RadiusClient]:
    """Raises ``ValueError`` when two clients share a name or a network, or one names an unknown client."""
    for values in ([each.known_as for each in clients], [str(each.network) for each in clients]):
        if twice := sorted({value for value in values if values.count(value) > 1}):
            raise ValueError(f"{', '.join(twice)}: used twice; each client needs its own")
    names = {each.known_as for each in clients}
    for each in clients:
        if unknown := sorted(set(each.may_take_over) - names):
            raise ValueError(
                f"{each.known_as}: may_take_over: {', '.join(unknown)}: no such client;"
                f" known: {', '.join(sorted(names))}"
            )
        if each.apns and each.default_apn not in (None, *each.apns):
            raise ValueError(f"{each.known_as}: default_apn: {each.default_apn} must be one of apns")
    return clients


class RadiusConfig(Section):
    """RADIUS of each gateway instance; closed while there are no ``clients``.

    ``address``: where it listens; if not set, at the gateway instance's own. An Access-Accept reserves its
    address for ``reservation_ttl_s``; NASes are asked to report every ``interim_s``. A session that is silent
    for ``interim_missed_max`` of these intervals ends, but not before half an hour, because a NAS may use an
    interval of its own (RFC 2869 §2.1).
    """

    address: IPv4Address | None = None
    authentication_port: Port = 1_812
    accounting_port: Port = 1_813
    clients: Annotated[
        tuple[RadiusClient, ...], Field(max_length=10_000), AfterValidator(_demand_own_names)
    ] = ()
    reservation_ttl_s: Annotated[float, Field(ge=1, le=3_600)] = 60.0
    interim_s: Annotated[int, Field(ge=60, le=86_400)] = 600
    interim_missed_max: Annotated[int, Field(ge=2, le=1_000)] = 3

    @property
    def silent_s(self) -> int:
        """How long a session may be silent."""
        return max(self.interim_missed_max * self.interim_s, SILENT_S_MIN)
