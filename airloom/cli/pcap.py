"""A pcap file of UDP datagrams, for Wireshark.

Rules: the classic format (pcap, microseconds) with raw IPv4 (LINKTYPE_RAW); the IP and UDP headers are made
here, with their checksums, for the datagrams were seen above them.
"""

import struct
from datetime import datetime
from ipaddress import IPv4Address
from typing import BinaryIO

LINKTYPE_RAW = 101
SNAP_BYTES = 65_535
_FILE = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, SNAP_BYTES, LINKTYPE_RAW)
_PACKET = struct.Struct("<IIII")
_IPV4, _UDP, _PSEUDO = struct.Struct("!BBHHHBBH4s4s"), struct.Struct("!HHHH"), struct.Struct("!4s4sBBH")
UDP = 17

End = tuple[str, int]
"""Address and port."""


class PcapFile:
    """Written to ``file`` as datagrams come, so that what is there can be read at any time."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        file.write(_FILE)
        file.flush()

    def write(self, at: datetime, source: End, to: End, payload: bytes) -> None:
        """One datagram."""
        packet = _packet(source, to, payload)
        seconds, microseconds = int(at.timestamp()), at.microsecond
        self._file.write(_PACKET.pack(seconds, microseconds, len(packet), len(packet)) + packet)
        self._file.flush()


def _packet(source: End, to: End, payload: bytes) -> bytes:
    """IPv4 (RFC 791) and UDP (RFC 768) around it."""
    ends = IPv4Address(source[0]).packed, IPv4Address(to[0]).packed
    length = 8 + len(payload)
    pseudo = _PSEUDO.pack(*ends, 0, UDP, length)
    checksum = _checksum(pseudo + _UDP.pack(source[1], to[1], length, 0) + payload) or 0xFFFF
    datagram = _UDP.pack(source[1], to[1], length, checksum) + payload
    head = _IPV4.pack(0x45, 0, 20 + length, 0, 0, 64, UDP, 0, *ends)
    return head[:10] + _checksum(head).to_bytes(2, "big") + head[12:] + datagram


def _checksum(data: bytes) -> int:
    """RFC 1071."""
    padded = data + b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF
