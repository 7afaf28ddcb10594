"""GTPv1-C information elements (TS 29.060 §7.7).

Rules: an element of a type below 128 has the fixed length of ``TV_LENGTHS`` (§7.7.0), one above carries
its length; elements of unknown type above 127 are skipped, below 128 they end the message, because their
length cannot be known. The Extension Header Type List alone has a length of one octet (§7.7.40). Of elements
that stand more often than they may, the first counts. Values are checked where they are used and say which
element is at fault.
"""

import struct
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from operator import itemgetter

from msgspec import Struct

from core.domain.session import PdnType
from core.errors import LocalProtocolError, RemoteProtocolError
from gtp import values
from gtp.v1.cause import Cause

CAUSE = 1
IMSI = 2
ROUTEING_AREA = 3
RECOVERY = 14
SELECTION_MODE = 15
TEID_DATA_I = 16
TEID_CONTROL = 17
TEARDOWN_IND = 19
NSAPI = 20
CHARGING_ID = 127
END_USER_ADDRESS = 128
ACCESS_POINT_NAME = 131
PROTOCOL_CONFIGURATION_OPTIONS = 132
GSN_ADDRESS = 133
MSISDN = 134
QUALITY_OF_SERVICE = 135
EXTENSION_HEADER_TYPES = 141
COMMON_FLAGS = 148
RAT_TYPE = 151
USER_LOCATION = 152
MS_TIME_ZONE = 153
IMEI = 154
MS_INFO_CHANGE_REPORTING_ACTION = 181
EVOLVED_ARP_I = 191
AGGREGATE_MAXIMUM_BIT_RATE = 198
BACK_OFF_TIME = 202
SIGNALLING_PRIORITY = 203
REORDERING_REQUIRED = 8

TV_LENGTHS = {
    1: 1, 2: 8, 3: 6, 4: 4, 5: 4, 8: 1, 9: 28, 11: 1, 12: 3, 13: 1, 14: 1, 15: 1, 16: 4, 17: 4, 18: 5,
    19: 1, 20: 1, 21: 1, 22: 9, 23: 1, 24: 1, 25: 2, 26: 2, 27: 2, 28: 2, 29: 1, 126: 1, 127: 4,
}  # fmt: skip
"""Octets after the type octet of each element below 128 (TS 29.060 §7.7.0, table 37)."""

ELEMENTS_MAX = 64
END_USER_ADDRESS_OCTETS_MAX = 22
"""Type organisation and number, an IPv4 and an IPv6 address; a longer one is incorrect."""
_GSN_ADDRESSES_MIN = 2

TYPES = 256
ABSENT: list[bytes] = [b""]
"""Stands for the values of a type that a message does not have: one, and empty."""
_TYPE_OF = itemgetter(0)
_HEAD = struct.Struct("!BH")
"""Type and length of an element above 127."""


Elements = list[list[bytes]]
"""Values by type, in the order in which they stood; ``ABSENT`` of a type that is not there."""


def decode_elements(payload: bytes) -> Elements:
    """Split a message into elements; raises ``RemoteProtocolError`` (cause 193) when one overruns."""
    elements = [ABSENT] * TYPES
    at, count, end = 0, 0, len(payload)
    while at < end:
        count += 1
        if count > ELEMENTS_MAX:
            raise _malformed(f"more than {ELEMENTS_MAX} elements")
        type_ = payload[at]
        if type_ < 128:
            if type_ not in TV_LENGTHS:
                raise _malformed(f"unknown element {type_} of unknown length")
            length = TV_LENGTHS[type_]
            at += 1
        else:
            head = 2 if type_ == EXTENSION_HEADER_TYPES else 3
            if at + head > end:
                raise _malformed(f"element {type_} has no length")
            length = payload[at + 1] if head == 2 else payload[at + 1] << 8 | payload[at + 2]
            at += head
        if at + length > end:
            raise _malformed(f"element {type_} overruns the message", type_)
        value = payload[at : at + length]
        if elements[type_] is ABSENT:
            elements[type_] = [value]
        else:
            elements[type_].append(value)
        at += length
    return elements


def present(elements: Elements) -> dict[int, list[bytes]]:
    """The values of the types that are there, by type."""
    return {type_: found for type_, found in enumerate(elements) if found is not ABSENT}


def encode_elements(elements: Iterable[tuple[int, bytes]]) -> bytes:
    """Join elements, in ascending order of type (TS 29.060 §7.7.0); equal types keep their order."""
    parts: list[bytes] = []
    for type_, value in sorted(elements, key=_TYPE_OF):
        if type_ < 128:
            if len(value) != TV_LENGTHS[type_]:
                raise LocalProtocolError(f"element {type_} of {len(value)} octets")
            parts.append(bytes((type_,)) + value)
        else:
            octets = 1 if type_ == EXTENSION_HEADER_TYPES else 2
            parts.append(bytes((type_,)) + len(value).to_bytes(octets, "big") + value)
    return b"".join(parts)


def encode_element(type_: int, value: bytes) -> bytes:
    """One element of a type above 127."""
    return _HEAD.pack(type_, len(value)) + value


# -- values ---------------------------------------------------------------------------------------------


