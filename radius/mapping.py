"""Attributes of requests in the domain's terms, and refusals as Reply-Message (TS 29.061 §16).

Rules: 3GPP-IMSI goes before User-Name, which may be the device's own name for an APN; a name that is not an
IMSI is no SIM's; octets are counted from the device's side (Acct-Input is its uplink, RFC 2866 §5.3); a
missing or broken value never raises, and a missing counter is 0.
"""

import re
from collections.abc import Collection, Mapping
from enum import IntEnum
from functools import lru_cache
from itertools import chain

from msgspec import Struct

from core.domain.ids import is_id
from core.domain.reasons import AttachRefusal
from core.domain.session import NOWHERE, Location, NasName
from core.domain.usage import Volume
from radius import attributes as a
from radius.codec import Attribute, Packet, address_of, is_chap_answer, reveal_password, text_of
from radius.credentials import cannot_be_checked, shows_password

_USER = re.compile(
    r"^(?:(?P<prefix>[^@\\/]*)[\\/])?0?(?P<imsi>[0-9]{15})(?:@(?P<realm>[^@]*))?$",
)
"""An IMSI as it is, or with the permanent identity's leading 0 (RFC 4186 §4.1.1.6), and with a realm behind
(RFC 7542) or before it."""
_OPERATOR_IDENTIFIER = re.compile(r"\.mnc[0-9]{2,3}\.mcc[0-9]{3}\.gprs$")
"""What may follow an access point's name (TS 23.003 §9.1.2)."""
_STATION = re.compile(r"^(?:[0-9a-f]{2}[-:.]?){5}[0-9a-f]{2}:(.+)$")
"""An access point of a WLAN: its address, and the SSID (RFC 3580 §3.20)."""
_RAT_NAMES = {1: "3G", 2: "GSM", 3: "WLAN", 4: "GAN", 5: "HSPA", 6: "LTE"}
_PDP_TYPES = {b"\0\0\0\0", b"\0\0\0\3"}
"""3GPP-PDP-Type with IPv4 in it: IPv4 itself, and both (TS 29.061 §16.4.7.2)."""
REPLY_MESSAGE_BYTES_MAX = 253
REMEMBERED_MAX = 4_096
"""Names of NASes, access points and places, which many packets have in common: each is read once."""
SESSION_IDS_MAX = 4
"""Class attributes that are looked up: one is ours, the others other servers' (RFC 2865 §5.25)."""


class AcctStatus(IntEnum):
    """Acct-Status-Type (RFC 2866 §5.1)."""

    OTHER = 0  # tunnels and links of a NAS (RFC 2867), a failure, or an undefined number
    START = 1
    STOP = 2
    INTERIM_UPDATE = 3
    ACCOUNTING_ON = 7
    ACCOUNTING_OFF = 8


_STATUSES: Mapping[int, AcctStatus] = {status.value: status for status in AcctStatus}


class AccessRequest(Struct, frozen=True):
    """An Access-Request (RFC 2865 §4.1). ``packet`` and ``secret`` check its password.

    ``apns`` are the access points that Called-Station-Id may mean, in order. ``refusal``: why it cannot be
    granted to any SIM. ``must_prove``: only the device names its SIM, and it shows a password.
    """

    imsi: str
    nas: NasName
    apns: tuple[str, ...]
    msisdn: str
    imei: str
    location: Location
    refusal: AttachRefusal | None
    must_prove: bool
    packet: Packet
    secret: bytes

    def __repr__(self) -> str:
        """Without password and secret."""
        return f"AccessRequest(imsi={self.imsi!r}, nas={self.nas!r}, user_name={self.user_name!r})"

    @property
    def user_name(self) -> str:
        """User-Name (RFC 2865 §5.1), which may be no IMSI."""
        return self.packet.text(a.USER_NAME)

    def knows(self, user_name: str, password: bytes) -> bool:
        """Whether it has this User-Name and password, by PAP or CHAP (RFC 2865 §5.2, §5.3)."""
        if user_name != self.user_name:
            return False
        chap = is_chap_answer(self.packet, password)
        return chap if chap is not None else reveal_password(self.packet, self.secret) == password


