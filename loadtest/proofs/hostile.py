"""Mutated messages at a served gateway, as fast as it takes them, while good peers go on.

Two hostile peers have sessions of their own, so that what is broken reaches the innermost parser. What they
send (GTP-C of both versions, GTP-U) is kept and sent again, broken by seed: bits, octets, lengths, elements
left out, doubled or swapped with another message's, cut short, run on. After each burst an Echo Request must
be answered, so the gateway has seen it all. Meanwhile the devices of good peers talk, attach and detach, and
each of them must be answered.
"""

import asyncio
import json
import random
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.adapters.clock import SystemEntropy
from core.adapters.network import UdpNetwork
from core.ports.network import Address, DatagramSocket, Receiver
from loadtest.api_client import ApiClient
from loadtest.folders import temporary_folder
from loadtest.peers.gtp import GTP_C_PORT, GTP_U_PORT, GtpPeer, NotAnswered, Refusal
from loadtest.peers.sgsn import Sgsn
from loadtest.peers.sgw import Sgw
from loadtest.proofs.kill import APN, Talker, attach_talker, talk
from loadtest.serving import Served, free_gateway_address, free_tcp_port

MESSAGES = 1_000_000
BURST = 32
RENEW_EVERY = 20_000
"""Messages after which the hostile peers create their sessions again: a mutation may have ended them."""
CORPUS_MAX = 512
MUTATIONS_MAX = 4
ANSWER_S = 10.0
RSS_GROWTH_MIB_MAX = 32.0


@dataclass(slots=True)
class HostileFinding:
    """What a run left."""

    messages: int = 0
    per_s: float = 0.0
    good_sent: int = 0
    good_answered: int = 0
    good_attached: int = 0
    unanswered_echoes: int = 0
    rss_mib: list[float] = field(default_factory=list)
    """At a tenth of the run, and at its end."""
    said: str = ""
    """What the gateway wrote to its log, which is nothing."""
    ended: int | None = None

    @property
    def ok(self) -> bool:
        """Whether all that must hold holds."""
        return (
            self.ended is None
            and not self.said
            and not self.unanswered_echoes
            and 0 < self.good_sent == self.good_answered
            and self.good_attached > 0
            and self.rss_mib[-1] - self.rss_mib[0] < RSS_GROWTH_MIB_MAX
        )

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__} | {"ok": self.ok}


def mutate(message: bytes, other: bytes, rng: random.Random) -> bytes:
    """The message, broken in one to four places."""
    data = bytearray(message)
    for _ in range(rng.randint(1, MUTATIONS_MAX)):
        at = rng.randrange(len(data)) if data else 0
        kind = rng.randrange(9)
        if not data or kind == 0:
            data[at:at] = rng.randbytes(rng.randint(1, 40))
        elif kind == 1:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            data[at] = rng.choice((0, 1, 4, 127, 128, 254, 255))
        elif kind == 3:
            del data[at:]
        elif kind == 4:
            del data[at : at + rng.randint(1, 12)]
        elif kind == 5:  # a length, where one may stand
            data[at : at + 2] = rng.choice((0, 1, 3, len(data), 0x7FFF, 0xFFFF)).to_bytes(2, "big")
        elif kind == 6:
            data[at:at] = data[at : at + rng.randint(1, 40)]
        elif kind == 7 and other:
            start = rng.randrange(len(other))
            data[at:at] = other[start : start + rng.randint(1, 60)]
        else:  # the header's length fits again, so that what follows is read
            data[2:4] = max(0, len(data) - (4 if data[0] >> 5 == 2 else 8)).to_bytes(2, "big")
    return bytes(data[:1_500])


class _Kept(UdpNetwork):
    """Keeps what is sent to the gateway's ports, the newest in the place of the oldest."""

    def __init__(self) -> None:
        super().__init__()
        self.corpus: list[tuple[bytes, int]] = []
        self._next = 0

    def keep(self, data: bytes, port: int) -> None:
        if len(self.corpus) < CORPUS_MAX:
            self.corpus.append((data, port))
        else:
            self.corpus[self._next % CORPUS_MAX] = (data, port)
            self._next += 1

    async def open_datagram(self, address: Address, receiver: Receiver) -> DatagramSocket:
        return _KeptSocket(await super().open_datagram(address, receiver), self.keep)


class _KeptSocket:
    def __init__(self, socket: DatagramSocket, keep: Callable[[bytes, int], None]) -> None:
        self._socket = socket
        self._keep = keep
        self.close = socket.close

    @property
    def address(self) -> Address:
        return self._socket.address

    def send(self, data: bytes, to: Address) -> bool:
        self._keep(data, to[1])
        return self._socket.send(data, to)


class _Attacker:
    """Sends to one port of the gateway, and waits for its answer to an Echo Request after each burst."""

    def __init__(self, gateway: str, port: int, host: str) -> None:
        self.port = port
        self._to = (gateway, port)
        self._host = host
        self._answered = asyncio.Event()
        self._socket: DatagramSocket | None = None

    async def open(self) -> None:
        self._socket = await UdpNetwork().open_datagram((self._host, 0), self._receive)

    def _receive(self, data: bytes, _: Address) -> None:
        if len(data) >= 12 and data[:2] == b"\x32\x02" and data[8:10] == b"\xec\x0e":
            self._answered.set()

    async def burst(self, messages: Sequence[bytes]) -> bool:
        """Whether the gateway answered afterwards."""
        assert self._socket is not None, "opened before"
        self._answered.clear()
        for message in messages:
            self._socket.send(message, self._to)
        with suppress(TimeoutError):
            async with asyncio.timeout(ANSWER_S):
                self._socket.send(b"\x32\x01\x00\x04\0\0\0\0\xec\x0e\0\0", self._to)
                await self._answered.wait()
        return self._answered.is_set()

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()


async def attack(*, messages: int, seed: int, tell: Callable[[str], None] = lambda _: None) -> HostileFinding:
    """Run it."""
    with temporary_folder("hostile") as folder:
        served = Served(
            folder / "var",
            gateway_address=free_gateway_address(),
            api_port=free_tcp_port("127.0.0.1", 0),
            environment={"AIRLOOM_GATEWAY__SESSIONS_MAX": "4096"},
        )
        await served.start()
        run = _Run(served, random.Random(seed), messages, tell)
        try:
            async with ApiClient(served.endpoint) as customer, AsyncExitStack() as stack:
                await customer.sign_up("hostile@example.com", "Aa1-hostile-peers")
                await run.drive(customer, stack)
            run.finding.ended = served.process.returncode if served.process else 0
            run.finding.said = (served.data_dir / "serve.log").read_text(errors="replace")[-2_000:]
        finally:
            await served.stop()
    return run.finding


