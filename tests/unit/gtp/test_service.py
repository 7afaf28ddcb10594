"""The GTP-C front end's shell: what is sent before there is a socket, and what its taps are shown."""

import asyncio
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Network
from random import Random
from types import SimpleNamespace
from typing import cast

from core.domain.session import CloseReason
from core.ports.network import Address
from core.services.running.audit import AuditTrail
from core.services.sessions.service import Sessions
from gtp.path import RECALLED_WITHIN_S
from gtp.restart import PROOF_S
from gtp.service import GtpFrontEnd
from gtp.transaction import N3_REQUESTS, T3_RESPONSE_S, TIMERS, Timers
from loadtest.simulation.virtual import (
    NetworkFaults,
    SeededEntropy,
    VirtualClock,
    VirtualNetwork,
    run_virtual,
)
from tests.support.gtp import APN, SGSN, message, session

HERE = ("127.0.0.1", 2123)
DELETE_REQUEST, ECHO_REQUEST, ECHO_RESPONSE = 20, 1, 2


class Stage:
    """A front end with one session; what its taps are shown: when, message type, whether it came in."""

    def __init__(self, timers: Timers) -> None:
        rng = Random(1)
        self.network, self.clock = VirtualNetwork(rng, NetworkFaults()), VirtualClock()
        self.session = session(restart_counter=7)
        self.seen: list[tuple[int, int, bool]] = []
        self.front_end = GtpFrontEnd(
            network=self.network,
            address=HERE,
            sessions=cast(Sessions, SimpleNamespace(open_sessions={self.session.session_id: self.session})),
            audit=cast(AuditTrail, None),
            gateway_id="vg-1",
            clock=self.clock,
            entropy=SeededEntropy(rng),
            recovery=3,
            apns=[APN],
            allowed_peers=[IPv4Network("0.0.0.0/0")],
            timers=timers,
        )

    def tap(self, data: bytes, _: Address, is_incoming: bool) -> None:
        self.seen.append((int(self.clock.monotonic()), data[1], is_incoming))


def play(script: Callable[[Stage], Awaitable[None]], timers: Timers = TIMERS) -> None:
    async def main() -> None:
        stage = Stage(timers)
        await stage.front_end.adopt(stage.session)
        with stage.front_end.tapped(stage.tap):
            await script(stage)

    run_virtual(main)


def test_a_request_that_is_sent_before_the_socket_is_open_is_repeated_after_it() -> None:
    async def script(stage: Stage) -> None:
        stage.front_end.release(stage.session, CloseReason.CUSTOMER)
        await stage.front_end.start()
        running = asyncio.create_task(stage.front_end.run())
        await asyncio.sleep(T3_RESPONSE_S - 1)
        assert DELETE_REQUEST not in [kind for _, kind, _ in stage.seen]
        await asyncio.sleep(T3_RESPONSE_S * (N3_REQUESTS + 1))
        repeats = [int(T3_RESPONSE_S * (1 + number)) for number in range(N3_REQUESTS)]
        deletes = [seen for seen in stage.seen if seen[1] == DELETE_REQUEST]
        assert deletes == [(at, DELETE_REQUEST, False) for at in repeats]
        assert stage.front_end.endpoint.contexts == 0
        running.cancel()
        await asyncio.wait([running])

    play(script)


def test_once_it_is_closed_nothing_goes_out_and_taps_are_shown_nothing() -> None:
    async def script(stage: Stage) -> None:
        await stage.front_end.start()
        peer = await stage.network.open_datagram(SGSN, lambda _data, _address: None)
        peer.send(message(ECHO_REQUEST, 0, 1, b""), HERE)
        await asyncio.sleep(1)
        assert [(kind, is_incoming) for _, kind, is_incoming in stage.seen] == [(1, True), (2, False)]
        stage.front_end.close()
        stage.front_end.release(stage.session, CloseReason.CUSTOMER)
        peer.send(message(ECHO_REQUEST, 0, 2, b""), HERE)
        await asyncio.sleep(1)
        assert len(stage.seen) == 2

    play(script)


def test_a_long_t3_response_delays_no_shorter_time() -> None:
    """A restart is proved by two Echo Requests, ``PROOF_S`` apart, whatever T3-RESPONSE is."""
    recovery = bytearray(b"\x0e\x07")

    async def script(stage: Stage) -> None:
        def answer(data: bytes, _: Address) -> None:
            if data[1] == ECHO_REQUEST:
                sequence = int.from_bytes(data[8:10], "big")
                peer.send(message(ECHO_RESPONSE, 0, sequence, bytes(recovery)), HERE)

        peer = await stage.network.open_datagram(SGSN, answer)
        await stage.front_end.start()
        running = asyncio.create_task(stage.front_end.run())
        await asyncio.sleep(2 * RECALLED_WITHIN_S)
        stage.seen.clear()
        recovery[1] += 1
        peer.send(message(ECHO_REQUEST, 0, 1, bytes(recovery)), HERE)
        await asyncio.sleep(PROOF_S + 2)
        assert [kind for _, kind, is_incoming in stage.seen if not is_incoming].count(ECHO_REQUEST) >= 2
        running.cancel()
        await asyncio.wait([running])

    play(script, Timers(t3_response_s=60.0))
