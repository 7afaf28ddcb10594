"""The processes of the user plane benchmark that run inside its namespaces.

Rules: each reads its parameters as one line of JSON from standard input and answers with lines of JSON; a
gateway ends when its input ends. ``contexts`` speaks real GTPv1-C to a GGSN; ``gateway`` is Airloom's user
plane on a TUN; ``generator`` sends prebuilt datagrams by sendmmsg(2) as fast as it can.
"""

import asyncio
import ctypes
import json
import os
import socket
import struct
import sys
import tempfile
import time
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import uvloop

from core.adapters.network import UdpNetwork
from core.domain.usage import SegmentLabel
from core.ports.user_plane import Bearer
from gtp.userplane.counter_table import open_file
from gtp.userplane.tun import Tun
from gtp.userplane.udp import UdpUserPlane

ANSWER_S = 2.0
SPEED_KBPS = 1_000_000
"""Policed, and never too fast: so that the check is paid for and every packet passes."""
_FIXED_IES = {1: 1, 8: 1, 14: 1, 16: 4, 17: 4, 127: 4}
"""Lengths of the TV information elements that a GGSN answers with (TS 29.060 §7.7)."""


class _SystemClock:
    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()


class _IoVec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("size", ctypes.c_size_t))


class _Message(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_size", ctypes.c_uint32),
        ("vectors", ctypes.POINTER(_IoVec)),
        ("vector_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_size", ctypes.c_size_t),
        ("flags", ctypes.c_int),
        ("sent", ctypes.c_uint32),
    )


def inner_packet(source: str, destination: str, size: int) -> bytes:
    """An IPv4 UDP packet of ``size`` bytes with a right header checksum, UDP checksum absent."""
    ends = IPv4Address(source).packed + IPv4Address(destination).packed
    header = struct.pack("!BBHHHBBH", 0x45, 0, size, 0, 0x4000, 64, 17, 0) + ends
    total: int = sum(struct.unpack("!10H", header))
    total = (total & 0xFFFF) + (total >> 16)
    checksum = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    header = header[:10] + checksum.to_bytes(2, "big") + header[12:]
    return header + struct.pack("!HHHH", 5_000, 9, size - 20, 0) + bytes(size - 28)


def contexts(ask: dict[str, Any]) -> None:
    """Create PDP contexts one after another; prints [[teid, address], …]."""
    control = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    control.bind((ask["peer"], 2123))
    control.settimeout(ANSWER_S)
    made = []
    for number in range(ask["sessions"]):
        control.sendto(_create_pdp_context(number, ask["peer"]), (ask["gateway"], 2123))
        made.append(_read_answer(control.recv(2_048)))
    print(json.dumps(made), flush=True)


def _create_pdp_context(number: int, peer: str) -> bytes:
    """TS 29.060 §7.3.1 with the mandatory elements, and no more."""
    digits = f"00101{number:010d}f"
    imsi = bytes(int(digits[i + 1] + digits[i], 16) for i in range(0, 16, 2))
    address = socket.inet_aton(peer)
    elements = (
        b"\x02" + imsi + b"\x0e\x01\x0f\xfd"
        b"\x10" + struct.pack("!I", number + 1) + b"\x11" + struct.pack("!I", number + 1) + b"\x14\x05"
        b"\x80\x00\x02\xf1\x21"  # end user address: IETF, IPv4, dynamic
        b"\x83\x00\x09\x08internet"
        b"\x85\x00\x04" + address + b"\x85\x00\x04" + address + b"\x86\x00\x07\x91\x18\x09\x21\x43\x65\x87"
        b"\x87\x00\x0c\x02\x0b\x92\x1f\x93\x96\x40\x40\x74\xf9\xff\xff"
    )
    return struct.pack("!BBHIHH", 0x32, 16, len(elements) + 4, 0, number & 0xFFFF, 0) + elements


def _read_answer(answer: bytes) -> tuple[int, str]:
    teid, address, at = 0, "", 12
    while at < len(answer):
        kind = answer[at]
        if kind < 128:
            if kind == 16:
                teid = int.from_bytes(answer[at + 1 : at + 5], "big")
            at += 1 + _FIXED_IES[kind]
            continue
        size = int.from_bytes(answer[at + 1 : at + 3], "big")
        if kind == 128:
            address = socket.inet_ntoa(answer[at + 5 : at + 9])
        at += 3 + size
    return teid, address


