"""GTPv1 before a whole node in virtual time: an SGSN of raw datagrams, the real session service behind."""

import asyncio
import hashlib
import math
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, IPv6Address, IPv6Network

import pytest

from core.domain.account import Group
from core.domain.pools import PoolExhausted
from core.domain.session import Access, Cell, PdnType, SessionEventKind
from core.domain.values import replace
from core.ports.network import Address, DatagramSocket
from gtp.admission import OF_ONE_SIM_MAX
from gtp.v1.header import decode_header
from gtp.v1.ie import Elements, decode_elements
from gtp.values import encode_tbcd
from loadtest.simulation.plan import SLOTS, Plan
from loadtest.simulation.virtual import run_virtual
from loadtest.simulation.world import GATEWAY, OPERATOR
from tests.node.test_radius_door import Stage, played
from tests.node.test_statics import bind
from tests.support.gtp import create_elements, message, tlv, update_request

BOTH = b"\xf1\x8d"
DUAL_ADDRESS_BEARERS = tlv(0x94, b"\x80")


class RawPeer:
    """Sends datagrams as they are and keeps what comes back."""

    def __init__(self, socket: DatagramSocket, got: list[bytes]) -> None:
        self._socket = socket
        self._got = got

    async def ask(self, data: bytes) -> bytes:
        """The last that came within a second."""
        return (await self.flood([data]))[-1]

    async def flood(self, requests: Iterable[bytes]) -> list[bytes]:
        """Send all at once; what comes within a second."""
        self._got.clear()
        for data in requests:
            self._socket.send(data, (GATEWAY, 2123))
        await asyncio.sleep(1)
        return list(self._got)


@asynccontextmanager
async def peer(stage: Stage, address: str = "127.0.1.1") -> AsyncIterator[RawPeer]:
    got: list[bytes] = []

    def receive(data: bytes, _: Address) -> None:
        got.append(data)

    socket = await stage.network.open_datagram((address, 2123), receive)
    yield RawPeer(socket, got)
    socket.close()


def create(
    sequence: int, *more: bytes, pdp_type: bytes = b"\xf1\x21", pco: bytes = b"", nsapi: int = 5
) -> bytes:
    elements = create_elements(pdp_type=pdp_type, nsapi=nsapi)
    elements[0] = b"\x02" + bytes.fromhex("44100000000000f0")
    elements[8] = tlv(0x84, b"\x80" + pco)
    return message(16, 0, sequence, b"".join([*elements, *more]))


def elements_of(answer: bytes) -> Elements:
    return decode_elements(decode_header(answer).payload)


def cause_of(answer: bytes) -> int:
    return elements_of(answer)[1][0][0]


@played
async def test_sessions_of_each_pdp_type_are_opened(stage: Stage) -> None:
    async with peer(stage) as sgsn:
        for sequence, (pdp_type, expected) in enumerate(
            ((b"\xf1\x21", PdnType.IPV4), (b"\xf1\x57", PdnType.IPV6), (BOTH, PdnType.IPV4V6))
        ):
            answer = await sgsn.ask(create(sequence, DUAL_ADDRESS_BEARERS, pdp_type=pdp_type))
            assert cause_of(answer) == 128
            (session,) = stage.open_sessions()
            assert session.pdn_type is expected
            told = elements_of(answer)[0x80][0]
            assert told[:2] == pdp_type
            if expected is not PdnType.IPV6:
                assert told[2:6] == session.ue_address.packed
            if expected is not PdnType.IPV4:
                assert session.ue_prefix is not None
                assert IPv6Address(told[-16:]) in session.ue_prefix


@played
async def test_a_static_prefix_is_given_to_its_own_sim_alone(stage: Stage) -> None:
    own = IPv6Network("2001:db8:ff00:9::/64")
    async with peer(stage) as sgsn:
        wants = b"\xf1\x57" + own[0].packed
        assert cause_of(await sgsn.ask(create(1, pdp_type=wants))) == 200
        await bind(stage, IPv4Address("10.127.0.9"))
        assert cause_of(await sgsn.ask(create(2, pdp_type=b"\xf1\x57" + own[2**64 - 1].packed))) == 128
        assert stage.open_sessions()[0].ue_prefix == own
        assert (
            cause_of(await sgsn.ask(create(3, pdp_type=b"\xf1\x57" + IPv6Address("2001:db8::9").packed)))
            == 200
        )


