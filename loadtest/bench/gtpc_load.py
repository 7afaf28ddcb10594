"""SGSNs and SGWs that only create and delete sessions, in a separate process.

Rules:

- Each turn is one line of JSON on standard input and one line of answer; the process ends with its input.
- Requests are made beforehand, byte by byte from the specifications (TS 29.060 §7.3.1, TS 29.274 §7.2.1), by
  code that shares nothing with the gateway; answers are decoded after the measurement.
- A request without an answer after ``SILENT_S`` is repeated and counted. ``own_us`` is the generator's CPU
  for a request: its own limit.
"""

import contextlib
import json
import os
import select
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

PORT = 2123
SILENT_S, SILENCES_MAX = 1.0, 5
STARTS_MAX, ECHO_MS = 100, 100
LINGER_S = 2.0
"""How long answers are waited for after the last request of a paced turn."""
V1_CREATE, V1_DELETE, V2_CREATE, V2_DELETE = 16, 20, 32, 36
V1_ACCEPTED, V2_ACCEPTED = 128, (16, 18)
_BURST = 64
_FIXED_IES = {1: 1, 8: 1, 14: 1, 16: 4, 17: 4, 127: 4}
"""Lengths of the TV information elements of an answer of version 1 (TS 29.060 §7.7)."""
_QOS = bytes.fromhex("0b921f9396404074f9ffff")


def create_v1(imsi: str, number: int, sequence: int, peer: str) -> bytes:
    """Create PDP Context Request: the mandatory elements and an MSISDN."""
    own, teid = socket.inet_aton(peer), struct.pack("!I", number + 1)
    body = b"".join(
        (
            b"\x02" + _tbcd(imsi, 8) + b"\x0e\x01\x0f\xfd\x10" + teid + b"\x11" + teid + b"\x14\x05",
            b"\x80\x00\x02\xf1\x21" + b"\x83\x00\x09\x08internet",
            2 * (b"\x85\x00\x04" + own),
            b"\x86\x00\x07\x91" + _tbcd(imsi[-12:], 6),
            b"\x87" + struct.pack("!HB", len(_QOS) + 1, 2) + _QOS,
        )
    )
    return struct.pack("!BBHIHH", 0x32, V1_CREATE, len(body) + 4, 0, sequence, 0) + body


def create_v2(imsi: str, number: int, sequence: int, peer: str) -> bytes:
    """Create Session Request on S5/S8."""
    own, teid = socket.inet_aton(peer), struct.pack("!I", number + 1)
    bearer = b"".join(
        (
            _element(73, 0, b"\x05"),
            _element(87, 2, b"\x84" + teid + own),
            _element(80, 0, b"\x7c\x09" + bytes(20)),
        )
    )
    body = b"".join(
        (
            _element(1, 0, _tbcd(imsi, 8)),
            _element(76, 0, _tbcd(imsi[-12:], 6)),
            _element(83, 0, b"\x44\xf0\x01"),
            _element(82, 0, b"\x06"),
            _element(87, 0, b"\x86" + teid + own),
            _element(71, 0, b"\x08internet"),
            _element(128, 0, b"\x00"),
            _element(99, 0, b"\x01"),
            _element(79, 0, b"\x01" + bytes(4)),
            _element(127, 0, b"\x00"),
            _element(72, 0, struct.pack("!II", 10_000, 10_000)),
            _element(93, 0, bearer),
        )
    )
    return struct.pack("!BBHII", 0x48, V2_CREATE, len(body) + 8, 0, sequence << 8) + body


def delete_v1(teid: int, sequence: int) -> bytes:
    """Delete PDP Context Request, the whole PDN connection."""
    return struct.pack("!BBHIHH", 0x32, V1_DELETE, 8, teid, sequence, 0) + b"\x13\xff\x14\x05"


def delete_v2(teid: int, sequence: int) -> bytes:
    """Delete Session Request."""
    return struct.pack("!BBHII", 0x48, V2_DELETE, 13, teid, sequence << 8) + _element(73, 0, b"\x05")


