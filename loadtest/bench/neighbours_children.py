"""Greedy neighbours, each a process of its own that shares no code with the product.

Rules: each is given its target as one line of JSON on its standard input, prints a line once it does its
worst, and when its input ends a line of JSON: what it did and what it was answered. Each runs at the lowest
priority, for the machine's cores are not what is measured.
"""

import json
import os
import select
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from itertools import cycle

from loadtest.outside.gtp import Peer
from loadtest.outside.inner import DNS, MESSAGES, Tcp, udp
from loadtest.outside.tries_edge import greedy_question

CONNECTIONS = 40
QUESTIONS_PER_S = 119
LINE_ENDS = b"\n" * 600_000
ANSWER_S = 30.0
SEND_S = 6.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where a neighbour does its worst, and as whom."""

    api: str
    gateway: str
    address: str
    imsi: str
    auth_key_id: str
    auth_key: str = field(repr=False)
    ended: threading.Event = field(default_factory=threading.Event)


Neighbour = Callable[[Target, Callable[[], None]], Counter[str]]
"""Calls what it is given as soon as it does its worst; goes on until its target is ``ended``."""


def lister(target: Target, ready: Callable[[], None]) -> Counter[str]:
    """A customer who lists all of its SIMs on ``CONNECTIONS`` connections, by status."""
    return _calls("/v1/sims?limit=1000", target, ready)


def caller(target: Target, ready: Callable[[], None]) -> Counter[str]:
    """The same with one SIM a call: as many small calls as may be made."""
    return _calls("/v1/sims?limit=1", target, ready)


def _calls(path: str, target: Target, ready: Callable[[], None]) -> Counter[str]:
    headers = _signed_in(target)
    parts: list[Counter[str]] = [Counter() for _ in range(CONNECTIONS)]

    def call_on(counts: Counter[str]) -> None:
        connection = HTTPConnection(target.api, timeout=ANSWER_S)
        while not target.ended.is_set():
            try:
                connection.request("GET", path, headers=headers)
                answer = connection.getresponse()
                answer.read()
                counts[str(answer.status)] += 1
            except (OSError, HTTPException) as error:
                counts[type(error).__name__] += 1
                connection.close()

    threads = [threading.Thread(target=call_on, args=(counts,)) for counts in parts]
    for thread in threads:
        thread.start()
    ready()
    for thread in threads:
        thread.join()
    return sum(parts, Counter())


def _signed_in(target: Target) -> dict[str, str]:
    connection = HTTPConnection(target.api, timeout=ANSWER_S)
    body = json.dumps({"authKeyId": target.auth_key_id, "authKey": target.auth_key})
    connection.request("POST", "/v1/auth", body, {"Content-Type": "application/json"})
    found = json.loads(connection.getresponse().read())
    return {"X-Soracom-API-Key": found["apiKey"], "X-Soracom-Token": found["token"]}


def dns(target: Target, ready: Callable[[], None]) -> Counter[str]:
    """A device that sends ``QUESTIONS_PER_S`` datagrams of 43 questions each through its tunnel."""
    counts: Counter[str] = Counter()
    with Peer(target.address, target.gateway) as peer:
        context = peer.create1(target.imsi)
        packet = udp((context.ue_address, 44_000), DNS, greedy_question())
        ready()
        due = time.monotonic()
        while not target.ended.wait(max(0.0, due - time.monotonic())):
            peer.up(context.teid_user, packet)
            counts["sent"] += 1
            while select.select([peer.user], [], [], 0)[0]:
                peer.user.recv(65_535)
                counts["answered"] += 1
            due += 1 / QUESTIONS_PER_S
    return counts


def tcp(target: Target, ready: Callable[[], None]) -> Counter[str]:
    """A device that sends line ends by TCP through its tunnel, as fast as they are taken in."""
    counts: Counter[str] = Counter()
    with Peer(target.address, target.gateway) as peer:
        context = peer.create1(target.imsi)
        ready()
        ports = cycle(range(45_000, 65_000))
        while not target.ended.is_set():
            port = next(ports)
            line = Tcp(peer, context, MESSAGES, port)
            if not line.connect():
                counts["refused"] += 1
                continue
            counts["connections"] += 1
            while not target.ended.is_set() and not line.is_closed and line.send(LINE_ENDS, wait_s=SEND_S):
                counts["line_ends"] += len(LINE_ENDS)
            if not line.is_closed:
                line.close()
    return counts


NEIGHBOURS: Mapping[str, Neighbour] = {"lister": lister, "caller": caller, "dns": dns, "tcp": tcp}


def main(name: str) -> None:
    """Be this neighbour."""
    os.nice(19)
    target = Target(**json.loads(sys.stdin.readline()))

    def end() -> None:
        sys.stdin.read()
        target.ended.set()

    threading.Thread(target=end, daemon=True).start()
    counts = NEIGHBOURS[name](target, lambda: print("ready", flush=True))
    print(json.dumps(counts), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