async def demand_password(stage: Stage) -> None:
    store, now = stage.node._world.store, stage.clock.now()
    secret = {"SoracomAir": {"authentication": {"username": "meter", "password": "open sesame"}}}
    await store.groups.put(Group("group", OPERATOR, now, now, secret))
    await store.sims.put(replace(stage.sims[0].sim, group_id="group"))


def pap(password: bytes) -> bytes:
    data = b"\x05meter" + bytes((len(password),)) + password
    return b"\xc0\x23" + bytes((4 + len(data), 1, 1, 0, 4 + len(data))) + data


def chap(password: bytes) -> bytes:
    digest = hashlib.md5(b"\x07" + password + b"challenge").digest()  # noqa: S324 - RFC 1994
    asked = b"\1\7\0\x0e\x09challenge"
    shown = b"\2\7\0\x1a\x10" + digest + b"meter"
    return b"\xc2\x23" + bytes((len(asked),)) + asked + b"\xc2\x23" + bytes((len(shown),)) + shown


@played
async def test_a_group_may_demand_a_password_by_pap_or_chap(stage: Stage) -> None:
    await demand_password(stage)
    async with peer(stage) as sgsn:
        for sequence, wrong in enumerate((b"", pap(b"wrong"), chap(b"wrong"), pap(b"")), 1):
            answer = await sgsn.ask(create(sequence, pco=wrong))
            assert (cause_of(answer), decode_header(answer).teid) == (209, 0x2001)
        assert stage.open_sessions() == []
        sessions = stage.node.held["vg-1"].sessions
        assert sessions.opener.attaches[Access.GTPV1]["wrong_password"] == 4
        sim_id = stage.sims[0].sim.sim_id
        events = await stage.node._world.store.sessions.events(
            sim_id, since=stage.clock._epoch, until=stage.clock.now(), after=""
        )
        assert {(event.kind, event.cause) for event in events.items} == {
            (SessionEventKind.REJECTED, "wrong_password")
        }
        for sequence, right in ((8, pap(b"open sesame")), (9, chap(b"open sesame"))):
            assert cause_of(await sgsn.ask(create(sequence, pco=right))) == 128


@pytest.mark.parametrize("nsapi", [5, 6])
def test_a_create_for_the_same_imsi_and_nsapi_replaces(nsapi: int) -> None:
    @played
    async def script(stage: Stage) -> None:
        async with peer(stage) as sgsn:
            first = elements_of(await sgsn.ask(create(1)))
            (before,) = stage.open_sessions()
            second = elements_of(await sgsn.ask(create(2, nsapi=nsapi)))
            assert first[17] != second[17]
            left = [session.session_id for session in stage.open_sessions()]
            assert (before.session_id in left) == (nsapi != 5)
            assert len(left) == (1 if nsapi == 5 else 2)

    script()  # type: ignore[call-arg]  # the stage is the decorator's


@played
async def test_rates_and_places_that_an_update_does_not_name_stay(stage: Stage) -> None:
    async with peer(stage) as sgsn:
        uli, ambr = tlv(0x99, b"\x63\0"), tlv(0xC6, (1_000).to_bytes(4, "big") + (2_000).to_bytes(4, "big"))
        teid = int.from_bytes(elements_of(await sgsn.ask(create(1, uli, ambr)))[17][0], "big")
        assert cause_of(await sgsn.ask(update_request(teid, 2))) == 128
        (session,) = stage.open_sessions()
        assert (session.qos.ambr_up_kbps, session.qos.ambr_down_kbps) == (1_000, 2_000)
        assert (session.location.rat, session.location.time_zone) == ("LTE", "+09:00")
        moved = b"\x14\x05" + tlv(0x97, b"\x02") + tlv(0x98, bytes.fromhex("0144f00100010007"))
        assert cause_of(await sgsn.ask(message(128, teid, 3, moved))) == 128
        (session,) = stage.open_sessions()
        assert (session.location.rat, session.location.time_zone) == ("GSM", "+09:00")
        assert session.location.cell == Cell(440, 10, lac=1, sac=7)
        assert session.tunnel is not None
        assert session.tunnel.peer_teid_control == 0x2002


