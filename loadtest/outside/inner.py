"""What a device sends inside its tunnel: IPv4, UDP, DNS and as much of TCP as a connection needs."""

import socket
import struct
import time

from loadtest.outside.gtp import Context, Peer, labels

DNS = ("100.127.0.53", 53)
MESSAGES = ("100.127.65.43", 23_080)
HTTP = ("100.127.65.43", 80)
MQTT = ("100.127.127.100", 1_883)
FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16


def checksum(data: bytes) -> int:
    """RFC 1071."""
    padded = data + b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ipv4(source: str, destination: str, protocol: int, payload: bytes) -> bytes:
    """A packet without options."""
    ends = socket.inet_aton(source) + socket.inet_aton(destination)
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 0, 0, 64, protocol, 0) + ends
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload


def udp(source: tuple[str, int], destination: tuple[str, int], payload: bytes) -> bytes:
    """A datagram in a packet."""
    ends = socket.inet_aton(source[0]) + socket.inet_aton(destination[0])
    size = 8 + len(payload)
    head = struct.pack("!HHHH", source[1], destination[1], size, 0)
    total = checksum(ends + struct.pack("!BBH", 0, 17, size) + head + payload) or 0xFFFF
    return ipv4(source[0], destination[0], 17, head[:6] + struct.pack("!H", total) + payload)


def question(name: str, number: int = 1) -> bytes:
    """A question for an address."""
    return struct.pack("!HHHHHH", number, 0x100, 1, 0, 0, 0) + labels(name) + b"\0\0\1\0\1"


def is_alive(peer: Peer, context: Context, *, wait_s: float = 3.0) -> bool:
    """Whether a device's question for a name is answered through its tunnel."""
    if not (context.is_good and context.ue_address):
        return False
    for port in range(42_000, 42_003):
        peer.up(context.teid_user, udp((context.ue_address, port), DNS, question("beam.soracom.io", port)))
        if peer.down_until(wait_s / 3, port) is not None:
            return True
    return False


def say(peer: Peer, context: Context, payload: bytes, port: int, *, wait_s: float = 5.0) -> bytes | None:
    """One message by UDP; its answer."""
    peer.up(context.teid_user, udp((context.ue_address, port), MESSAGES, payload))
    return peer.down_until(wait_s, port)


class Tcp:
    """A device's connection, in order and without loss, which a tunnel over the loopback is."""

    def __init__(self, peer: Peer, context: Context, to: tuple[str, int], port: int) -> None:
        self._peer, self._context, self._to, self._port = peer, context, to, port
        self._next = 1_000
        self._expected = 0
        self._acked = 0
        self.received = b""
        self.is_closed = False
        self.mss_bytes = 0
        """What the other side names as its own (RFC 9293 §3.7.1)."""

    def connect(self, wait_s: float = 3.0) -> bool:
        """Three-way handshake."""
        self._send(SYN)
        self._next += 1
        self.listen(wait_s, until=lambda: self._expected > 0 or self.is_closed)
        return self._expected > 0 and not self.is_closed

    def send(self, data: bytes, *, wait_s: float = 30.0) -> bool:
        """All of it, as far as the other side takes it in; whether it did."""
        until = time.monotonic() + wait_s
        end = self._next + len(data)
        begin = self._next
        while self._next < end and time.monotonic() < until and not self.is_closed:
            while self._next < end and self._next - max(self._acked, begin) < 30_000:
                piece = data[self._next - begin :][:1_200]
                self._send(ACK | PSH, piece)
                self._next += len(piece)
            self.listen(0.5, until=lambda: self._acked >= self._next or self.is_closed)
            if self._acked < self._next - 20_000:
                self._next = max(self._acked, begin)
        return self._acked >= end

    def listen(self, seconds: float, *, until: object = None) -> bytes:
        """What came so far, after so long or when ``until()`` is true."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for kind, _, packet in self._peer.down(min(0.05, seconds)):
                if kind == 255 and packet[9] == 6 and struct.unpack_from("!H", packet, 22)[0] == self._port:
                    self._take(packet)
            if callable(until) and until():
                break
        return self.received

    def close(self) -> None:
        """Reset."""
        self._send(RST | ACK)
        self.is_closed = True

    def _take(self, packet: bytes) -> None:
        _, _, sequence, acked, offset, flags = struct.unpack_from("!HHIIBB", packet, 20)
        if flags & RST:
            self.is_closed = True
            return
        if flags & ACK:
            self._acked = max(self._acked, acked)
        if flags & SYN:
            self._expected = sequence + 1
            options = packet[40 : 20 + (offset >> 4) * 4]
            self.mss_bytes = int.from_bytes(options[2:4], "big") if options[:2] == b"\x02\x04" else 0
            self._send(ACK)
            return
        size = struct.unpack_from("!H", packet, 2)[0]
        data = packet[20 + (offset >> 4) * 4 : size]
        if sequence == self._expected:
            self.received += data
            self._expected += len(data) + bool(flags & FIN)
            self.is_closed = self.is_closed or bool(flags & FIN)
        if data or flags & FIN:
            self._send(ACK)

    def _send(self, flags: int, data: bytes = b"") -> None:
        ends = socket.inet_aton(self._context.ue_address) + socket.inet_aton(self._to[0])
        options = struct.pack("!BBH", 2, 4, 1_200) if flags & SYN else b""
        offset = (20 + len(options)) // 4 << 4
        head = struct.pack(
            "!HHIIBBHHH", self._port, self._to[1], self._next, self._expected, offset, flags, 60_000, 0, 0
        )
        pseudo = ends + struct.pack("!BBH", 0, 6, len(head) + len(options) + len(data))
        total = checksum(pseudo + head + options + data)
        segment = head[:16] + struct.pack("!H", total) + head[18:] + options + data
        self._peer.up(self._context.teid_user, ipv4(self._context.ue_address, self._to[0], 6, segment))
