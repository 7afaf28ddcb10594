"""Values that both versions of GTP-C write alike.

Rule: what cannot be read raises ``RemoteProtocolError`` without a cause, or is empty where it is optional;
the version that asked knows which element it was.
"""

from core.errors import LocalProtocolError, RemoteProtocolError

_SWAPPED = tuple(f"{octet & 15:x}{octet >> 4:x}" for octet in range(256))
"""An octet's two digits, the low nibble first."""
APN_OCTETS_MAX = 100
IMSI_DIGITS_MIN, IMSI_DIGITS_MAX = 6, 15


def decode_tbcd(value: bytes) -> str:
    """Telephony BCD, low nibble first, ended by the filler 0xF (TS 29.060 §7.7.2)."""
    digits = "".join(map(_SWAPPED.__getitem__, value)).rstrip("f")
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
    try:
        imei = decode_tbcd(value)
    except RemoteProtocolError:
        return ""
    return imei if len(imei) in (15, 16) else ""


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


def network_identifier(apn: str) -> str:
    """The APN without its operator identifier ``.mncXXX.mccXXX.gprs`` (TS 23.003 §9.1.2)."""
    labels = apn.split(".")
    if len(labels) > 3 and labels[-1] == "gprs" and labels[-3].startswith("mnc"):
        return ".".join(labels[:-3])
    return apn


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


def _is_label(label: bytes) -> bool:
    return all(chr(octet).isalnum() or octet in b"-_" for octet in label) and label.isascii()
