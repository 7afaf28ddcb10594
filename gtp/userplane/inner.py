"""Inner packets that the gateway makes or changes itself: ICMP errors, fragments, smaller TCP segments.

Rules: whole packets come in whose lengths were checked; bytes go out. Nothing here knows a session.

References: RFC 791, 792, 1191; RFC 4443, 8200, 8201; RFC 1071, 1624 (checksums); RFC 9293 §3.7.1 (MSS).
"""

import struct
from collections.abc import Iterator

HEADER_IPV4_BYTES = 20
HEADER_IPV6_BYTES = 40
ICMP, TCP, ICMPV6 = 1, 6, 58
MTU_IPV6_BYTES_MIN = 1_280
QUOTED_IPV4_BYTES = 528
QUOTED_IPV6_BYTES = 1_232
"""Of what an ICMP error is about: the whole is within 576 (RFC 1812 §4.3.2.3) and 1,280 octets (RFC 4443)."""

_TTL = 64
_DONT_FRAGMENT, _MORE_FRAGMENTS, _OFFSET = 0x4000, 0x2000, 0x1FFF
_IPV4 = struct.Struct("!BBHHHBBH4s4s")
_IPV6 = struct.Struct("!IHBB16s16s")
_FRAGMENTATION_NEEDED = b"\x03\x04"
_PACKET_TOO_BIG = 2
_ICMP_ERRORS = frozenset((3, 4, 5, 11, 12))
_ICMPV6_INFORMATIONAL = 128
_TCP_HEADER_BYTES = 20
_END_OF_OPTIONS, _NO_OPERATION, _MSS = 0, 1, 2
_COPIED = 0x80


def checksum(data: bytes) -> int:
    """The ones' complement of the ones' complement sum of 16-bit words (RFC 1071); 0 over what holds its own.

    A number modulo 65,535 is the sum of its base-65,536 digits, which is what the end-around carry adds.
    """
    if len(data) % 2:
        data += b"\0"
    number = int.from_bytes(data, "big")
    return 0xFFFF - (number % 0xFFFF or (0xFFFF if number else 0))


def icmpv6(kind: int, source: bytes, destination: bytes, content: bytes, hop_limit: int = _TTL) -> bytes:
    """An ICMPv6 packet of this type and code 0 (RFC 4443 §2.1)."""
    message = bytes((kind, 0, 0, 0)) + content
    total = checksum(_pseudo_header(source, destination, len(message)) + message)
    header = _IPV6.pack(6 << 28, len(message), ICMPV6, hop_limit, source, destination)
    return header + message[:2] + total.to_bytes(2, "big") + content


def is_sum_icmpv6(packet: bytes) -> bool:
    """Whether the checksum of an ICMPv6 packet without extension headers is right."""
    message = packet[HEADER_IPV6_BYTES:]
    return not checksum(_pseudo_header(packet[8:24], packet[24:40], len(message)) + message)


def too_big(packet: bytes, mtu_bytes: int, source: bytes) -> bytes:
    """The ICMP error from ``source`` with the MTU, for the sender of a packet that is too big; empty where it
    must not be sent: about an error, a later fragment, or what has no one sender (RFC 1122 §3.2.2, RFC 4443
    §2.4).
    """
    if packet[0] >> 4 == 4:
        return _fragmentation_needed(packet, mtu_bytes, source)
    message = packet[HEADER_IPV6_BYTES:]
    is_error = packet[6] == ICMPV6 and message[0] < _ICMPV6_INFORMATIONAL
    if is_error or packet[8] == 0xFF or not any(packet[8:24]):
        return b""
    content = max(mtu_bytes, MTU_IPV6_BYTES_MIN).to_bytes(4, "big") + packet[:QUOTED_IPV6_BYTES]
    return icmpv6(_PACKET_TOO_BIG, source, packet[8:24], content)


def _fragmentation_needed(packet: bytes, mtu_bytes: int, source: bytes) -> bytes:
    is_error = packet[9] == ICMP and packet[(packet[0] & 15) * 4] in _ICMP_ERRORS
    is_later = int.from_bytes(packet[6:8], "big") & _OFFSET
    if is_error or is_later or packet[12] in (0, 127) or packet[12] >= 224:
        return b""
    rest = b"\0\0" + mtu_bytes.to_bytes(2, "big") + packet[:QUOTED_IPV4_BYTES]
    total = checksum(_FRAGMENTATION_NEEDED + b"\0\0" + rest)
    message = _FRAGMENTATION_NEEDED + total.to_bytes(2, "big") + rest
    # an atomic datagram: its identification may be 0 (RFC 6864 §4.1)
    size = HEADER_IPV4_BYTES + len(message)
    fields = (0x45, 0, size, 0, _DONT_FRAGMENT, _TTL, ICMP, 0, source, packet[12:16])
    return _summed(_IPV4.pack(*fields)) + message


