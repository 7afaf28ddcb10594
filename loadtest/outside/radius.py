"""A NAS by hand: RFC 2865, 2866, 2869 and 5176."""

import hashlib
import hmac
import os
import select
import socket
import struct
from types import TracebackType

ACCESS_REQUEST, ACCOUNTING_REQUEST, DISCONNECT_REQUEST, DISCONNECT_ACK = 1, 4, 40, 41
ACCEPT, REJECT, ACCOUNTED = 2, 3, 5
START, STOP, INTERIM, ON, OFF = 1, 2, 3, 7, 8
USER_NAME, PASSWORD, NAS_ADDRESS, FRAMED_ADDRESS, CLASS, CALLED, NAS_NAME = 1, 2, 4, 8, 25, 30, 32
STATUS, INPUT, OUTPUT, SESSION, IN_GIGA, OUT_GIGA, EAP, AUTHENTICATOR = 40, 42, 43, 44, 52, 53, 79, 80
Attributes = list[tuple[int, bytes]]


def number(value: int) -> bytes:
    """Four octets."""
    return struct.pack("!I", value)


def imsi_vsa(imsi: str) -> tuple[int, bytes]:
    """3GPP-IMSI (TS 29.061 §16.4.7)."""
    return 26, struct.pack("!IBB", 10_415, 1, len(imsi) + 2) + imsi.encode()


class Nas:
    """On ``address``; what it sends goes to ``gateway``."""

    def __init__(self, address: str, gateway: str, secret: str) -> None:
        self.address, self._gateway, self._secret = address, gateway, secret.encode()
        self._number = 0
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((address, 0))
        self.disconnects = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.disconnects.bind((address, 3_799))

    def __enter__(self) -> "Nas":
        """It is open already."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the sockets."""
        self._socket.close()
        self.disconnects.close()

    def access(self, attributes: Attributes, *, wait_s: float = 4.0) -> tuple[int, dict[int, list[bytes]]]:
        """Access-Request with Message-Authenticator; code (0: no answer) and attributes."""
        self._number = (self._number + 1) & 0xFF
        head = os.urandom(16)
        body = encode([*attributes, (AUTHENTICATOR, bytes(16))])
        packet = struct.pack("!BBH", ACCESS_REQUEST, self._number, 20 + len(body)) + head + body
        signed = hmac.new(self._secret, packet, "md5").digest()
        return self._exchange(packet[: -len(signed)] + signed, 1_812, wait_s)

    def accounting_bytes(self, attributes: Attributes) -> bytes:
        """Accounting-Request, signed."""
        self._number = (self._number + 1) & 0xFF
        body = encode(attributes)
        head = struct.pack("!BBH", ACCOUNTING_REQUEST, self._number, 20 + len(body))
        signed = hashlib.md5(head + bytes(16) + body + self._secret, usedforsecurity=False).digest()
        return head + signed + body

    def account(self, attributes: Attributes, *, wait_s: float = 4.0) -> int:
        """Code of the answer; 0: none came."""
        return self._exchange(self.accounting_bytes(attributes), 1_813, wait_s)[0]

    def send(self, packet: bytes, *, wait_s: float = 3.0) -> int:
        """An accounting packet as it is."""
        return self._exchange(packet, 1_813, wait_s)[0]

    def attach(
        self, imsi: str, *, session: str, more: Attributes | None = None, user: str = ""
    ) -> tuple[int, bytes, bytes]:
        """Access, then Start: code of the Access, Class, address."""
        named = [(CALLED, b"soracom.io"), *(more or [])]
        who = [(USER_NAME, (user or imsi).encode()), imsi_vsa(imsi)]
        code, found = self.access([*who, *named])
        if code != ACCEPT:
            return code, b"", b""
        class_, address = found[CLASS][0], found[FRAMED_ADDRESS][0]
        self.account([
            (STATUS, number(START)), (SESSION, session.encode()), (CLASS, class_), (FRAMED_ADDRESS, address),
            *who, *named,
        ])  # fmt: skip
        return code, class_, address

    def report(
        self, status: int, session: str, up: int, down: int, more: Attributes, *, giga: int = 0
    ) -> int:
        """Interim or Stop with counters."""
        counters = [(INPUT, number(up)), (OUTPUT, number(down))]
        if giga:
            counters += [(IN_GIGA, number(giga)), (OUT_GIGA, number(giga))]
        return self.account([(STATUS, number(status)), (SESSION, session.encode()), *counters, *more])

    def disconnected(self, wait_s: float) -> dict[int, list[bytes]] | None:
        """The attributes of a Disconnect-Request that comes, acknowledged; nothing when none comes."""
        if not select.select([self.disconnects], [], [], wait_s)[0]:
            return None
        data, source = self.disconnects.recvfrom(4_096)
        head = struct.pack("!BBH", DISCONNECT_ACK, data[1], 20)
        signed = hashlib.md5(head + data[4:20] + self._secret, usedforsecurity=False).digest()
        self.disconnects.sendto(head + signed, source)
        return decode(data[20:])

    def _exchange(self, packet: bytes, port: int, wait_s: float) -> tuple[int, dict[int, list[bytes]]]:
        for _ in range(2):
            self._socket.sendto(packet, (self._gateway, port))
            while select.select([self._socket], [], [], wait_s / 2)[0]:
                data = self._socket.recv(4_096)
                if data[1] == packet[1]:
                    return data[0], decode(data[20:])
        return 0, {}


def encode(attributes: Attributes) -> bytes:
    """One after the other."""
    return b"".join(bytes((kind, len(value) + 2)) + value for kind, value in attributes)


def decode(data: bytes) -> dict[int, list[bytes]]:
    """By type."""
    found: dict[int, list[bytes]] = {}
    at = 0
    while at + 2 <= len(data) and data[at + 1] >= 2:
        found.setdefault(data[at], []).append(data[at + 2 : at + data[at + 1]])
        at += data[at + 1]
    return found
