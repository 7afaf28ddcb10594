"""IPv4, UDP and ICMP as they travel inside a device's tunnel.

Rules: bytes in, values out; nothing here knows a session. What is not a whole, unfragmented, correctly
summed IPv4 packet is a ``Fault`` and never an exception: the sender is a device that anyone may own.
"""

import struct
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address

IPV4_HEADER_BYTES = 20
UDP_HEADER_BYTES = 8
ICMP_HEADER_BYTES = 8
PACKET_BYTES_MAX = 65_535
UDP_PAYLOAD_BYTES_MAX = PACKET_BYTES_MAX - IPV4_HEADER_BYTES - UDP_HEADER_BYTES
TTL = 64
PROTOCOL_ICMP = 1
PROTOCOL_TCP = 6
PROTOCOL_UDP = 17
TCP_SYN, TCP_RST, TCP_ACK = 0x02, 0x04, 0x10
ECHO_REPLY = 0
DESTINATION_UNREACHABLE = 3
PORT_UNREACHABLE = 3
ECHO_REQUEST = 8
DONT_FRAGMENT = 0x4000
MORE_FRAGMENTS_AND_OFFSET = 0x3FFF

_IPV4 = struct.Struct("!BBHHHBBH4s4s")
_UDP = struct.Struct("!HHHH")


class Fault(Enum):
    """Why a packet is dropped."""

    NOT_IPV4 = "not_ipv4"
    HEADER_LENGTH = "header_length"
    TOTAL_LENGTH = "total_length"
    HEADER_CHECKSUM = "header_checksum"
    FRAGMENT = "fragment"
    PROTOCOL = "protocol"
    UDP_LENGTH = "udp_length"
    UDP_CHECKSUM = "udp_checksum"
    ICMP_LENGTH = "icmp_length"
    ICMP_CHECKSUM = "icmp_checksum"
    ICMP_TYPE = "icmp_type"


@dataclass(frozen=True, slots=True)
class UdpDatagram:
    """A UDP datagram (RFC 768) and the ends it travels between."""

    source: IPv4Address
    source_port: int
    destination: IPv4Address
    destination_port: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class EchoRequest:
    """An ICMP echo (RFC 792): what follows the checksum is given back as it came."""

    source: IPv4Address
    destination: IPv4Address
    rest: bytes


@dataclass(frozen=True, slots=True)
class TcpPacket:
    """A packet for a TCP that is not ours to look into; ``whole`` is without what followed it.

    ``is_first``: it asks for a connection (RFC 9293 §3.5: SYN without ACK).
    """

    source: IPv4Address
    whole: bytes
    is_first: bool


def parse(packet: bytes) -> UdpDatagram | EchoRequest | TcpPacket | Fault:
    """What a packet holds (RFC 791 §3.1). Options are passed over; octets behind the total length ignored."""
    fault = _header_fault(packet)
    if fault is not None:
        return fault
    content = packet[(packet[0] & 15) * 4 : int.from_bytes(packet[2:4], "big")]
    if packet[9] == PROTOCOL_UDP:
        return _parse_udp(packet[12:20], content)
    if packet[9] == PROTOCOL_ICMP:
        return _parse_icmp(packet[12:20], content)
    if packet[9] == PROTOCOL_TCP:
        whole = packet[: int.from_bytes(packet[2:4], "big")]
        return TcpPacket(IPv4Address(packet[12:16]), whole, tcp_flags(whole) & (TCP_SYN | TCP_ACK) == TCP_SYN)
    return Fault.PROTOCOL


def _header_fault(packet: bytes) -> Fault | None:
    if len(packet) < IPV4_HEADER_BYTES or packet[0] >> 4 != 4:
        return Fault.NOT_IPV4
    header_bytes = (packet[0] & 15) * 4
    if header_bytes < IPV4_HEADER_BYTES:
        return Fault.HEADER_LENGTH
    if not header_bytes <= int.from_bytes(packet[2:4], "big") <= len(packet):
        return Fault.TOTAL_LENGTH
    if checksum(packet[:header_bytes]):
        return Fault.HEADER_CHECKSUM
    if int.from_bytes(packet[6:8], "big") & MORE_FRAGMENTS_AND_OFFSET:
        return Fault.FRAGMENT
    return None


def tcp_flags(packet: bytes) -> int:
    """The control bits of a TCP packet over IPv4 (RFC 9293 §3.1); 0 where it ends before them."""
    at = (packet[0] & 15) * 4 + 13
    return packet[at] if len(packet) > at else 0


