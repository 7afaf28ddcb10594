"""A NAS whose every attribute a test chooses, before a node in virtual time."""

import asyncio
import os
from collections.abc import Sequence
from contextlib import AsyncExitStack
from ipaddress import IPv4Address

import pytest

import loadtest.simulation.plan
from core.config import Config, RadiusConfig
from core.domain.session import CloseReason, Session
from core.ports.network import Address, DatagramSocket, Network
from core.ports.store import Quarantined
from loadtest.simulation.plan import Plan
from loadtest.simulation.virtual import PERFECT, run_virtual
from loadtest.simulation.world import APN, GATEWAY
from radius import attributes as a
from radius.codec import (
    Attribute,
    Code,
    Packet,
    decode,
    encode_access_request,
    encode_attributes,
    encode_response,
    encode_signed_request,
    is_answer,
    vendor_attribute,
)
from tests.node.test_radius_front_end import Script, Stage

START, STOP, INTERIM, ON, OFF = 1, 2, 3, 7, 8
SECRETS = {"127.0.3": b"alpha's secret", "127.0.4": b"beta's secret.", "127.0.5": b"gamma's secret"}
ANSWER_S = 2.0


def number(value: int) -> bytes:
    """Four octets."""
    return value.to_bytes(4, "big")


def imsi_of(value: str) -> Attribute:
    """3GPP-IMSI."""
    return vendor_attribute(a.TGPP_IMSI, value.encode())


class RawNas:
    """One NAS: each of its requests has ``names``; ``told_to_end`` are Disconnect-Requests, answered with
    ``error_cause`` (0: an acknowledgement, ``None``: no answer).
    """

    def __init__(self, address: str, *names: Attribute) -> None:
        self.address = address
        self.names = names
        self.secret = SECRETS[address.rpartition(".")[0]]
        self.told_to_end: list[Packet] = []
        self.error_cause: int | None = 0
        self._answers: asyncio.Queue[bytes] = asyncio.Queue()
        self._sockets: dict[int, DatagramSocket] = {}

    async def start(self, network: Network) -> None:
        """Open its sockets."""
        for port in (1812, 1813):
            self._sockets[port] = await network.open_datagram(
                (self.address, 0), lambda data, _: self._answers.put_nowait(data)
            )
        self._sockets[3799] = await network.open_datagram((self.address, 3799), self._end)

    def close(self) -> None:
        """Close them."""
        for each in self._sockets.values():
            each.close()

    def _end(self, data: bytes, source: Address) -> None:
        self.told_to_end.append(decode(data))
        if self.error_cause is not None:
            code = Code.DISCONNECT_NAK if self.error_cause else Code.DISCONNECT_ACK
            cause = [(a.ERROR_CAUSE, number(self.error_cause))] if self.error_cause else []
            self._sockets[3799].send(
                encode_response(code, decode(data), encode_attributes(cause), self.secret), source
            )

    async def send(self, data: bytes, port: int, to: str = GATEWAY) -> Packet | None:
        """The answer to these octets, or nothing."""
        self._sockets[port].send(data, (to, port))
        try:
            async with asyncio.timeout(ANSWER_S):
                while True:
                    answer = decode(await self._answers.get())
                    if is_answer(answer, data[4:20], self.secret):
                        return answer
        except TimeoutError:
            return None

    async def ask(self, *attributes: Attribute) -> Packet | None:
        """Access-Request."""
        data = encode_access_request(1, os.urandom(16), [*self.names, *attributes], self.secret)
        return await self.send(data, 1812)

    def accounting(self, status: int, *attributes: Attribute) -> bytes:
        """An Accounting-Request's octets."""
        said = [(a.ACCT_STATUS_TYPE, number(status)), *self.names, *attributes]
        return encode_signed_request(Code.ACCOUNTING_REQUEST, 1, said, self.secret)

    async def tell(self, status: int, *attributes: Attribute) -> bool:
        """Accounting-Request; whether it was answered."""
        return await self.send(self.accounting(status, *attributes), 1813) is not None

    async def attach(
        self, imsi: str, acct_session_id: str, *more: Attribute, keeps_class: bool = True
    ) -> "RawSession":
        """Access-Request and Start."""
        named = [(a.USER_NAME, imsi.encode()), imsi_of(imsi), (a.CALLED_STATION_ID, APN.encode())]
        answer = await self.ask(*named)
        assert answer is not None and answer.code == Code.ACCESS_ACCEPT, answer
        said = [*named, (a.ACCT_SESSION_ID, acct_session_id.encode()), *more]
        said.append((a.FRAMED_IP_ADDRESS, answer.firsts[a.FRAMED_IP_ADDRESS]))
        if keeps_class:
            said.append((a.CLASS, answer.firsts[a.CLASS]))
        session = RawSession(self, tuple(said), answer.firsts[a.CLASS].decode())
        assert await session.tell(START)
        return session