def decode_imsi(value: bytes) -> str:
    """As ``gtp.values.decode_imsi``, with cause 201."""
    try:
        return values.decode_imsi(value)
    except RemoteProtocolError:
        raise _incorrect(IMSI) from None


def decode_network_identifier(value: bytes) -> str:
    """As ``gtp.values.decode_network_identifier``, with cause 201."""
    try:
        return values.decode_network_identifier(value)
    except RemoteProtocolError:
        raise _incorrect(ACCESS_POINT_NAME) from None


@lru_cache(values.REMEMBERED_MAX)
def decode_gsn_addresses(addresses: tuple[bytes, ...]) -> tuple[str, str]:
    """SGSN addresses for signalling and for user traffic (§7.7.32), both mandatory, then, where those are of
    IPv6, the alternatives of both (§7.3.1, §7.3.3). Cause 202 when there is one, 201 when one of both has no
    IPv4 address, or a length that no address has.
    """
    if len(addresses) < _GSN_ADDRESSES_MIN:
        raise RemoteProtocolError(
            "one GSN address of two", cause=Cause.MANDATORY_IE_MISSING, offending=GSN_ADDRESS
        )
    found = []
    for alternatives in (addresses[0::2], addresses[1::2]):
        lengths = [len(value) for value in alternatives]
        if 4 not in lengths or not {4, 16}.issuperset(lengths):
            raise _incorrect(GSN_ADDRESS)
        found.append(values.decode_ipv4(alternatives[lengths.index(4)]))
    return found[0], found[1]


@lru_cache(values.REMEMBERED_MAX)
def encode_gsn_addresses(control: str, user: str) -> bytes:
    """Our addresses for signalling and for user traffic, both elements."""
    return b"".join(encode_element(GSN_ADDRESS, values.encode_ipv4(address)) for address in (control, user))


class EndUserAddress(Struct, frozen=True):
    """§7.7.27: the PDP type, ``None`` when it is none of the IETF's, and the addresses in it, if any."""

    pdn_type: PdnType | None
    ipv4: IPv4Address | None = None
    ipv6: IPv6Address | None = None


_IETF = 1
_PDP_TYPES = {0x21: PdnType.IPV4, 0x57: PdnType.IPV6, 0x8D: PdnType.IPV4V6}
_PDP_NUMBERS = {pdn_type: number for number, pdn_type in _PDP_TYPES.items()}
_ADDRESS_OCTETS = {PdnType.IPV4: (0, 4), PdnType.IPV6: (0, 16), PdnType.IPV4V6: (0, 4, 16, 20)}


@lru_cache(values.REMEMBERED_MAX)
def decode_end_user_address(value: bytes) -> EndUserAddress:
    """Raises ``RemoteProtocolError`` (cause 201) when the address has no length that its type may have."""
    if len(value) < 2:
        raise _incorrect(END_USER_ADDRESS)
    pdn_type, address = _PDP_TYPES.get(value[1]), value[2:]
    if value[0] & 15 != _IETF or pdn_type is None:
        return EndUserAddress(None)
    if len(address) not in _ADDRESS_OCTETS[pdn_type]:
        raise _incorrect(END_USER_ADDRESS)
    ipv4, ipv6 = address[: len(address) % 16], address[len(address) % 16 :]
    return EndUserAddress(
        pdn_type,
        IPv4Address(ipv4) if any(ipv4) else None,
        IPv6Address(ipv6) if any(ipv6) else None,
    )


def encode_end_user_address(address: EndUserAddress) -> bytes:
    """Without an address: to be given by the network."""
    assert address.pdn_type is not None, "only the IETF's types are spoken"
    value = bytes((0xF0 | _IETF, _PDP_NUMBERS[address.pdn_type]))
    if address.ipv4 is not None:
        value += address.ipv4.packed
    return value if address.ipv6 is None else value + address.ipv6.packed


def encode_msisdn(digits: str) -> bytes:
    """§7.7.33: nature and plan of an international number (TS 29.002), then telephony BCD."""
    return b"\x91" + values.encode_tbcd(digits, (len(digits) + 1) // 2)


def decode_msisdn(value: bytes) -> str:
    """Digits only; empty when they are none (an optional element never refuses a session)."""
    try:
        return values.decode_tbcd(value[1:16])
    except RemoteProtocolError:
        return ""


def first(elements: Elements, type_: int) -> bytes | None:
    """The first value of a type."""
    values = elements[type_]
    return None if values is ABSENT else values[0]


def required(elements: Elements, type_: int) -> bytes:
    """The first value of a mandatory type; raises ``RemoteProtocolError`` (cause 202)."""
    value = first(elements, type_)
    if value is None:
        raise RemoteProtocolError(
            f"mandatory element {type_} is missing", cause=Cause.MANDATORY_IE_MISSING, offending=type_
        )
    return value


def _incorrect(type_: int) -> RemoteProtocolError:
    return RemoteProtocolError(
        f"mandatory element {type_} is incorrect", cause=Cause.MANDATORY_IE_INCORRECT, offending=type_
    )


def _malformed(message: str, type_: int | None = None) -> RemoteProtocolError:
    return RemoteProtocolError(message, cause=Cause.INVALID_MESSAGE_FORMAT, offending=type_)
