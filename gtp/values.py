"""Values that both versions of GTP-C write alike.

Rule: what cannot be read raises ``RemoteProtocolError`` without a cause, or is empty where it is optional;
the version that asked knows which element it was.
"""

from collections.abc import Callable
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from math import ceil
from sys import intern

from core.domain.session import Cell, Location
from core.errors import LocalProtocolError, RemoteProtocolError

APN_OCTETS_MAX = 100
REMEMBERED_MAX = 1_024
"""What so many names, networks and peers' addresses mean is remembered: they are few."""
_SWAPPED = bytes((octet & 15) << 4 | octet >> 4 for octet in range(256))
"""Each octet with its nibbles swapped."""
IMSI_DIGITS_MIN, IMSI_DIGITS_MAX = 6, 15


def decode_tbcd(value: bytes) -> str:
    """Telephony BCD, low nibble first, ended by the filler 0xF (TS 29.060 §7.7.2)."""
    digits = value.translate(_SWAPPED).hex().rstrip("f")
    if digits and not digits.isdecimal():
        raise RemoteProtocolError("a digit beyond 9")
    return digits


def encode_tbcd(digits: str, length: int) -> bytes:
    """``length`` octets of telephony BCD, filled with 0xF."""
    if not digits.isascii() or not digits.isdigit() or len(digits) > 2 * length:
        raise LocalProtocolError(f"{digits!r} does not fit {length} octets of digits")
    nibbles = [int(digit) for digit in digits] + [15] * (2 * length - len(digits))
    return bytes(low | high << 4 for low, high in zip(nibbles[::2], nibbles[1::2], strict=True))


def decode_imsi(value: bytes) -> str:
    """6–15 digits (TS 23.003 §2.2)."""
    imsi = decode_tbcd(value)
    if not IMSI_DIGITS_MIN <= len(imsi) <= IMSI_DIGITS_MAX:
        raise RemoteProtocolError("IMSI")
    return imsi


def decode_imei(value: bytes) -> str:
    """IMEI or IMEISV (§7.7.53), 15 or 16 digits; empty when it is none."""
    if not value:
        return ""
    try:
        imei = decode_tbcd(value)
    except RemoteProtocolError:
        return ""
    return imei if len(imei) in (15, 16) else ""


@lru_cache(REMEMBERED_MAX)
def decode_ipv4(value: bytes) -> str:
    """The address of a peer as a dotted quad, one object for all its sessions; raises
    ``AddressValueError``.
    """
    return intern(str(IPv4Address(value)))


@lru_cache(REMEMBERED_MAX)
def encode_ipv4(address: str) -> bytes:
    """The inverse of ``decode_ipv4``."""
    return IPv4Address(address).packed


def decode_apn(value: bytes) -> str:
    """Labels, each after its length (TS 23.003 §9.1), as lower-case text with dots."""
    labels: list[str] = []
    at = 0
    if not 0 < len(value) <= APN_OCTETS_MAX:
        raise RemoteProtocolError("access point name")
    while at < len(value):
        length = value[at]
        label = value[at + 1 : at + 1 + length]
        if length == 0 or len(label) != length or not _is_label(label):
            raise RemoteProtocolError("access point name")
        labels.append(label.decode("ascii").lower())
        at += 1 + length
    return ".".join(labels)


def encode_apn(apn: str) -> bytes:
    """The inverse of ``decode_apn``."""
    return b"".join(bytes((len(label),)) + label.encode("ascii") for label in apn.split("."))


@lru_cache(REMEMBERED_MAX)
def decode_network_identifier(value: bytes) -> str:
    """The APN without its operator identifier ``.mncXXX.mccXXX.gprs`` (TS 23.003 §9.1.2)."""
    apn = decode_apn(value)
    labels = apn.split(".")
    if len(labels) > 3 and labels[-1] == "gprs" and labels[-3].startswith("mnc"):
        return ".".join(labels[:-3])
    return apn


@lru_cache(REMEMBERED_MAX)
def decode_plmn(value: bytes) -> str:
    """MCC and MNC as five or six digits (TS 24.008 §10.5.1.3); empty when they are none."""
    if len(value) < 3:
        return ""
    nibbles = [nibble for octet in value[:3] for nibble in (octet & 15, octet >> 4)]
    mcc, mnc = [nibbles[0], nibbles[1], nibbles[2]], [nibbles[4], nibbles[5], nibbles[3]]
    if mnc[2] == 15:
        mnc.pop()
    if any(digit > 9 for digit in mcc + mnc):
        return ""
    return "".join(map(str, mcc + mnc))


