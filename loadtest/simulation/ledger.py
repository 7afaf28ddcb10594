"""A second account of what crossed the wire, kept by code that shares nothing with the gateway's.

Rule: nothing of Airloom is imported here. The bytes of a datagram are read by position, as a person with
the specification and a hex dump would (TS 29.281 §5.1, RFC 791 §3.1), so that an error in our codecs
cannot hide itself in the proof.
"""

import json
import sqlite3
import struct
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from pathlib import Path

GTP_U_PORT = 2152
G_PDU = 255


@dataclass(slots=True)
class Ledger:
    """Inner IP octets and packets seen in G-PDUs, by device address and direction."""

    up_bytes: Counter[str] = field(default_factory=Counter)
    down_bytes: Counter[str] = field(default_factory=Counter)
    up_packets: Counter[str] = field(default_factory=Counter)
    down_packets: Counter[str] = field(default_factory=Counter)

    @property
    def total_bytes(self) -> int:
        """Both directions, all devices."""
        return self.up_bytes.total() + self.down_bytes.total()

    def observe(self, payload: bytes, *, from_gateway: bool) -> None:
        """Account for one UDP payload; what is not a G-PDU with IP inside is not traffic, nor is what a
        device and its gateway say to each other on their link (RFC 4861).
        """
        inner = inner_packet(payload)
        if inner is None:
            return
        if inner[0] >> 4 == 6:
            if b"\xfe\x80" in (inner[8:10], inner[24:26]):
                return
            length = 40 + struct.unpack_from("!H", inner, 4)[0]
            device = str(IPv6Address(inner[24:40] if from_gateway else inner[8:24]))
        else:
            length = struct.unpack_from("!H", inner, 2)[0]
            device = ".".join(map(str, inner[16:20] if from_gateway else inner[12:16]))
        bytes_, packets = (
            (self.down_bytes, self.down_packets) if from_gateway else (self.up_bytes, self.up_packets)
        )
        bytes_[device] += length
        packets[device] += 1


SLOTS_AT, SLOT_BYTES = 4_096, 320


def counters_of(slot_table: Path) -> dict[str, tuple[int, int]]:
    """Octets up and down by session id, as they stand in a gateway's counter table, read by position.

    A slot is 40 words of 8 bytes: the first is 0 when it is free, the third and fifth count octets up and
    down, from the ninth on stands the session id.
    """
    table = slot_table.read_bytes()
    counters: dict[str, tuple[int, int]] = {}
    for at in range(SLOTS_AT, len(table) - SLOT_BYTES + 1, SLOT_BYTES):
        state, _, up_bytes, _, down_bytes = struct.unpack_from("=5Q", table, at)
        if state:
            session_id = table[at + 64 : at + 96].rstrip(b"\0").decode()
            counters[session_id] = (up_bytes, down_bytes)
    return counters


def metered_of(database: Path, session_id: str) -> tuple[int, int]:
    """What an embedded store holds of a session: the last value of each epoch and segment, added up."""
    last = (
        "SELECT up_bytes, down_bytes, max(timestamp_us) FROM usage WHERE session_id = ?"
        " GROUP BY day, epoch, segment"
    )
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as file:
        rows = file.execute(last, (session_id,)).fetchall()
    return sum(row[0] for row in rows), sum(row[1] for row in rows)


def all_metered(database: Path) -> dict[str, tuple[int, int]]:
    """The same of every session at once."""
    last = (
        "SELECT session_id, up_bytes, down_bytes, max(timestamp_us) FROM usage"
        " GROUP BY session_id, day, epoch, segment"
    )
    metered: dict[str, tuple[int, int]] = {}
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as file:
        for session_id, up_bytes, down_bytes, _ in file.execute(last):
            up, down = metered.get(session_id, (0, 0))
            metered[session_id] = (up + up_bytes, down + down_bytes)
    return metered


def open_sessions(database: Path) -> dict[str, str]:
    """Device addresses of the sessions that an embedded store holds, by session id."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as file:
        rows = file.execute("SELECT id, body FROM sim WHERE kind = 'session'").fetchall()
    return {session_id: json.loads(body)["ue_address"] for session_id, body in rows}


def inner_packet(payload: bytes) -> bytes | None:
    """The IP packet inside a G-PDU, or nothing."""
    if len(payload) < 8 or payload[0] >> 5 != 1 or payload[1] != G_PDU:
        return None
    at = 8
    if payload[0] & 0b111:
        at = 12
        following = payload[11] if payload[0] & 0b100 else 0
        while following:
            if at >= len(payload) or payload[at] == 0:
                return None
            at += payload[at] * 4
            following = payload[at - 1] if at <= len(payload) else 0
    inner = payload[at:]
    least = {4: 20, 6: 40}.get(inner[0] >> 4, len(inner) + 1) if inner else 1
    return inner if len(inner) >= least else None


def ledger_of_capture(path: Path, gateway: str) -> Ledger:
    """Read a capture (pcap, as ``tcpdump -w`` writes it) taken at the peer's side."""
    ledger = Ledger()
    for source, destination, payload in _udp_of(path.read_bytes()):
        if gateway in (source, destination):
            ledger.observe(payload, from_gateway=source == gateway)
    return ledger


def _udp_of(capture: bytes) -> Iterator[tuple[str, str, bytes]]:
    """Source, destination and payload of each UDP datagram of a capture over Ethernet."""
    order = "<" if capture[:4] in (b"\xd4\xc3\xb2\xa1", b"\x4d\x3c\xb2\xa1") else ">"
    link_type = struct.unpack_from(order + "I", capture, 20)[0]
    if link_type != 1:
        raise ValueError(f"capture has link type {link_type}, not Ethernet (1)")
    at = 24
    while at + 16 <= len(capture):
        stored = struct.unpack_from(order + "I", capture, at + 8)[0]
        frame = capture[at + 16 : at + 16 + stored]
        at += 16 + stored
        if frame[12:14] != b"\x08\x00" or frame[23] != 17:
            continue
        start = 14 + (frame[14] & 15) * 4
        ports = struct.unpack_from("!HH", frame, start)
        if GTP_U_PORT in ports:
            length = struct.unpack_from("!H", frame, start + 4)[0]
            source, destination = (".".join(map(str, frame[i : i + 4])) for i in (26, 30))
            yield source, destination, frame[start + 8 : start + length]
