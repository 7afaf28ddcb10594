"""GTPv2-C information elements (TS 29.274 §8).

Rules: an element is type, length, instance and value (§8.2.1); unknown ones are skipped (§7.7.8); of a type
and instance that stands more often than it may, the first counts (§7.7.10). Values are checked where they are
used and say which element, of which instance, is at fault.
"""

import struct
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Self

from msgspec import Struct

from core.domain.session import PdnType, Qos
from core.errors import RemoteProtocolError
from gtp import values
from gtp.v2.cause import NAMES_THE_ELEMENT, Cause

IMSI = 1
CAUSE = 2
RECOVERY = 3
APN = 71
AMBR = 72
EBI = 73
MEI = 75
MSISDN = 76
INDICATION = 77
PCO = 78
PAA = 79
BEARER_QOS = 80
RAT_TYPE = 82
SERVING_NETWORK = 83
BEARER_TFT = 84
TRAFFIC_AGGREGATE = 85
ULI = 86
F_TEID = 87
BEARER_CONTEXT = 93
CHARGING_ID = 94
PDN_TYPE = 99
PTI = 100
MS_TIME_ZONE = 114
APN_RESTRICTION = 127
SELECTION_MODE = 128
EPC_TIMER = 156
SIGNALLING_PRIORITY = 157
APCO = 163
EPCO = 197

S5_S8_SGW_GTP_U, S5_S8_PGW_GTP_U, S5_S8_SGW_GTP_C, S5_S8_PGW_GTP_C = 4, 5, 6, 7
"""F-TEID interface types (§8.22)."""
PDN_TYPES = {1: PdnType.IPV4, 2: PdnType.IPV6, 3: PdnType.IPV4V6}
"""§8.34."""
PDN_NUMBERS = {pdn_type: number for number, pdn_type in PDN_TYPES.items()}
PDN_NON_IP, PDN_ETHERNET = 4, 5
_PAA_BYTES = {PdnType.IPV4: 5, PdnType.IPV6: 18, PdnType.IPV4V6: 22}
PAA_BYTES_MAX = 22
PREFIX_BITS = 64
"""Of every prefix that is given (TS 23.401 §5.3.1.2.2)."""
BEARER_QOS_BYTES, AMBR_BYTES = 22, 8
_ARP_BITS = 0x7D
_DUAL_ADDRESS_BEARER, _HANDOVER = 0x80, 0x20

ELEMENTS_MAX = 64
NO_LENGTH = -1
LENGTHS_MIN = {
    IMSI: 3, CAUSE: 2, RECOVERY: 1, APN: 1, AMBR: 8, EBI: 1, PAA: 1, BEARER_QOS: 22, RAT_TYPE: 1,
    SERVING_NETWORK: 3, F_TEID: 5, CHARGING_ID: 4, PDN_TYPE: 1, PTI: 1, APN_RESTRICTION: 1,
    SELECTION_MODE: 1, TRAFFIC_AGGREGATE: 1,
}  # fmt: skip
"""Octets that a value has at least; less is an invalid length (§7.7.5)."""

_F_TEID = struct.Struct("!BHBBI4s")
"""Type, length, instance; interface, TEID, IPv4 address (§8.22)."""
_CHARGING_ID = struct.Struct("!BHBI")
_AMBR = struct.Struct("!II")

Key = tuple[int, int]
"""Type and instance."""
Elements = dict[Key, bytes]


class ElementError(RemoteProtocolError):
    """An element is missing or wrong: with its instance, for the Cause that names it (§8.4)."""

    def __init__(self, what: str, cause: Cause, key: Key) -> None:
        super().__init__(f"element {key[0]} instance {key[1]}: {what}", cause=cause, offending=key[0])
        self.instance = key[1]


def decode_elements(payload: bytes) -> Elements:
    """Split a message or a group into elements; raises ``RemoteProtocolError`` (65) when one overruns."""
    elements: Elements = {}
    at, count, end = 0, 0, len(payload)
    while at < end:
        count += 1
        if count > ELEMENTS_MAX or at + 4 > end:
            raise RemoteProtocolError("too many elements, or half of one", cause=Cause.INVALID_MESSAGE_FORMAT)
        length = payload[at + 1] << 8 | payload[at + 2]
        key = (payload[at], payload[at + 3] & 15)
        at += 4
        if at + length > end:
            raise ElementError("overruns the message", Cause.INVALID_LENGTH, key)
        if key not in elements:
            elements[key] = payload[at : at + length]
        at += length
    return elements