_RAT_NAMES = {1: "3G", 2: "GSM", 3: "WLAN", 4: "GAN", 5: "HSPA", 6: "LTE", 8: "NB-IoT", 9: "LTE-M"}
"""RAT types (TS 29.060 §7.7.50, TS 29.274 §8.17)."""


def decode_rat(value: bytes) -> str:
    """The radio access technology's name; empty when it is none."""
    return _RAT_NAMES.get(value[0], "") if value else ""


def decode_time_zone(value: bytes) -> str:
    """MS Time Zone (TS 29.060 §7.7.52, TS 24.008 §10.5.3.8), as ``+09:00``; empty when it is none."""
    if not value:
        return ""
    tens, ones = value[0] & 7, value[0] >> 4
    hours, quarters = divmod(10 * tens + ones, 4)
    if ones > 9:
        return ""
    return f"{'-' if value[0] & 8 else '+'}{hours:02}:{15 * quarters:02}"


def decode_cell_v1(value: bytes) -> Cell | None:
    """User location information of version 1 (TS 29.060 §7.7.51): CGI, SAI or RAI; ``None``: none."""
    name = {0: "ci", 1: "sac", 2: "rac"}.get(value[0]) if len(value) >= 8 else None
    plmn = decode_plmn(value[1:4])
    if name is None or not plmn:
        return None
    within = value[6] if name == "rac" else int.from_bytes(value[6:8], "big")
    return _cell(plmn, lac=int.from_bytes(value[4:6], "big"), **{name: within})


def decode_cell_v2(value: bytes) -> Cell | None:
    """User location information of version 2 (TS 29.274 §8.21): what of it is whole; ``None``: nothing."""
    found: dict[str, int] = {}
    plmn, at = "", 1
    for flag, area, within, octets in _PARTS_V2:
        if not value or not value[0] & flag:
            continue
        part = value[at : at + octets]
        if len(part) < octets:
            break
        plmn = decode_plmn(part) or plmn
        if area:
            found[area] = int.from_bytes(part[3:5], "big")
        if within == "eci":
            found[within] = int.from_bytes(part[3:7], "big") & 0x0FFFFFFF
        elif within:
            found[within] = part[5] if within == "rac" else int.from_bytes(part[5:7], "big")
        at += octets
    return _cell(plmn, **found) if plmn and found else None


_PARTS_V2 = (
    (0x01, "lac", "ci", 7),
    (0x02, "lac", "sac", 7),
    (0x04, "lac", "rac", 7),
    (0x08, "tac", "", 5),
    (0x10, "", "eci", 7),
    (0x20, "lac", "", 5),
)
"""Flag, the area and what within it, and its octets, in their order."""
USER_LOCATION_OCTETS_MAX = 64
"""Of the raw element so many are kept."""


_TIMER_UNITS_S, _TIMER_VALUE_MAX = (2, 60, 600, 3_600, 36_000), 31


@lru_cache(REMEMBERED_MAX)
def locate(
    decode_cell: Callable[[bytes], Cell | None],
    serving_network: bytes,
    rat: bytes,
    user_location: bytes,
    time_zone: bytes,
) -> Location:
    """What a message says of where its device is, from the values of its elements, or empty ones: they are
    remembered, so a caller cuts them to what may count of them.
    """
    return Location(
        plmn=decode_plmn(serving_network) or decode_plmn(user_location[1:4]),
        rat=decode_rat(rat),
        user_location=user_location.hex(),
        cell=decode_cell(user_location),
        time_zone=decode_time_zone(time_zone),
    )


def _cell(plmn: str, **parts: int) -> Cell:
    return Cell(int(plmn[:3]), int(plmn[3:]), **parts)


def encode_back_off(seconds: float) -> bytes:
    """A timer's octet (TS 29.274 §8.87, TS 29.060 §7.7.102), no shorter than this; at most 310 hours."""
    for unit, unit_s in enumerate(_TIMER_UNITS_S):
        if (value := ceil(seconds / unit_s)) <= _TIMER_VALUE_MAX:
            return bytes((unit << 5 | value,))
    return bytes(((len(_TIMER_UNITS_S) - 1) << 5 | _TIMER_VALUE_MAX,))


def asked_prefix(address: IPv6Address) -> IPv6Network | None:
    """The /64 that a device wants; ``None`` when it names an interface identifier alone."""
    if address.is_link_local or not any(address.packed[:8]):
        return None
    return IPv6Network((address, 64), strict=False)


def _is_label(label: bytes) -> bool:
    return all(chr(octet).isalnum() or octet in b"-_" for octet in label) and label.isascii()
