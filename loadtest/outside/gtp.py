"""An SGSN and SGW on one address: GTPv1-C (TS 29.060), GTPv2-C (TS 29.274) and GTP-U (TS 29.281), by hand."""

import select
import socket
import struct
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

CONTROL, USER = 2123, 2152
ANSWER_S = 5.0


def tbcd(digits: str) -> bytes:
    """Digits, two an octet, the first in the lower half; filled up with F."""
    padded = digits + "f" * (len(digits) % 2)
    return bytes(int(padded[n + 1] + padded[n], 16) for n in range(0, len(padded), 2))


def labels(name: str) -> bytes:
    """A name as in DNS, without its end."""
    return b"".join(bytes((len(label),)) + label.encode() for label in name.split("."))


def element1(kind: int, value: bytes) -> bytes:
    """A GTPv1 element: those below 128 have no length."""
    return bytes((kind,)) + (value if kind < 128 else struct.pack("!H", len(value)) + value)


def element2(kind: int, value: bytes, instance: int = 0) -> bytes:
    """A GTPv2 element."""
    return struct.pack("!BHB", kind, len(value), instance) + value


FIXED1 = {1: 1, 2: 8, 3: 6, 4: 4, 5: 4, 8: 1, 9: 3, 11: 1, 12: 3, 13: 1, 14: 1, 15: 1, 16: 4, 17: 4, 18: 5,
          19: 1, 20: 1, 21: 1, 22: 1, 23: 1, 24: 1, 25: 2, 26: 2, 27: 2, 28: 2, 29: 1, 127: 4}  # fmt: skip


def elements1(data: bytes) -> dict[int, list[bytes]]:
    """Of a GTPv1 message, by type."""
    found: dict[int, list[bytes]] = {}
    at = 0
    while at < len(data):
        kind = data[at]
        if kind < 128:
            size, begin = FIXED1[kind], at + 1
        else:
            size, begin = struct.unpack_from("!H", data, at + 1)[0], at + 3
        found.setdefault(kind, []).append(data[begin : begin + size])
        at = begin + size
    return found


def elements2(data: bytes) -> dict[tuple[int, int], list[bytes]]:
    """Of a GTPv2 message, by type and instance."""
    found: dict[tuple[int, int], list[bytes]] = {}
    at = 0
    while at + 4 <= len(data):
        kind, size, instance = struct.unpack_from("!BHB", data, at)
        found.setdefault((kind, instance & 15), []).append(data[at + 4 : at + 4 + size])
        at += 4 + size
    return found


@dataclass(slots=True)
class Context:
    """What the gateway gave; ``cause`` says why not."""

    version: int
    cause: int
    imsi: str
    teid_control: int = 0
    teid_user: int = 0
    ue_address: str = ""
    pco: bytes = b""
    own_user: int = 0
    raw: dict[Any, list[bytes]] = field(default_factory=dict)

    @property
    def is_good(self) -> bool:
        """Whether it was granted."""
        return self.cause == (128 if self.version == 1 else 16)


@dataclass(slots=True)
class Message:
    """A message of GTP-C that came."""

    version: int
    kind: int
    teid: int
    sequence: int
    body: bytes
    came_from: tuple[str, int]