def every(payload: bytes, type_: int, instance: int = 0) -> list[bytes]:
    """All values of a type and instance, of a message that ``decode_elements`` has split."""
    found: list[bytes] = []
    at = 0
    while at < len(payload):
        end = at + 4 + int.from_bytes(payload[at + 1 : at + 3], "big")
        if (payload[at], payload[at + 3] & 15) == (type_, instance):
            found.append(payload[at + 4 : end])
        at = end
    return found


def encode_element(type_: int, value: bytes, instance: int = 0) -> bytes:
    """One element."""
    return bytes((type_,)) + len(value).to_bytes(2, "big") + bytes((instance,)) + value


@lru_cache(values.REMEMBERED_MAX)
def encode_octet(type_: int, value: int) -> bytes:
    """One element of one octet: EBI (§8.8), Recovery (§8.5)."""
    return encode_element(type_, bytes((value,)))


def encode_charging_id(charging_id: int) -> bytes:
    """§8.29."""
    return _CHARGING_ID.pack(CHARGING_ID, 4, 0, charging_id)


def encode_group(type_: int, elements: Iterable[bytes], instance: int = 0) -> bytes:
    """A grouped element."""
    return encode_element(type_, b"".join(elements), instance)


def required(
    elements: Elements, type_: int, instance: int = 0, missing: Cause = Cause.MANDATORY_IE_MISSING
) -> bytes:
    """A mandatory value; raises ``ElementError`` (70, or ``missing``, when missing, 67 when too short)."""
    if (type_, instance) not in elements:
        raise ElementError("missing", missing, (type_, instance))
    value = elements[type_, instance]
    if type_ in LENGTHS_MIN and len(value) < LENGTHS_MIN[type_]:
        raise ElementError(f"{len(value)} octets", Cause.INVALID_LENGTH, (type_, instance))
    return value


def conditional(elements: Elements, type_: int, instance: int = 0) -> bytes:
    """A value that must be there in this case (§7.7.4): as ``required``, but 103 when it is missing."""
    return required(elements, type_, instance, Cause.CONDITIONAL_IE_MISSING)


def optional(elements: Elements, type_: int, instance: int = 0) -> bytes:
    """An optional value; empty when it is missing or too short: it never refuses a session."""
    if (type_, instance) not in elements:
        return b""
    value = elements[type_, instance]
    return b"" if type_ in LENGTHS_MIN and len(value) < LENGTHS_MIN[type_] else value


# -- values ---------------------------------------------------------------------------------------------


def encode_cause(cause: int, fault: RemoteProtocolError | None = None) -> bytes:
    """§8.4; with the element at fault where the cause names one."""
    value = bytes((cause, 0))
    if cause in NAMES_THE_ELEMENT and isinstance(fault, ElementError) and fault.offending is not None:
        value += bytes((fault.offending, 0, 0, fault.instance))
    return encode_element(CAUSE, value)


class FTeid(Struct, frozen=True):
    """A fully qualified TEID (§8.22): interface type, TEID, IPv4 address as a dotted quad."""

    interface: int
    teid: int
    address: str

    def encode(self, instance: int) -> bytes:
        """The element."""
        address = values.encode_ipv4(self.address)
        return _F_TEID.pack(F_TEID, 9, instance, 0x80 | self.interface, self.teid, address)


def decode_f_teid(elements: Elements, instance: int, missing: Cause = Cause.MANDATORY_IE_MISSING) -> FTeid:
    """A mandatory F-TEID with an IPv4 address and a TEID that is not 0; raises ``ElementError``."""
    value = required(elements, F_TEID, instance, missing)
    teid = int.from_bytes(value[1:5], "big")
    try:
        if not value[0] & 0x80 or teid == 0:
            raise ValueError
        return FTeid(value[0] & 0x3F, teid, values.decode_ipv4(value[5:9]))
    except (AddressValueError, ValueError):
        raise ElementError("no IPv4 F-TEID", Cause.MANDATORY_IE_INCORRECT, (F_TEID, instance)) from None


