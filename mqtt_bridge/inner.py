"""IPv4, UDP and ICMP as they travel inside a device's tunnel.

Rules: bytes in, values out; nothing here knows a session. What is not a whole, unfragmented, correctly
summed IPv4 packet is a ``Fault`` and never an exception: the sender is a device that anyone may own.
Addresses stay the octets that they are in the packet, until they are asked for.
"""

import struct
from ipaddress import IPv4Address

from msgspec import Struct

from core.domain.values import KeyEnum

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


class Fault(KeyEnum):
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


class UdpDatagram(Struct, frozen=True, gc=False):
    """A UDP datagram (RFC 768); ``addresses``: its source and its destination, eight octets."""

    addresses: bytes
    source_port: int
    destination_port: int
    payload: bytes

    @classmethod
    def between(
        cls,
        source: IPv4Address,
        source_port: int,
        destination: IPv4Address,
        destination_port: int,
        payload: bytes,
    ) -> "UdpDatagram":
        """One from end to end."""
        return cls(source.packed + destination.packed, source_port, destination_port, payload)

    @property
    def source(self) -> IPv4Address:
        """Its sender."""
        return IPv4Address(self.addresses[:4])

    @property
    def destination(self) -> IPv4Address:
        """Its receiver."""
        return IPv4Address(self.addresses[4:])


class EchoRequest(Struct, frozen=True, gc=False):
    """An ICMP echo (RFC 792); ``addresses`` as in ``UdpDatagram``, ``rest`` is to be sent back as it is."""

    addresses: bytes
    rest: bytes


class TcpPacket(Struct, frozen=True, gc=False):
    """A packet for a TCP that is not ours to look into; ``whole`` is without what followed it.

    ``is_first``: it asks for a connection (RFC 9293 §3.5: SYN without ACK).
    """

    whole: bytes
    is_first: bool


def parse(packet: bytes) -> UdpDatagram | EchoRequest | TcpPacket | Fault:
    """What a packet holds (RFC 791 §3.1). Options are passed over; octets behind the total length ignored."""
    fault = _header_fault(packet)
    if fault is not None:
        return fault
    header_bytes, whole_bytes, protocol = (packet[0] & 15) * 4, packet[2] << 8 | packet[3], packet[9]
    if protocol == PROTOCOL_UDP:
        return _parse_udp(packet[12:20], packet[header_bytes:whole_bytes])
    if protocol == PROTOCOL_ICMP:
        return _parse_icmp(packet[12:20], packet[header_bytes:whole_bytes])
    if protocol == PROTOCOL_TCP:
        whole = packet[:whole_bytes]
        return TcpPacket(whole, tcp_flags(whole) & (TCP_SYN | TCP_ACK) == TCP_SYN)
    return Fault.PROTOCOL


def _header_fault(packet: bytes) -> Fault | None:
    size = len(packet)
    if size < IPV4_HEADER_BYTES or packet[0] >> 4 != 4:
        return Fault.NOT_IPV4
    header_bytes = (packet[0] & 15) * 4
    if header_bytes < IPV4_HEADER_BYTES:
        return Fault.HEADER_LENGTH
    if not header_bytes <= (packet[2] << 8 | packet[3]) <= size:
        return Fault.TOTAL_LENGTH
    if checksum(packet[:header_bytes]):
        return Fault.HEADER_CHECKSUM
    if (packet[6] << 8 | packet[7]) & MORE_FRAGMENTS_AND_OFFSET:
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
    return UdpDatagram(addresses, source_port, destination_port, datagram[UDP_HEADER_BYTES:])


def _parse_icmp(addresses: bytes, content: bytes) -> EchoRequest | Fault:
    if len(content) < ICMP_HEADER_BYTES:
        return Fault.ICMP_LENGTH
    if content[0] != ECHO_REQUEST or content[1] != 0:
        return Fault.ICMP_TYPE
    if checksum(content):
        return Fault.ICMP_CHECKSUM
    return EchoRequest(addresses, content[4:])


def build_udp(datagram: UdpDatagram) -> bytes:
    """A packet that carries it, with its checksums; raises ``ValueError`` over 65,507 octets of payload."""
    return _udp(datagram.addresses, datagram.source_port, datagram.destination_port, datagram.payload)


def reply_to(datagram: UdpDatagram, payload: bytes) -> bytes:
    """The packet that answers a datagram, from where it was sent to."""
    return _udp(_swapped(datagram.addresses), datagram.destination_port, datagram.source_port, payload)


def echo_reply(request: EchoRequest) -> bytes:
    """The packet that answers an echo."""
    return _icmp(ECHO_REPLY, 0, _swapped(request.addresses), request.rest)


def port_unreachable(packet: bytes) -> bytes:
    """The packet that refuses one which ``parse`` found to be UDP: its port is closed (RFC 792)."""
    quoted = packet[: (packet[0] & 15) * 4 + UDP_HEADER_BYTES]
    return _icmp(DESTINATION_UNREACHABLE, PORT_UNREACHABLE, _swapped(packet[12:20]), bytes(4) + quoted)


def checksum(data: bytes) -> int:
    """The ones' complement of the ones' complement sum of 16-bit words (RFC 1071); 0 over what holds its own.

    A number modulo 65,535 is the sum of its base-65,536 digits, which is what the end-around carry adds.
    """
    if len(data) % 2:
        data += b"\0"
    number = int.from_bytes(data, "big")
    return 0xFFFF - (number % 0xFFFF or (0xFFFF if number else 0))


def _swapped(addresses: bytes) -> bytes:
    return addresses[4:] + addresses[:4]


def _pseudo_header(addresses: bytes, length: int) -> bytes:
    return addresses + bytes((0, PROTOCOL_UDP, length >> 8, length & 0xFF))


def _udp(addresses: bytes, source_port: int, destination_port: int, payload: bytes) -> bytes:
    length = UDP_HEADER_BYTES + len(payload)
    if length > UDP_HEADER_BYTES + UDP_PAYLOAD_BYTES_MAX:
        raise ValueError(f"{len(payload)} octets do not fit a UDP datagram")
    unsummed = _UDP.pack(source_port, destination_port, length, 0) + payload
    total = checksum(_pseudo_header(addresses, length) + unsummed) or 0xFFFF
    return _ipv4(PROTOCOL_UDP, addresses, _UDP.pack(source_port, destination_port, length, total) + payload)


def _icmp(kind: int, code: int, addresses: bytes, rest: bytes) -> bytes:
    total = checksum(bytes((kind, code, 0, 0)) + rest)
    return _ipv4(PROTOCOL_ICMP, addresses, bytes((kind, code)) + total.to_bytes(2, "big") + rest)


def _ipv4(protocol: int, addresses: bytes, content: bytes) -> bytes:
    """An atomic datagram: not to be fragmented, so that its identification may be 0 (RFC 6864 §4.1)."""
    length = IPV4_HEADER_BYTES + len(content)
    header = _IPV4.pack(0x45, 0, length, 0, DONT_FRAGMENT, TTL, protocol, 0, addresses[:4], addresses[4:])
    return header[:10] + checksum(header).to_bytes(2, "big") + header[12:] + content