class AccountingReport(Struct, frozen=True):
    """An Accounting-Request (RFC 2866 §4.1). Counters are absolute, 64 bits (RFC 2869 §5.1); 0 for one that
    the NAS did not send: the highest counts, so that changes nothing. ``session_ids`` are the Class
    attributes that may be ours. Attributes that most reports do not need are read from ``packet`` on demand.
    """

    status: AcctStatus
    nas: NasName
    session_ids: tuple[str, ...]
    imsi: str
    says_imsi: bool
    imei: str
    volume: Volume
    location: Location
    packet: Packet

    @property
    def acct_session_id(self) -> str:
        """Acct-Session-Id (RFC 2866 §5.5); empty without one."""
        return self.packet.text(a.ACCT_SESSION_ID)

    @property
    def user_name(self) -> str:
        """User-Name (RFC 2865 §5.1), which may be no IMSI."""
        return self.packet.text(a.USER_NAME)

    @property
    def apns(self) -> tuple[str, ...]:
        """The access points that Called-Station-Id may mean, in order."""
        return _apns(self.packet)

    @property
    def msisdn(self) -> str:
        """Calling-Station-Id."""
        return self.packet.text(a.CALLING_STATION_ID)

    @property
    def framed_address(self) -> str:
        """The device's address, a dotted quad; empty without one."""
        return self.packet.address(a.FRAMED_IP_ADDRESS)

    @property
    def delay_s(self) -> int:
        """Acct-Delay-Time: how long the NAS has been trying to send this (RFC 2866 §5.2)."""
        return self.packet.integer(a.ACCT_DELAY_TIME) or 0

    @property
    def session_s(self) -> int:
        """Acct-Session-Time: how long the session has lasted (RFC 2866 §5.7)."""
        return self.packet.integer(a.ACCT_SESSION_TIME) or 0

    @property
    def event_timestamp(self) -> int | None:
        """Event-Timestamp, in seconds since 1970 (RFC 2869 §5.3)."""
        return self.packet.integer(a.EVENT_TIMESTAMP)

    @property
    def authenticator(self) -> bytes:
        """The Request Authenticator: repeats have the same, other packets another (RFC 2866 §3)."""
        return self.packet.authenticator


def access_request_of(packet: Packet, source: str, secret: bytes, realms: Collection[str]) -> AccessRequest:
    """Read an Access-Request from the address ``source``; ``realms`` as in ``RadiusClient``."""
    firsts, refusal = packet.firsts, None
    if cannot_be_checked(packet):
        refusal = AttachRefusal.AUTHENTICATION_NOT_SUPPORTED
    elif a.TGPP_PDP_TYPE in firsts and firsts[a.TGPP_PDP_TYPE] not in _PDP_TYPES:
        refusal = AttachRefusal.PDP_TYPE_NOT_SUPPORTED
    return AccessRequest(
        imsi=_imsi(packet, realms),
        nas=_nas_name(packet, source),
        apns=_apns(packet),
        msisdn=packet.text(a.CALLING_STATION_ID),
        imei=packet.text(a.TGPP_IMEISV),
        location=_location(packet),
        refusal=refusal,
        must_prove=a.TGPP_IMSI not in firsts and shows_password(packet),
        packet=packet,
        secret=secret,
    )


def accounting_report_of(packet: Packet, source: str, realms: Collection[str]) -> AccountingReport | None:
    """Read an Accounting-Request; ``None`` when it lacks Acct-Status-Type (RFC 2866 §5.13: exactly one)."""
    status_type = packet.integer(a.ACCT_STATUS_TYPE)
    if status_type is None:
        return None
    return AccountingReport(
        status=_STATUSES[status_type] if status_type in _STATUSES else AcctStatus.OTHER,
        nas=_nas_name(packet, source),
        session_ids=_session_ids(packet),
        imsi=_imsi(packet, realms),
        says_imsi=a.TGPP_IMSI in packet.firsts,
        imei=packet.text(a.TGPP_IMEISV),
        volume=Volume(
            up_bytes=_octets(packet, a.ACCT_INPUT_OCTETS, a.ACCT_INPUT_GIGAWORDS),
            down_bytes=_octets(packet, a.ACCT_OUTPUT_OCTETS, a.ACCT_OUTPUT_GIGAWORDS),
            up_packets=packet.integer(a.ACCT_INPUT_PACKETS) or 0,
            down_packets=packet.integer(a.ACCT_OUTPUT_PACKETS) or 0,
        ),
        location=_location(packet),
        packet=packet,
    )