def is_plain_refusal(packet: bytes) -> bool:
    """Whether a packet over IPv4 only says that something did not work: ICMP, or a TCP RST."""
    return packet[9] == PROTOCOL_ICMP or (packet[9] == PROTOCOL_TCP and bool(tcp_flags(packet) & TCP_RST))


def _parse_udp(addresses: bytes, content: bytes) -> UdpDatagram | Fault:
    if len(content) < UDP_HEADER_BYTES:
        return Fault.UDP_LENGTH
    source_port, destination_port, length, given = _UDP.unpack_from(content)
    if not UDP_HEADER_BYTES <= length <= len(content):
        return Fault.UDP_LENGTH
    datagram = content[:length]
    if given and checksum(_pseudo_header(addresses, length) + datagram):  # zero: the sender made none
        return Fault.UDP_CHECKSUM
    return UdpDatagram(
        IPv4Address(addresses[:4]),
        source_port,
        IPv4Address(addresses[4:]),
        destination_port,
        datagram[UDP_HEADER_BYTES:],
    )


def _parse_icmp(addresses: bytes, content: bytes) -> EchoRequest | Fault:
    if len(content) < ICMP_HEADER_BYTES:
        return Fault.ICMP_LENGTH
    if content[0] != ECHO_REQUEST or content[1] != 0:
        return Fault.ICMP_TYPE
    if checksum(content):
        return Fault.ICMP_CHECKSUM
    return EchoRequest(IPv4Address(addresses[:4]), IPv4Address(addresses[4:]), content[4:])


def build_udp(datagram: UdpDatagram) -> bytes:
    """A packet that carries it, with its checksums; raises ``ValueError`` over 65,507 octets of payload."""
    length = UDP_HEADER_BYTES + len(datagram.payload)
    if len(datagram.payload) > UDP_PAYLOAD_BYTES_MAX:
        raise ValueError(f"{len(datagram.payload)} octets do not fit a UDP datagram")
    addresses = datagram.source.packed + datagram.destination.packed
    ports = (datagram.source_port, datagram.destination_port)
    unsummed = _UDP.pack(*ports, length, 0) + datagram.payload
    total = checksum(_pseudo_header(addresses, length) + unsummed) or 0xFFFF
    return _ipv4(PROTOCOL_UDP, addresses, _UDP.pack(*ports, length, total) + datagram.payload)


def reply_to(datagram: UdpDatagram, payload: bytes) -> bytes:
    """The packet that answers a datagram, from where it was sent to."""
    return build_udp(
        UdpDatagram(
            datagram.destination,
            datagram.destination_port,
            datagram.source,
            datagram.source_port,
            payload,
        )
    )


def echo_reply(request: EchoRequest) -> bytes:
    """The packet that answers an echo."""
    return _icmp(ECHO_REPLY, 0, request.destination, request.source, request.rest)


def port_unreachable(packet: bytes) -> bytes:
    """The packet that says that nobody listens (RFC 792), about one that ``parse`` found to be UDP."""
    quoted = packet[: (packet[0] & 15) * 4 + UDP_HEADER_BYTES]
    source, destination = IPv4Address(packet[12:16]), IPv4Address(packet[16:20])
    return _icmp(DESTINATION_UNREACHABLE, PORT_UNREACHABLE, destination, source, bytes(4) + quoted)


def checksum(data: bytes) -> int:
    """The ones' complement of the ones' complement sum of 16-bit words (RFC 1071); 0 over what holds its own.

    A number modulo 65,535 is the sum of its base-65,536 digits, which is what the end-around carry adds.
    """
    if len(data) % 2:
        data += b"\0"
    number = int.from_bytes(data, "big")
    return 0xFFFF - (number % 0xFFFF or (0xFFFF if number else 0))


def _pseudo_header(addresses: bytes, length: int) -> bytes:
    return addresses + bytes((0, PROTOCOL_UDP)) + length.to_bytes(2, "big")


def _icmp(kind: int, code: int, source: IPv4Address, destination: IPv4Address, rest: bytes) -> bytes:
    total = checksum(bytes((kind, code, 0, 0)) + rest)
    message = bytes((kind, code)) + total.to_bytes(2, "big") + rest
    return _ipv4(PROTOCOL_ICMP, source.packed + destination.packed, message)


def _ipv4(protocol: int, addresses: bytes, content: bytes) -> bytes:
    """An atomic datagram: not to be fragmented, so that its identification may be 0 (RFC 6864 §4.1)."""
    fields = (0x45, 0, IPV4_HEADER_BYTES + len(content), 0, DONT_FRAGMENT, TTL, protocol)
    ends = (addresses[:4], addresses[4:])
    return _IPV4.pack(*fields, checksum(_IPV4.pack(*fields, 0, *ends)), *ends) + content