class Peer:
    """A peer on ``address``; ``answers_echo`` with ``recovery``."""

    def __init__(self, address: str, gateway: str, *, recovery: int = 1) -> None:
        self.address, self.gateway, self.recovery = address, gateway, recovery
        self.answers_echo = True
        self._sequence = int(time.time()) & 0x7FFF
        self._next = 0x1000
        self.control = self._open(CONTROL)
        self.user = self._open(USER)
        self.heard: list[Message] = []
        self._asked: dict[int, int] = {}
        self._known: set[int] = set()
        """Our control TEIDs: by the number of the request that named them; those of contexts that we have."""

    def _open(self, port: int) -> socket.socket:
        opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        opened.bind((self.address, port))
        opened.setblocking(False)
        return opened

    def __enter__(self) -> "Peer":
        """It is open already."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the sockets."""
        self.control.close()
        self.user.close()

    # -- GTP-C ----------------------------------------------------------------------------------------

    def sequence(self) -> int:
        """The next one."""
        self._sequence = (self._sequence + 1) & 0x7FFF
        return self._sequence

    def send(self, data: bytes) -> None:
        """To the gateway's GTP-C port."""
        self.control.sendto(data, (self.gateway, CONTROL))

    def message1(self, kind: int, teid: int, sequence: int, body: bytes) -> bytes:
        """GTPv1-C, with a sequence number."""
        return struct.pack("!BBHIHH", 0x32, kind, len(body) + 4, teid, sequence, 0) + body

    def message2(self, kind: int, teid: int | None, sequence: int, body: bytes) -> bytes:
        """GTPv2-C, with a TEID unless it is ``None``."""
        if teid is None:
            return struct.pack("!BBHI", 0x40, kind, len(body) + 4, sequence << 8) + body
        return struct.pack("!BBHII", 0x48, kind, len(body) + 8, teid, sequence << 8) + body

    def listen(self, seconds: float) -> list[Message]:
        """Take in what comes for so long; Echo Requests are answered."""
        found: list[Message] = []
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if not select.select([self.control], [], [], left)[0]:
                break
            found += self._take_in()
        return found

    def _take_in(self) -> list[Message]:
        found: list[Message] = []
        while True:
            try:
                data, source = self.control.recvfrom(65_535)
            except BlockingIOError:
                return found
            if (message := parse(data, source)) is None:
                continue
            if message.kind == 1 and self.answers_echo:
                self.answer_echo(message)
            elif (message.version, message.kind) in ((1, 18), (2, 97)):
                self._answer_update(message)
            self.heard.append(message)
            found.append(message)

    def answer_echo(self, request: Message) -> None:
        """Echo Response with our Recovery."""
        if request.version == 1:
            body, data = element1(14, bytes((self.recovery,))), b""
            data = self.message1(2, 0, request.sequence, body)
        else:
            data = self.message2(2, None, request.sequence, element2(3, bytes((self.recovery,))))
        self.control.sendto(data, request.came_from)

    def _answer_update(self, request: Message) -> None:
        """Update PDP Context or Update Bearer: accepted, or no such context."""
        is_known = request.teid in self._known
        if request.version == 1:
            cause = element1(1, b"\x80" if is_known else b"\xc0")
            data = self.message1(19, 0, request.sequence, cause)
        else:
            cause = element2(2, b"\x10\x00" if is_known else b"\x40\x00")
            data = self.message2(98, 0, request.sequence, cause)
        self.control.sendto(data, request.came_from)

    def ask(self, data: bytes, sequence: int, kind: int, *, wait_s: float = ANSWER_S) -> Message | None:
        """Send, and wait for the answer of this type and number; asked again after a third of the time."""
        for _ in range(3):
            self.send(data)
            until = time.monotonic() + wait_s / 3
            while (left := until - time.monotonic()) > 0:
                if not select.select([self.control], [], [], left)[0]:
                    break
                for message in self._take_in():
                    if (message.kind, message.sequence) == (kind, sequence):
                        return message
        return None

    def echo(self, version: int = 1, *, recovery: int | None = None) -> Message | None:
        """Echo Request; in version 2 with Recovery."""
        number = self.sequence()
        told = self.recovery if recovery is None else recovery
        if version == 1:
            body = b"" if recovery is None else element1(14, bytes((told,)))
            return self.ask(self.message1(1, 0, number, body), number, 2)
        return self.ask(self.message2(1, None, number, element2(3, bytes((told,)))), number, 2)

    def create1(self, imsi: str, **more: object) -> Context:
        """Create PDP Context."""
        number = self.sequence()
        answer = self.ask(self.create1_bytes(imsi, number, **more), number, 17)
        return self.granted1(imsi, answer)

    def create1_bytes(self, imsi: str, number: int, **more: object) -> bytes:
        """The request; ``nsapi``, ``apn``, ``pco``, ``eua``, ``recovery``, ``gsns`` may be given."""
        own = socket.inet_aton(self.address)
        self._next += 2
        self._asked[number] = self._next + 1
        gsns = more.get("gsns", 2)
        recovery = more.get("recovery", self.recovery)
        assert isinstance(gsns, int)
        assert isinstance(recovery, int)
        nsapi = more.get("nsapi", 5)
        pco, eua = more.get("pco", DNS_ASKED), more.get("eua", b"\xf1\x21")
        assert isinstance(nsapi, int)
        assert isinstance(pco, bytes)
        assert isinstance(eua, bytes)
        parts = [
            (2, tbcd(imsi).ljust(8, b"\xff")),
            (14, bytes((recovery,))),
            (15, b"\xfc"),
            (16, struct.pack("!I", self._next)),
            (17, struct.pack("!I", self._next + 1)),
            (20, bytes((nsapi,))),
            (128, eua),
            (131, labels(str(more.get("apn", "soracom.io")))),
            (132, pco),
            *[(133, own)] * gsns,
            (135, bytes.fromhex("000b921f")),
        ]
        return self.message1(16, 0, number, b"".join(element1(kind, value) for kind, value in parts))

    def granted1(self, imsi: str, answer: Message | None) -> Context:
        """What a Create PDP Context Response says."""
        if answer is None:
            return Context(1, 0, imsi)
        found = elements1(answer.body)
        context = Context(1, found[1][0][0], imsi, raw=dict(found))
        if context.is_good:
            self._known.add(self._asked.get(answer.sequence, 0))
            context.teid_user = int.from_bytes(found[16][0], "big")
            context.teid_control = int.from_bytes(found[17][0], "big")
            context.ue_address = socket.inet_ntoa(found[128][0][2:6]) if len(found[128][0]) == 6 else ""
            context.pco = found.get(132, [b""])[0]
        return context

    def create2(self, imsi: str, **more: object) -> Context:
        """Create Session."""
        number = self.sequence()
        answer = self.ask(self.create2_bytes(imsi, number, **more), number, 33)
        return self.granted2(imsi, answer)

    def create2_bytes(self, imsi: str, number: int, **more: object) -> bytes:
        """The request; ``handover``, ``apn``, ``ebi``, ``recovery``, ``pdn``, ``paa``, ``indication``."""
        own = socket.inet_aton(self.address)
        self._next += 2
        self._asked[number] = self._next + 1
        ebi, recovery, pdn = more.get("ebi", 5), more.get("recovery", self.recovery), more.get("pdn", 1)
        assert isinstance(ebi, int)
        assert isinstance(recovery, int)
        assert isinstance(pdn, int)
        paa = more.get("paa", b"\x01" + bytes(4))
        assert isinstance(paa, bytes)
        indication = more.get("indication", b"\x20\x00" if more.get("handover") else b"")
        assert isinstance(indication, bytes)
        bearer = (
            element2(73, bytes((ebi,)))
            + element2(80, b"\x7c\x09" + bytes(20))
            + element2(87, b"\x84" + struct.pack("!I", self._next) + own, 2)
        )
        body = (
            element2(1, tbcd(imsi))
            + element2(3, bytes((recovery,)))
            + element2(71, labels(str(more.get("apn", "soracom.io"))))
            + element2(72, struct.pack("!II", 1_000, 1_000))
            + (element2(77, indication) if indication else b"")
            + element2(78, DNS_ASKED)
            + element2(79, paa)
            + element2(82, b"\x06")
            + element2(83, bytes.fromhex("44f001"))
            + element2(87, b"\x86" + struct.pack("!I", self._next + 1) + own)
            + element2(93, bearer)
            + element2(99, bytes((pdn,)))
            + element2(127, b"\x00")
            + element2(128, b"\x00")
        )
        return self.message2(32, 0, number, body)

    def granted2(self, imsi: str, answer: Message | None) -> Context:
        """What a Create Session Response says."""
        if answer is None:
            return Context(2, 0, imsi)
        found = elements2(answer.body)
        context = Context(2, found[2, 0][0][0], imsi, raw=dict(found))
        if context.is_good:
            self._known.add(self._asked.get(answer.sequence, 0))
            context.teid_control = int.from_bytes(found[87, 1][0][1:5], "big")
            inside = elements2(found[93, 0][0])
            user = inside.get((87, 2)) or inside[87, 1]
            context.teid_user = int.from_bytes(user[0][1:5], "big")
            paa = found[79, 0][0]
            context.ue_address = socket.inet_ntoa(paa[-4:]) if paa[0] & 7 in (1, 3) else ""
            context.pco = found.get((78, 0), [b""])[0]
        return context

    def delete(self, context: Context) -> int:
        """End it; the cause (0: no answer)."""
        number = self.sequence()
        if context.version == 1:
            data = self.message1(20, context.teid_control, number, b"\x13\xff\x14\x05")
            answer = self.ask(data, number, 21)
            return 0 if answer is None else elements1(answer.body)[1][0][0]
        answer = self.ask(self.message2(36, context.teid_control, number, element2(73, b"\x05")), number, 37)
        return 0 if answer is None else elements2(answer.body)[2, 0][0][0]

    # -- GTP-U ----------------------------------------------------------------------------------------

    def up(self, teid: int, packet: bytes) -> None:
        """A G-PDU with this inner packet."""
        self.user.sendto(struct.pack("!BBHI", 0x30, 255, len(packet), teid) + packet, (self.gateway, USER))

    def error_indication(self, teid: int, address: str, *, port: int = 0) -> None:
        """As a node does that does not know this TEID of its own; ``address`` is what it calls itself."""
        body = b"\x10" + struct.pack("!I", teid) + element1(133, socket.inet_aton(address))
        data = struct.pack("!BBHIHH", 0x32, 26, len(body) + 4, 0, 0, 0) + body
        if port:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
                other.bind((self.address, port))
                other.sendto(data, (self.gateway, USER))
        else:
            self.user.sendto(data, (self.gateway, USER))

    def down(self, wait_s: float) -> list[tuple[int, int, bytes]]:
        """What comes by GTP-U until nothing came for so long: type, TEID, and what is inside."""
        found: list[tuple[int, int, bytes]] = []
        while select.select([self.user], [], [], wait_s)[0]:
            data = self.user.recv(65_535)
            flags, kind, _, teid = struct.unpack_from("!BBHI", data)
            found.append((kind, teid, data[12 if flags & 7 else 8 :]))
        return found

    def down_until(self, wait_s: float, port: int) -> bytes | None:
        """The payload of the UDP datagram that comes for this port of a device, or nothing."""
        until = time.monotonic() + wait_s
        while (left := until - time.monotonic()) > 0 and select.select([self.user], [], [], left)[0]:
            data = self.user.recv(65_535)
            inner = data[12 if data[0] & 7 else 8 :]
            if data[1] == 255 and inner[9] == 17 and struct.unpack_from("!H", inner, 22)[0] == port:
                return inner[28:]
        return None


DNS_ASKED = bytes.fromhex("80000d00")
"""A PCO that asks for a name server (TS 24.008 §10.5.6.3)."""


def parse(data: bytes, source: tuple[str, int]) -> Message | None:
    """A message of either version."""
    if len(data) < 8:
        return None
    if data[0] >> 5 == 1:
        sequence = struct.unpack_from("!H", data, 8)[0] if data[0] & 2 else 0
        teid = struct.unpack_from("!I", data, 4)[0]
        return Message(1, data[1], teid, sequence, data[12 if data[0] & 7 else 8 :], source)
    has_teid = bool(data[0] & 8)
    teid = struct.unpack_from("!I", data, 4)[0] if has_teid else 0
    at = 8 if has_teid else 4
    sequence = struct.unpack_from("!I", data, at)[0] >> 8
    return Message(2, data[1], teid, sequence, data[at + 4 :], source)