class RawSession:
    """What a NAS says of one session."""

    def __init__(self, nas: RawNas, said: Sequence[Attribute], session_id: str) -> None:
        self.nas = nas
        self.said = said
        self.session_id = session_id

    async def tell(self, status: int, up: int = 0, down: int = 0, *more: Attribute) -> bool:
        """Report it; whether it was answered."""
        return await self.nas.tell(status, *self.said, *more, *counters(up, down))


def counters(up: int, down: int) -> list[Attribute]:
    """Octets and gigawords."""
    return [
        (a.ACCT_INPUT_OCTETS, number(up & 0xFFFF_FFFF)),
        (a.ACCT_INPUT_GIGAWORDS, number(up >> 32)),
        (a.ACCT_OUTPUT_OCTETS, number(down & 0xFFFF_FFFF)),
        (a.ACCT_OUTPUT_GIGAWORDS, number(down >> 32)),
    ]


class RadiusStage(Stage):
    """A stage with the clients that a test asks for: alpha, beta, gamma, each a network."""

    async def raw(self, address: str, *names: Attribute) -> RawNas:
        """A NAS on this address, named by it unless it has ``names``."""
        nas = RawNas(address, *(names or ((a.NAS_IP_ADDRESS, IPv4Address(address).packed),)))
        await nas.start(self.network)
        self.stack.callback(nas.close)
        return nas

    async def quarantined(self) -> list[Quarantined]:
        """What was kept apart today."""
        now = self.clock.now()
        day = now.year * 10_000 + now.month * 100 + now.day
        return list(await self.node._world.store.usage.quarantined(day))

    def session(self, session_id: str) -> Session | None:
        """An open session."""
        return self.node.held["vg-1"].sessions.open_sessions.get(session_id)

    @property
    def answers(self) -> dict[tuple[str, ...], int]:
        """What became of requests."""
        return dict(self.node.held["vg-1"].radius.answers)


def play(monkeypatch: pytest.MonkeyPatch, script: Script, **clients: dict[str, object]) -> None:
    """Run a script on a node with these clients (``alpha={…}``: more keys); the pools are whole after it."""
    networks = dict(zip(("alpha", "beta", "gamma"), SECRETS.items(), strict=True))
    radius = RadiusConfig.model_validate(
        {
            "clients": [
                {
                    "network": f"{prefix}.0/24",
                    "secret": secret.decode(),
                    "name": name,
                    **clients.get(name, {}),
                }
                for name, (prefix, secret) in networks.items()
            ]
        }
    )
    plain = loadtest.simulation.plan.config_of

    def config(name: str, plan: Plan) -> Config:
        return plain(name, plan).model_copy(update={"radius": radius})

    monkeypatch.setattr(loadtest.simulation.plan, "config_of", config)

    async def main() -> None:
        stage = RadiusStage(0, Plan(sims=2, network=PERFECT))
        await stage.start_node()
        await stage._make_sims()
        async with AsyncExitStack() as stack:
            stage.stack = stack
            await script(stage)
            for state in stage.sims:
                sessions = stage.node.held["vg-1"].sessions
                await sessions.end_sessions_of(state.sim.sim_id, CloseReason.CUSTOMER)
        await asyncio.sleep(120)
        assert stage.node.held["vg-1"].gateway.allocated == {"addresses": 0, "teids": 0}
        assert stage.node.held["vg-1"].radius.held == 0
        await stage.finish()

    run_virtual(main)
