"""Sessions through which nothing goes, before a whole node in virtual time."""

import asyncio
from contextlib import AsyncExitStack
from ipaddress import IPv4Address

import pytest

from core.domain.requests import ModifySession
from core.domain.session import CloseReason
from core.ports.network import Address
from loadtest.peers.sgw import Sgw
from loadtest.proofs.killing import udp_packet
from loadtest.simulation.plan import Plan
from loadtest.simulation.virtual import PERFECT, run_virtual
from loadtest.simulation.world import APN
from tests.node.test_gtp_door import Stage

IDLE_S = 400.0
PACKET_EVERY_S = 60.0


@pytest.mark.parametrize("idle_s", [0.0, IDLE_S])
def test_a_session_through_which_nothing_goes_ends_and_its_device_is_told_why(idle_s: float) -> None:
    async def main() -> None:
        stage = Stage(0, Plan(sims=3, network=PERFECT, idle_s=idle_s, quarantine_s=0.0))
        await stage.start_node()
        await stage._make_sims()
        async with AsyncExitStack() as stack:
            stage.stack = stack
            sgw = await stage.peer(Sgw, "127.0.2.1")
            busy, silent, suspended = [await sgw.attach(imsi=each.imsi, apn=APN) for each in stage.sims]
            door = stage.node.held["vg-1"].door
            sent: list[bytes] = []

            def tap(data: bytes, _: Address, is_incoming: bool) -> None:
                if not is_incoming:
                    sent.append(data)

            stack.enter_context(door.tapped(tap))
            (asleep,) = (
                each for each in stage.sessions.open_sessions.values() if each.imsi == suspended.imsi
            )
            await stage.sessions.modify(ModifySession(session_id=asleep.session_id, is_suspended=True))
            packet = udp_packet(busy.ue_address, IPv4Address("100.127.0.53"), 53, b"nothing")
            ended_at = 0.0
            while stage.clock.monotonic() < 3 * IDLE_S:
                sgw.send_up(busy, packet)
                await asyncio.sleep(PACKET_EVERY_S)
                if silent.ended_by_gateway and not ended_at:
                    ended_at = stage.clock.monotonic()
            assert busy.is_active
            assert suspended.is_active
            if idle_s:
                assert IDLE_S <= ended_at <= 1.5 * IDLE_S + PACKET_EVERY_S
                assert [data for data in sent if data[1] == 99 and b"\x02\0\x02\0\x0b\0" in data], "cause 11"
            else:
                assert silent.is_active
            for state in stage.sims:
                await stage.sessions.end_sessions_of(state.sim.sim_id, CloseReason.CUSTOMER)
        await stage.finish()

    run_virtual(main)