def fragments(packet: bytes, mtu_bytes: int) -> Iterator[bytes]:
    """An IPv4 packet in pieces of at most ``mtu_bytes`` (RFC 791 §3.2); none when it may not be cut."""
    flags = int.from_bytes(packet[6:8], "big")
    size = (packet[0] & 15) * 4
    if packet[0] >> 4 != 4 or flags & _DONT_FRAGMENT or 8 * (flags & _OFFSET) + len(packet) - size > 0xFFFF:
        return
    step = (mtu_bytes - size) & ~7
    header = packet[:size]
    for at in range(size, len(packet), step):
        content = packet[at : at + step]
        more = flags & _MORE_FRAGMENTS or (_MORE_FRAGMENTS if at + step < len(packet) else 0)
        place = more | ((flags & _OFFSET) + (at - size >> 3))
        head = header[:2] + (size + len(content)).to_bytes(2, "big") + header[4:6] + place.to_bytes(2, "big")
        yield _summed(head + header[8:]) + content
        header = header[:HEADER_IPV4_BYTES] + _for_later_fragments(packet[HEADER_IPV4_BYTES:size])


def _for_later_fragments(options: bytes) -> bytes:
    """Options that are not to be copied give way to no operation, so that the header keeps its length."""
    kept, at = bytearray(options), 0
    while at < len(options) and options[at] != _END_OF_OPTIONS:
        length = options[at + 1] if options[at] != _NO_OPERATION and at + 1 < len(options) else 1
        if not options[at] & _COPIED:
            kept[at : at + length] = bytes((_NO_OPERATION,)) * len(kept[at : at + length])
        at += max(length, 1)
    return bytes(kept)


def clamp_mss(packet: bytes, header_bytes: int, mtu_bytes: int) -> bytes:
    """A TCP packet whose MSS option, if it has one, is no more than fits in ``mtu_bytes``.

    ``header_bytes`` is where TCP begins, with at least its fixed header there. Any other packet comes back as
    it is.
    """
    if packet[0] >> 4 == 4 and int.from_bytes(packet[6:8], "big") & _OFFSET:
        return packet
    mss = mtu_bytes - (HEADER_IPV6_BYTES if packet[0] >> 4 == 6 else HEADER_IPV4_BYTES) - _TCP_HEADER_BYTES
    end = min(header_bytes + (packet[header_bytes + 12] >> 4) * 4, len(packet))
    at = header_bytes + _TCP_HEADER_BYTES
    while at < end and packet[at] != _END_OF_OPTIONS:
        if packet[at] == _NO_OPERATION:
            at += 1
            continue
        length = packet[at + 1] if at + 1 < end else 0
        if length < 2:
            return packet
        if packet[at] == _MSS and length == 4 and at + 4 <= end:
            return _with_mss(packet, header_bytes, at + 2, mss)
        at += length
    return packet


def _with_mss(packet: bytes, header_bytes: int, at: int, mss: int) -> bytes:
    """The checksum is changed by the difference alone (RFC 1624 eqn. 3), so what was broken stays broken."""
    old, new = packet[at : at + 2], mss.to_bytes(2, "big")
    if old <= new:
        return packet
    sum_at = header_bytes + 16
    step = -1 if (at - header_bytes) % 2 else 1  # across two words: each octet is in the other half
    difference = 0xFFFF - int.from_bytes(old[::step], "big") + int.from_bytes(new[::step], "big")
    total = 0xFFFF - int.from_bytes(packet[sum_at : sum_at + 2], "big") + difference
    total = 0xFFFF - (total % 0xFFFF or 0xFFFF)
    return b"".join(
        (packet[:sum_at], total.to_bytes(2, "big"), packet[sum_at + 2 : at], new, packet[at + 2 :])
    )


def _summed(header: bytes) -> bytes:
    """An IPv4 header with its checksum."""
    unsummed = header[:10] + b"\0\0" + header[12:]
    return header[:10] + checksum(unsummed).to_bytes(2, "big") + header[12:]


def _pseudo_header(source: bytes, destination: bytes, length: int) -> bytes:
    return source + destination + length.to_bytes(4, "big") + bytes((0, 0, 0, ICMPV6))