def gateway(ask: dict[str, Any]) -> None:
    """Our user plane with sessions installed; at the end prints what it counted and dropped."""
    os.sched_setaffinity(0, {ask["cpu"]})
    uvloop.run(_serve(ask))


async def _serve(ask: dict[str, Any]) -> None:
    pool = IPv4Network(ask["pool"])
    with tempfile.TemporaryDirectory() as folder:
        plane = UdpUserPlane(
            counter_table=open_file(Path(folder) / "usage.slots", capacity=ask["sessions"]),
            clock=_SystemClock(),
            network=UdpNetwork(),
            address=IPv4Address(ask["gateway"]),
            ue_pool=pool,
            platform_network=IPv4Network("100.127.0.0/16"),
            tuns={"": Tun(ask["tun"], addresses=(pool[1],))},
        )
        plane.route(pool)
        made = []
        for number in range(ask["sessions"]):
            bearer = Bearer(
                session_id=f"{number:032x}",
                imsi=f"00101{number:010d}",
                operator_id="OP0000000001",
                ue_address=pool[number + 2],
                local_teid=(number + 1) * 0x9E3779B1 & 0xFFFFFFFF,
                peer_teid=number + 1,
                peer_address=ask["peer"],
                epoch=1,
                label=SegmentLabel("s1.standard", "00101"),
                up_kbps=SPEED_KBPS,
                down_kbps=SPEED_KBPS,
            )
            plane.install(bearer)
            made.append((bearer.local_teid, str(bearer.ue_address)))
        await plane.start()
        print(json.dumps(made), flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        volumes = [counters.current.volume for counters in plane.all_counters()]
        counted = {
            "up_packets": sum(volume.up_packets for volume in volumes),
            "down_packets": sum(volume.down_packets for volume in volumes),
            "drops": {reason.value: count for reason, count in plane.drops.items() if count},
        }
        print(json.dumps(counted), flush=True)
        await plane.aclose()


def generator(ask: dict[str, Any]) -> None:
    """Send for ``seconds``, round robin over the sessions; prints "ready", then {"sent", "seconds"}."""
    os.sched_setaffinity(0, {ask["cpu"]})
    outgoing = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    outgoing.bind((ask["source"], ask["port"]))
    datagrams = [(bytes.fromhex(payload), (host, port)) for payload, host, port in ask["datagrams"]]
    messages, _kept = _messages(datagrams)
    send = ctypes.CDLL(None, use_errno=True).sendmmsg
    print('"ready"', flush=True)
    sent, begun = 0, time.monotonic()
    end = begun + ask["seconds"]
    while time.monotonic() < end:
        done = send(outgoing.fileno(), messages, len(datagrams), 0)
        if done < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        sent += done
    print(json.dumps({"sent": sent, "seconds": time.monotonic() - begun}), flush=True)


def _messages(datagrams: list[tuple[bytes, tuple[str, int]]]) -> tuple[Any, list[Any]]:
    """The array for sendmmsg(2), and what must outlive it."""
    messages = (_Message * len(datagrams))()
    kept: list[Any] = []
    for message, (payload, (host, port)) in zip(messages, datagrams, strict=True):
        name = struct.pack("=H", socket.AF_INET) + struct.pack("!H", port) + socket.inet_aton(host) + bytes(8)
        name_buffer, payload_buffer = ctypes.create_string_buffer(name), ctypes.create_string_buffer(payload)
        vector = _IoVec(ctypes.addressof(payload_buffer), len(payload))
        message.name, message.name_size = ctypes.addressof(name_buffer), 16
        message.vectors, message.vector_count = ctypes.pointer(vector), 1
        kept += [name_buffer, payload_buffer, vector]
    return messages, kept


CHILDREN = {"contexts": contexts, "gateway": gateway, "generator": generator}

if __name__ == "__main__":
    CHILDREN[sys.argv[1]](json.loads(sys.stdin.readline()))