# -- hostile rows ---------------------------------------------------------------------------------------


def create_for(imsi: str, sequence: int) -> bytes:
    elements = create_elements()
    elements[0] = b"\x02" + encode_tbcd(imsi, 8)
    return message(16, 0, sequence, b"".join(elements))


@played
async def test_a_flood_of_creates_for_one_imsi_leaves_one_session(stage: Stage) -> None:
    async with peer(stage) as sgsn:
        answers = await sgsn.flood(create_for(stage.imsi, sequence) for sequence in range(200))
        assert Counter(map(cause_of, answers)) == {128: OF_ONE_SIM_MAX, 199: 200 - OF_ONE_SIM_MAX}
        assert len(stage.open_sessions()) == 1
        held = stage.node.held["vg-1"]
        assert held.door.endpoint.contexts == 1


@played
async def test_a_flood_of_creates_for_sims_that_are_not_there_holds_nothing(stage: Stage) -> None:
    async with peer(stage) as sgsn:
        answers = await sgsn.flood(create_for(f"44099{number:010}", number) for number in range(500))
        assert Counter(map(cause_of, answers)) == {209: 500}
        held = stage.node.held["vg-1"]
        assert held.door.endpoint.contexts == 0
        assert held.gateway.leases == {"addresses": 0, "teids": 0}


def test_what_is_used_up_is_refused_and_nothing_of_it_leaks() -> None:
    async def main() -> None:
        stage = Stage(0, Plan(sims=SLOTS + 6))
        await stage.start_node()
        await stage._make_sims()
        held = stage.node.held["vg-1"]
        async with peer(stage) as sgsn:
            answers = await sgsn.flood(
                create_for(state.imsi, number) for number, state in enumerate(stage.sims)
            )
            assert Counter(map(cause_of, answers)) == {128: SLOTS, 199: 6}
            assert held.gateway.leases == {"addresses": SLOTS, "teids": 2 * SLOTS}
            gone = [elements_of(answer)[17][0] for answer in answers if cause_of(answer) == 128]
            await sgsn.flood(
                message(20, int.from_bytes(teid, "big"), number, b"\x13\xff\x14\x05")
                for number, teid in enumerate(gone, 1_000)
            )
            assert held.gateway.leases == {"addresses": 0, "teids": 0}
            assert cause_of(await sgsn.ask(create_for(stage.sims[-1].imsi, 2_000))) == 128

    run_virtual(main)


def used_up(stage: Stage) -> list[IPv4Address]:
    """Every address of the blocks that are there."""
    pool, lent = stage.node.held["vg-1"].gateway._pools[None].addresses, []
    with pytest.raises(PoolExhausted):
        while True:
            lent.append(pool.lease(stage.clock.monotonic()))
    return lent


@played
async def test_who_comes_before_the_next_block_waits_for_it(stage: Stage) -> None:
    pool = stage.node.held["vg-1"].gateway._pools[None].addresses
    async with peer(stage) as sgsn:
        lent, blocks = used_up(stage), len(pool.blocks)
        assert cause_of(await sgsn.ask(create(1))) == 128
        assert len(pool.blocks) > blocks
        for address in lent:
            pool.release(address, stage.clock.monotonic())


@played
async def test_addresses_that_are_used_up_are_cause_211(stage: Stage) -> None:
    held = stage.node.held["vg-1"]
    pool = held.gateway._pools[None].addresses
    held.blocks._may_take_at = math.inf  # the network has no block left
    async with peer(stage) as sgsn:
        lent = used_up(stage)
        assert cause_of(await sgsn.ask(create(1))) == 211
        assert stage.open_sessions() == []
        for address in lent:
            pool.release(address, stage.clock.monotonic())