REPLY_MESSAGES: Mapping[AttachRefusal, str] = {
    AttachRefusal.UNKNOWN_SIM: "unknown SIM",
    AttachRefusal.SIM_NOT_REGISTERED: "SIM not registered",
    AttachRefusal.SIM_INACTIVE: "SIM inactive",
    AttachRefusal.SIM_SUSPENDED: "SIM suspended",
    AttachRefusal.SIM_TERMINATED: "SIM terminated",
    AttachRefusal.IMEI_MISMATCH: "SIM locked to another device",
    AttachRefusal.WRONG_PASSWORD: "wrong user name or password",
    AttachRefusal.AUTHENTICATION_NOT_SUPPORTED: "authentication method not supported",
    AttachRefusal.FOREIGN_SIM: "not a SIM of this client",
    AttachRefusal.UNKNOWN_APN: "unknown APN",
    AttachRefusal.PDP_TYPE_NOT_SUPPORTED: "address type not supported",
    AttachRefusal.ADDRESSES_OCCUPIED: "no address free",
    AttachRefusal.STATIC_ADDRESS_UNAVAILABLE: "static address not available",
    AttachRefusal.NO_RESOURCES: "no resources",
    AttachRefusal.CONGESTED: "too many requests",
    AttachRefusal.APN_CONGESTED: "too many requests for this APN",
    AttachRefusal.TOO_MANY_SESSIONS: "too many sessions of this SIM",
    AttachRefusal.UNKNOWN_SESSION: "unknown session",
    AttachRefusal.FOREIGN_ADDRESS: "not supported",
    AttachRefusal.NOT_SUPPORTED: "not supported",
}
"""What each refusal looks like on this wire: an Access-Reject with these words."""


def reply_message(reason: AttachRefusal) -> Attribute:
    """Reply-Message (RFC 2865 §5.18)."""
    return a.REPLY_MESSAGE, REPLY_MESSAGES[reason].encode()[:REPLY_MESSAGE_BYTES_MAX]


def _imsi(packet: Packet, realms: Collection[str]) -> str:
    """The network's word goes first; a name of a realm that is not served is no SIM's."""
    if found := _USER.match(packet.text(a.TGPP_IMSI)):
        return found["imsi"]
    found = _USER.match(packet.text(a.USER_NAME))
    if found is None:
        return ""
    named = {each.lower() for each in (found["prefix"], found["realm"]) if each}
    return found["imsi"] if not realms or named.issubset(realms) else ""


def _session_ids(packet: Packet) -> tuple[str, ...]:
    ids = [text for value in packet.all(a.CLASS) if is_id(text := text_of(value))]
    return (*ids[:SESSION_IDS_MAX],)


def _nas_name(packet: Packet, source: str) -> NasName:
    firsts = packet.firsts
    identifier = firsts[a.NAS_IDENTIFIER] if a.NAS_IDENTIFIER in firsts else b""
    ip_address = firsts[a.NAS_IP_ADDRESS] if a.NAS_IP_ADDRESS in firsts else b""
    return _nas_name_of(identifier, ip_address, source)


@lru_cache(REMEMBERED_MAX)
def _nas_name_of(identifier: bytes, ip_address: bytes, source: str) -> NasName:
    return NasName(text_of(identifier), address_of(ip_address), source)


def _apns(packet: Packet) -> tuple[str, ...]:
    """What Called-Station-Id may name, in order."""
    if a.CALLED_STATION_ID not in packet.firsts:
        return ()
    if not packet.others:
        return _apns_of(packet.firsts[a.CALLED_STATION_ID])
    return tuple(chain.from_iterable(map(_apns_of, packet.all(a.CALLED_STATION_ID))))


@lru_cache(REMEMBERED_MAX)
def _apns_of(called_station_id: bytes) -> tuple[str, ...]:
    """An access point, or a WLAN's SSID that is one's name."""
    name = text_of(called_station_id).lower().rstrip(".")
    apn, station = _OPERATOR_IDENTIFIER.sub("", name), _STATION.match(name)
    return (apn, station[1]) if station else (apn,)


def _octets(packet: Packet, low: int, high: int) -> int:
    """64 bits (RFC 2869 §5.1, §5.2)."""
    octets = packet.integer(low) or 0
    return (packet.integer(high) or 0) << 32 | octets if high in packet.firsts else octets


def _location(packet: Packet) -> Location:
    firsts = packet.firsts
    rat = firsts[a.TGPP_RAT_TYPE] if a.TGPP_RAT_TYPE in firsts else b""
    user_location = firsts[a.TGPP_USER_LOCATION] if a.TGPP_USER_LOCATION in firsts else b""
    return _location_of(rat, user_location) if rat or user_location else NOWHERE


@lru_cache(REMEMBERED_MAX)
def _location_of(rat: bytes, user_location: bytes) -> Location:
    return Location(rat=_RAT_NAMES.get(rat[0], "") if rat else "", user_location=user_location[:32].hex())
