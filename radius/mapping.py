"""What a NAS says, in the domain's words, and the other way round (TS 29.061 §16).

Rules: 3GPP-IMSI goes before User-Name, which may be the device's own name for an APN; what is not an IMSI
is nobody; octets are counted from the device's side (Acct-Input is its uplink, RFC 2866 §5.3); a counter that
is not there takes nothing away.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from ipaddress import IPv4Address
from typing import NamedTuple

from core.domain.reasons import AttachRefusal
from core.domain.session import NOWHERE, Location
from core.domain.usage import Volume
from radius import attributes as a
from radius.codec import Attribute, Packet, is_chap_answer, reveal_password, text_of

_IMSI = re.compile(r"^0?([0-9]{15})(?:@.*)?$")
"""As it is, with the permanent identity's leading 0 (RFC 4186 §4.1.1.6), with a realm."""
_RAT_NAMES = {1: "3G", 2: "GSM", 3: "WLAN", 4: "GAN", 5: "HSPA", 6: "LTE"}
REPLY_MESSAGE_BYTES_MAX = 253


class AcctStatus(IntEnum):
    """Acct-Status-Type (RFC 2866 §5.1)."""

    START = 1
    STOP = 2
    INTERIM_UPDATE = 3
    ACCOUNTING_ON = 7
    ACCOUNTING_OFF = 8


@dataclass(slots=True)
class AccessRequest:
    """Who asks for access, and by what it wants to be known. ``packet`` and ``secret`` check its password."""

    imsi: str
    user_name: str
    apn: str
    msisdn: str
    imei: str
    location: Location
    framed_address: IPv4Address | None
    packet: Packet = field(repr=False)
    secret: bytes = field(repr=False)

    def knows(self, user_name: str, password: bytes) -> bool:
        """Whether it was sent under this name with this password, by PAP or CHAP."""
        if user_name != self.user_name:
            return False
        chap = is_chap_answer(self.packet, password)
        return chap if chap is not None else reveal_password(self.packet, self.secret) == password


class AccountingReport(NamedTuple):
    """One Accounting-Request. Counters are absolute, 64 bits; 0 where the NAS told none, and as the highest
    counts, that takes nothing away. ``delay_s``: for how long it has been trying to say this.
    """

    status: AcctStatus
    nas_identifier: str
    acct_session_id: str
    class_: bytes
    imsi: str
    apn: str
    msisdn: str
    imei: str
    framed_address: IPv4Address | None
    volume: Volume
    delay_s: int
    location: Location


def access_request_of(packet: Packet, secret: bytes) -> AccessRequest:
    """Read an Access-Request."""
    tgpp = packet.vendor(a.VENDOR_3GPP)
    user_name = packet.text(a.USER_NAME)
    return AccessRequest(
        imsi=_imsi(tgpp, user_name),
        user_name=user_name,
        apn=packet.text(a.CALLED_STATION_ID).lower(),
        msisdn=packet.text(a.CALLING_STATION_ID),
        imei=text_of(tgpp.get(a.TGPP_IMEISV)),
        location=_location(tgpp),
        framed_address=packet.address(a.FRAMED_IP_ADDRESS),
        packet=packet,
        secret=secret,
    )


def accounting_report_of(packet: Packet) -> AccountingReport | None:
    """Read an Accounting-Request; ``None`` when it says nothing that is known here."""
    try:
        status = AcctStatus(packet.integer(a.ACCT_STATUS_TYPE) or 0)
    except ValueError:
        return None
    tgpp = packet.vendor(a.VENDOR_3GPP)
    return AccountingReport(
        status=status,
        nas_identifier=packet.text(a.NAS_IDENTIFIER) or str(packet.address(a.NAS_IP_ADDRESS) or ""),
        acct_session_id=packet.text(a.ACCT_SESSION_ID),
        class_=packet.first(a.CLASS) or b"",
        imsi=_imsi(tgpp, packet.text(a.USER_NAME)),
        apn=packet.text(a.CALLED_STATION_ID).lower(),
        msisdn=packet.text(a.CALLING_STATION_ID),
        imei=text_of(tgpp.get(a.TGPP_IMEISV)),
        framed_address=packet.address(a.FRAMED_IP_ADDRESS),
        volume=Volume(
            up_bytes=_octets(packet, a.ACCT_INPUT_OCTETS, a.ACCT_INPUT_GIGAWORDS),
            down_bytes=_octets(packet, a.ACCT_OUTPUT_OCTETS, a.ACCT_OUTPUT_GIGAWORDS),
            up_packets=packet.integer(a.ACCT_INPUT_PACKETS) or 0,
            down_packets=packet.integer(a.ACCT_OUTPUT_PACKETS) or 0,
        ),
        delay_s=packet.integer(a.ACCT_DELAY_TIME) or 0,
        location=_location(tgpp),
    )


REPLY_MESSAGES: Mapping[AttachRefusal, str] = {
    AttachRefusal.UNKNOWN_SIM: "unknown SIM",
    AttachRefusal.SIM_NOT_REGISTERED: "SIM not registered",
    AttachRefusal.SIM_INACTIVE: "SIM inactive",
    AttachRefusal.SIM_SUSPENDED: "SIM suspended",
    AttachRefusal.SIM_TERMINATED: "SIM terminated",
    AttachRefusal.IMEI_MISMATCH: "SIM locked to another device",
    AttachRefusal.WRONG_PASSWORD: "wrong user name or password",
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


def _imsi(tgpp: Mapping[int, bytes], user_name: str) -> str:
    for text in (text_of(tgpp.get(a.TGPP_IMSI)), user_name):
        if found := _IMSI.match(text):
            return found[1]
    return ""


def _octets(packet: Packet, low: int, high: int) -> int:
    return (packet.integer(high) or 0) << 32 | (packet.integer(low) or 0)


def _location(tgpp: Mapping[int, bytes]) -> Location:
    rat, user_location = tgpp.get(a.TGPP_RAT_TYPE), tgpp.get(a.TGPP_USER_LOCATION)
    if not rat and not user_location:
        return NOWHERE
    return Location(
        rat=_RAT_NAMES.get(rat[0], "") if rat else "", user_location=(user_location or b"")[:32].hex()
    )