def decode_imsi(value: bytes) -> str:
    """Raises ``ElementError`` (69)."""
    try:
        return values.decode_imsi(value)
    except RemoteProtocolError:
        raise ElementError("no IMSI", Cause.MANDATORY_IE_INCORRECT, (IMSI, 0)) from None


def decode_apn(value: bytes) -> str:
    """The network identifier, lower case; raises ``ElementError`` (69)."""
    try:
        return values.decode_network_identifier(value)
    except RemoteProtocolError:
        raise ElementError("no APN", Cause.MANDATORY_IE_INCORRECT, (APN, 0)) from None


def decode_msisdn(value: bytes) -> str:
    """Telephony BCD without a nature octet (§8.11); empty when it is none."""
    try:
        return values.decode_tbcd(value[:15])
    except RemoteProtocolError:
        return ""


def decode_pdn_type(value: bytes, type_: int = PDN_TYPE) -> PdnType:
    """The first octet of PDN Type (§8.34) or PAA; raises ``RemoteProtocolError`` (83: it is no IP; 69)."""
    number = value[0] & 7
    if number in (PDN_NON_IP, PDN_ETHERNET):
        raise RemoteProtocolError("only IP is offered", cause=Cause.PREFERRED_PDN_TYPE_NOT_SUPPORTED)
    try:
        return PDN_TYPES[number]
    except KeyError:
        raise ElementError("no PDN type", Cause.MANDATORY_IE_INCORRECT, (type_, 0)) from None


class Paa(Struct, frozen=True):
    """PDN address allocation (§8.14). ``ipv6`` is prefix and interface identifier; what is ``None`` is the
    network's to give.
    """

    pdn_type: PdnType
    ipv4: IPv4Address | None = None
    ipv6: IPv6Address | None = None

    def encode(self) -> bytes:
        """The element."""
        value = bytes((PDN_NUMBERS[self.pdn_type],))
        if self.pdn_type is not PdnType.IPV4:
            value += bytes((PREFIX_BITS,)) + (self.ipv6 or IPv6Address(0)).packed
        if self.pdn_type is not PdnType.IPV6:
            value += (self.ipv4 or IPv4Address(0)).packed
        return encode_element(PAA, value)


@lru_cache(values.REMEMBERED_MAX)
def decode_paa(value: bytes) -> Paa:
    """Of at most ``PAA_BYTES_MAX`` octets, for those beyond do not matter; raises ``ElementError`` (69)."""
    pdn_type = decode_pdn_type(value, PAA)
    ipv4, ipv6 = b"", value[2:18]
    if pdn_type is PdnType.IPV4:
        ipv4, ipv6 = value[1:5], b""
    elif pdn_type is PdnType.IPV4V6:
        ipv4 = value[18:22]
    if len(value) < _PAA_BYTES[pdn_type]:
        raise ElementError("half an address", Cause.MANDATORY_IE_INCORRECT, (PAA, 0))
    return Paa(
        pdn_type,
        IPv4Address(ipv4) if any(ipv4) else None,
        IPv6Address(ipv6) if any(ipv6[:8]) else None,
    )


@lru_cache(values.REMEMBERED_MAX)
def encode_qos(qci: int, arp: int) -> bytes:
    """Bearer level QoS (§8.15) of a bearer without guaranteed rates."""
    return encode_element(BEARER_QOS, bytes((arp & _ARP_BITS, qci)) + bytes(BEARER_QOS_BYTES - 2))


@lru_cache(values.REMEMBERED_MAX)
def encode_ambr(qos: Qos) -> bytes:
    """APN-AMBR (§8.7), kbit/s up and down."""
    return encode_element(AMBR, _AMBR.pack(qos.ambr_up_kbps, qos.ambr_down_kbps))


def decode_ambr(value: bytes) -> tuple[int, int]:
    """Up and down, kbit/s; 0 each of a value that is empty."""
    return _AMBR.unpack_from(value) if value else (0, 0)


class Indication(Struct, frozen=True):
    """The flags of §8.12 that matter here."""

    takes_both: bool = False
    is_handover: bool = False

    @classmethod
    def decode(cls, value: bytes) -> Self:
        """Of any length: what is not there is not set."""
        flags = value[0] if value else 0
        return cls(bool(flags & _DUAL_ADDRESS_BEARER), bool(flags & _HANDOVER))
