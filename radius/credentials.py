"""Credentials of an Access-Request, and whether they can be checked.

Rule: credentials that cannot be checked are never ignored: a request with others than one well-formed PAP or
CHAP password is refused (RFC 3579 §2.6.3, RFC 2869 §5.13, RFC 2865 §4.1).
"""

from radius import attributes as a
from radius.codec import CHAP_PASSWORD_BYTES, PASSWORD_BYTES_MAX, Packet

_OTHER_METHODS = a.MS_CREDENTIALS | {
    a.EAP_MESSAGE,
    a.ARAP_PASSWORD,
    a.ARAP_SECURITY_DATA,
    a.DIGEST_RESPONSE,
    a.DIGEST_RESPONSE_DRAFT,
}
EAP_FAILURE = 4


def shows_password(packet: Packet) -> bool:
    """Whether it carries PAP or CHAP."""
    return a.USER_PASSWORD in packet.firsts or a.CHAP_PASSWORD in packet.firsts


def cannot_be_checked(packet: Packet) -> bool:
    """Whether it carries credentials of a method that is not offered, broken ones, or several."""
    firsts = packet.firsts
    if not _OTHER_METHODS.isdisjoint(firsts):
        return True
    if a.VENDOR_SPECIFIC in firsts and _has_broken_ms_chap(packet):
        return True
    if a.USER_PASSWORD not in firsts and a.CHAP_PASSWORD not in firsts:
        return False
    passwords = [*packet.all(a.USER_PASSWORD), *packet.all(a.CHAP_PASSWORD)]
    if len(passwords) > 1 or len(packet.all(a.USER_NAME)) > 1:
        return True
    length = len(passwords[0])
    if a.CHAP_PASSWORD in firsts:
        return length != CHAP_PASSWORD_BYTES
    return not 0 < length <= PASSWORD_BYTES_MAX or length % 16 != 0


def eap_failure(packet: Packet) -> bytes | None:
    """EAP-Failure for a request that carries EAP (RFC 3579 §2.6.3, RFC 3748 §4.2); ``None`` without."""
    message = packet.first(a.EAP_MESSAGE)
    if message is None:
        return None
    return bytes((EAP_FAILURE, message[1] if len(message) > 1 else 0, 0, 4))


def _has_broken_ms_chap(packet: Packet) -> bool:
    """In an attribute whose inner length is wrong."""
    return not a.MS_CREDENTIALS.isdisjoint(value[:5] for value in packet.all(a.VENDOR_SPECIFIC))