class _Run:
    def __init__(
        self, served: Served, rng: random.Random, messages: int, tell: Callable[[str], None]
    ) -> None:
        self._served = served
        self._rng = rng
        self._messages = messages
        self._tell = tell
        self._kept = _Kept()
        self.finding = HostileFinding()

    async def drive(self, customer: ApiClient, stack: AsyncExitStack) -> None:
        """Peers, devices, and the attack among them."""
        good = [
            self._peer(kind, free_gateway_address(network), UdpNetwork())
            for kind, network in ((Sgsn, "127.0.1"), (Sgw, "127.0.2"))
        ]
        bad = [
            self._peer(kind, free_gateway_address(network), self._kept)
            for kind, network in ((Sgsn, "127.0.9"), (Sgw, "127.0.10"))
        ]
        for each in (*good, *bad):
            await stack.enter_async_context(each.running())
        attackers = [
            _Attacker(self._served.gateway_address, port, each.address)
            for port in (GTP_C_PORT, GTP_U_PORT)
            for each in bad
        ]
        for attacker in attackers:
            await attacker.open()
            stack.callback(attacker.close)
        talkers = [await attach_talker(customer, each) for each in good for _ in range(2)]
        newcomers = [await attach_talker(customer, each) for each in good]
        victims = [await attach_talker(customer, each) for each in bad]
        stopped = asyncio.Event()
        async with asyncio.TaskGroup() as traffic:
            for talker in talkers:
                traffic.create_task(talk(talker, stopped, answer_s=ANSWER_S, pause_s=0.05))
            traffic.create_task(self._come_and_go(newcomers, stopped))
            await self._attack(attackers, victims)
            stopped.set()
        self.finding.good_sent = sum(talker.number for talker in talkers)
        self.finding.good_answered = sum(len(talker.acknowledged) for talker in talkers)

    def _peer(self, kind: type[GtpPeer[Any]], address: str, network: UdpNetwork) -> GtpPeer[Any]:
        gateway = self._served.gateway_address
        return kind(network=network, address=address, gateway=gateway, entropy=SystemEntropy())

    async def _attack(self, attackers: Sequence["_Attacker"], victims: Sequence[Talker]) -> None:
        finding, rng = self.finding, self._rng
        began = time.monotonic()
        while finding.messages < self._messages and self._is_alive():
            if finding.messages % RENEW_EVERY < BURST:
                await _renew(victims)
            attacker = rng.choice(attackers)
            corpus = [data for data, port in self._kept.corpus if port == attacker.port]
            burst = [mutate(rng.choice(corpus), rng.choice(corpus), rng) for _ in range(BURST)]
            finding.unanswered_echoes += not await attacker.burst(burst)
            finding.messages += len(burst)
            if finding.messages >= self._messages * (len(finding.rss_mib) + 1) / 10:
                finding.rss_mib.append(_rss_mib(self._served))
                self._tell(f"{finding.messages} of {self._messages}, {finding.rss_mib[-1]:.0f} MiB")
        finding.per_s = finding.messages / (time.monotonic() - began)

    def _is_alive(self) -> bool:
        return self._served.process is not None and self._served.process.returncode is None

    async def _come_and_go(self, newcomers: Sequence[Talker], stopped: asyncio.Event) -> None:
        """Devices that attach and detach all the while; a refusal or a silence fails the run."""
        while not stopped.is_set():
            for each in newcomers:
                await each.peer.detach(await each.peer.attach(imsi=each.imsi, apn=APN))
                self.finding.good_attached += 1
            await asyncio.sleep(0.2)


async def _renew(victims: Sequence[Talker]) -> None:
    """Sessions, a message each by them, a move and an end, all kept to be broken."""
    for victim in victims:
        with suppress(Refusal, NotAnswered):
            context = await victim.peer.attach(imsi=victim.imsi, apn=APN)
            await victim.peer.take_over(context)
            await victim.peer.detach(context)
            context = await victim.peer.attach(imsi=victim.imsi, apn=APN)
            victim.context.peer_teid_user, victim.context.is_active = context.peer_teid_user, True
            packet = victim.device._packet(b"hello", 40_000)
            victim.peer.send_up(context, packet[:12] + context.ue_address.packed + packet[16:])
            await victim.peer.echo()


def _rss_mib(served: Served) -> float:
    assert served.process is not None, "it was started"
    for line in Path(f"/proc/{served.process.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1_024
    return 0.0


def main(argv: list[str]) -> int:
    """`python -m loadtest.proofs.hostile MESSAGES SEED`: print the finding as JSON."""
    finding = asyncio.run(
        attack(
            messages=int(argv[0]),
            seed=int(argv[1]),
            tell=lambda text: print(text, file=sys.stderr, flush=True),
        )
    )
    print(json.dumps(finding.as_dict()))
    return 0 if finding.ok else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