def _elements_v1(answer: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    at = 12
    while at < len(answer):
        kind, head, size = answer[at], 1, _FIXED_IES.get(answer[at], 0)
        if kind >= 128:
            head, size = 3, struct.unpack_from("!H", answer, at + 1)[0]
        found[kind] = answer[at + head : at + head + size]
        at += head + size
    return found


def created_v1(answer: bytes) -> tuple[int, int]:
    """Cause and the gateway's control TEID."""
    found = _elements_v1(answer)
    return found[1][0], int.from_bytes(found.get(17, b""), "big")


def user_end_v1(answer: bytes) -> tuple[int, str]:
    """The gateway's TEID for packets, and the device's address."""
    found = _elements_v1(answer)
    return int.from_bytes(found[16], "big"), socket.inet_ntoa(found[128][2:6])


def created_v2(answer: bytes) -> tuple[int, int]:
    """The same."""
    cause, teid, at = 0, 0, 12
    while at < len(answer):
        kind, size, instance = struct.unpack_from("!BHB", answer, at)
        value = answer[at + 4 : at + 4 + size]
        if kind == 2:
            cause = value[0]
        elif kind == 87 and instance & 15 == 1:
            teid = int.from_bytes(value[1:5], "big")
        at += 4 + size
    return cause, teid


def _element(kind: int, instance: int, value: bytes) -> bytes:
    return struct.pack("!BHB", kind, len(value), instance) + value


def _tbcd(digits: str, octets: int) -> bytes:
    padded = digits.ljust(2 * octets, "f")
    return bytes(int(padded[at + 1] + padded[at], 16) for at in range(0, 2 * octets, 2))


VERSIONS: dict[int, tuple[Any, Any, Any, Callable[[bytes], int]]] = {
    1: (create_v1, delete_v1, created_v1, lambda data: int.from_bytes(data[8:10], "big")),
    2: (create_v2, delete_v2, created_v2, lambda data: int.from_bytes(data[8:11], "big")),
}
"""What makes a create and a delete, what reads the answer, and what finds its sequence number."""


def cpu_seconds(pid: int) -> float:
    """What all threads of a process ran so far (proc(5), schedstat: nanoseconds on a CPU)."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9


def _answers(data: bytes, request: bytes) -> bool:
    """Whether it is the type of an answer to that; the gateway may ask something itself meanwhile."""
    return data[1] == request[1] + 1


class Load:
    """One peer on one address, towards one gateway at a time."""

    def __init__(self, peer: str) -> None:
        self._peer = peer
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self._socket.bind((peer, PORT))
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)
        self._sequence = int.from_bytes(os.urandom(2), "big")

    def wait(self, ask: dict[str, Any]) -> bool:
        """Echo Requests (TS 29.060 §7.2.1) until one is answered."""
        for _ in range(STARTS_MAX):
            request = struct.pack("!BBHIHH", 0x32, 1, 4, 0, self._next(), 0)
            self._socket.sendto(request, (ask["gateway"], PORT))
            if self._received(ECHO_MS):
                return True
        raise RuntimeError(f"{ask['gateway']}: no answer to an Echo Request")

    def storm(self, ask: dict[str, Any]) -> dict[str, Any]:
        """Create as fast as ``window`` open requests allow, then delete again, which is not measured."""
        creates = self._creates(ask)
        gateway, version, window = ask["gateway"], ask["version"], ask["window"]
        pid = ask["pid"]
        cpu, before, began = cpu_seconds(pid), time.process_time(), time.perf_counter()
        answers, repeats = self._exchange(gateway, version, creates, window)
        seconds, own = time.perf_counter() - began, time.process_time() - before
        cpu = cpu_seconds(pid) - cpu
        self._delete(gateway, version, accepted_teids(version, answers))
        each_us = 1e6 / len(creates)
        return {
            "per_s": len(creates) / seconds,
            "cpu_us": cpu * each_us,
            "own_us": own * each_us,
            "repeats": repeats,
        }

    def hold(self, gateway: str, count: int) -> list[bytes]:
        """So many contexts of version 1, which stay; what each was answered, in the order of the SIMs."""
        ask = {"version": 1, "first": 0, "count": count}
        creates = self._creates(ask)
        answers, _ = self._exchange(gateway, 1, creates, _BURST)
        accepted_teids(1, answers)
        sequence_of = VERSIONS[1][3]
        answered = {sequence_of(answer): answer for answer in answers}
        return [answered[sequence_of(create)] for create in creates]

    def unasked(self) -> list[bytes]:
        """What the gateway sent by itself."""
        return self._received(0)

    def paced(self, ask: dict[str, Any]) -> dict[str, Any]:
        """Create ``rate`` sessions a second regardless of answers; latency counts from when a request was
        due.

        So a pause of the gateway shows in all requests that were due in it.
        """
        creates = self._creates(ask)
        gateway, version, rate = ask["gateway"], ask["version"], ask["rate"]
        sequence_of = VERSIONS[version][3]
        due: dict[int, float] = {}
        answers: list[bytes] = []
        latencies: list[float] = []
        sent, last = 0, len(creates) / rate
        began = time.perf_counter()
        while len(answers) < len(creates):
            now = time.perf_counter() - began
            while sent < len(creates) and sent / rate <= now:
                due[sequence_of(creates[sent])] = sent / rate
                with contextlib.suppress(BlockingIOError):
                    self._socket.sendto(creates[sent], (gateway, PORT))
                sent += 1
            for data in self._received(0.2):
                at = due.pop(sequence_of(data), None) if _answers(data, creates[0]) else None
                if at is not None:
                    answers.append(data)
                    latencies.append(time.perf_counter() - began - at)
            if now > last + LINGER_S:
                break
        latencies.sort()
        return {
            "asked": len(creates),
            "answered": len(answers),
            "refused": _judged(version, answers)[1].total(),
            "p50_ms": _percentile(latencies, 50) * 1e3,
            "p99_ms": _percentile(latencies, 99) * 1e3,
            "max_ms": latencies[-1] * 1e3 if latencies else None,
        }

    def _creates(self, ask: dict[str, Any]) -> list[bytes]:
        make = VERSIONS[ask["version"]][0]
        numbers = range(ask["first"], ask["first"] + ask["count"])
        return [make(f"00101{number:010d}", number, self._next(), self._peer) for number in numbers]

    def _next(self) -> int:
        self._sequence = (self._sequence + 1) & 0xFFFF
        return self._sequence

    def _delete(self, gateway: str, version: int, teids: Sequence[int]) -> None:
        make = VERSIONS[version][1]
        self._exchange(gateway, version, [make(teid, self._next()) for teid in teids], _BURST)

    def _exchange(
        self, gateway: str, version: int, requests: Sequence[bytes], window: int
    ) -> tuple[list[bytes], int]:
        """Keep ``window`` requests open until each is answered; the answers, and how many went out again."""
        send, to = self._socket.sendto, (gateway, PORT)
        sequence_of = VERSIONS[version][3]
        waiting, asked = iter(requests), {}
        answers: list[bytes] = []
        repeats = silences = 0

        def ask(count: int) -> None:
            for _ in range(count):
                request = next(waiting, None)
                if request is None:
                    return
                asked[sequence_of(request)] = request
                send(request, to)

        ask(window)
        while asked:
            found = self._received(SILENT_S * 1e3)
            if not found:
                silences, repeats = silences + 1, repeats + len(asked)
                if silences > SILENCES_MAX:
                    raise RuntimeError(f"{gateway}: no answer to {len(asked)} requests")
                for request in asked.values():
                    send(request, to)
            known = [
                data
                for data in found
                if _answers(data, requests[0]) and asked.pop(sequence_of(data), None) is not None
            ]
            answers += known
            ask(len(known))
        return answers, repeats

    def _received(self, wait_ms: float) -> list[bytes]:
        """A burst of what is there; waits for the first."""
        found: list[bytes] = []
        receive = self._socket.recv
        with contextlib.suppress(BlockingIOError):
            for _ in range(_BURST):
                found.append(receive(4_096))
        if not found and self._poll.poll(wait_ms):
            return self._received(0)
        return found


def accepted_teids(version: int, answers: Sequence[bytes]) -> list[int]:
    """The gateway's TEIDs; raises ``RuntimeError`` when one said no."""
    teids, refused = _judged(version, answers)
    if refused:
        raise RuntimeError(f"refused, by cause: {dict(refused)}")
    return teids


def _judged(version: int, answers: Sequence[bytes]) -> tuple[list[int], Counter[int]]:
    """The gateway's TEIDs, and how many were refused, by cause."""
    read = VERSIONS[version][2]
    found = [read(answer) for answer in answers]
    wanted = (V1_ACCEPTED,) if version == 1 else V2_ACCEPTED
    refused = Counter(cause for cause, _ in found if cause not in wanted)
    return [teid for cause, teid in found if cause in wanted], refused


def _percentile(ordered: Sequence[float], percent: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))] if ordered else 0.0


def run(argv: Sequence[str]) -> None:
    """``PEER``: serve turns until the input ends."""
    load = Load(argv[0])
    turns = {"wait": load.wait, "storm": load.storm, "paced": load.paced}
    for line in sys.stdin:
        ask = json.loads(line)
        print(json.dumps(turns[ask["turn"]](ask)), flush=True)


if __name__ == "__main__":
    run(sys.argv[1:])
