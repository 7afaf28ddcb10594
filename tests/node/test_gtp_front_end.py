"""The GTP front end before a whole node in virtual time: changes and bearers that the network starts,
commands, handovers and attaches without a detach. SGWs whose octets matter speak by position.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from ipaddress import IPv4Address, IPv6Network
from typing import TypeVar

import pytest

from core.domain.flow import DedicatedBearer, PacketFilter
from core.domain.reasons import AttachRefusal
from core.domain.requests import ModifySession
from core.domain.session import Access, CloseReason, PdnType, Qos, Session
from core.domain.shares import Places
from core.domain.values import replace
from core.errors import Refused, Unavailable
from core.ports.network import Address
from core.services.customers.sims import Sims
from core.services.sessions.dedicated import BEARERS_MAX, DedicatedBearers
from core.services.sessions.service import Sessions
from gtp.transaction import PATIENCE_S, RequestSender
from gtp.v2.cause import Cause
from loadtest.peers.gtp import GtpPeer
from loadtest.peers.sgsn import Sgsn
from loadtest.peers.sgw import Sgw
from loadtest.simulation.plan import Plan
from loadtest.simulation.virtual import NetworkFaults, SeededEntropy, run_virtual
from loadtest.simulation.world import APN, GATEWAY, OPERATOR, World
from tests.support.gtp2 import create_elements, create_session, element, f_teid, message2

HERE = "127.0.2.8"
FILTERS = (PacketFilter(1, 7, remote="10.1.0.0/16", protocol=17),)
AnyPeer = TypeVar("AnyPeer", bound=GtpPeer)  # type: ignore[type-arg]  # of whatever version


class Wire:
    """An SGW of octets: what came to it, in order."""

    def __init__(self) -> None:
        self.received: list[bytes] = []

    def take(self, data: bytes, source: Address) -> None:
        self.received.append(data)


class Stage(World):
    """A node, one SIM, and peers as a test asks for them; nothing goes wrong but by the test."""

    stack: AsyncExitStack

    async def peer(self, kind: type[AnyPeer], address: str) -> AnyPeer:
        entropy = SeededEntropy(self.rng)
        peer = kind(network=self.network, address=address, gateway=GATEWAY, entropy=entropy)
        return await self.stack.enter_async_context(peer.running())

    async def ask(self, data: bytes) -> bytes:
        """Send octets from ``HERE``; the first that come back."""
        wire = Wire()
        socket = await self.network.open_datagram((HERE, 2123), wire.take)
        socket.send(data, (GATEWAY, 2123))
        await asyncio.sleep(1)
        socket.close()
        return wire.received[0]

    @property
    def sessions(self) -> Sessions:
        return self.node.held["vg-1"].sessions

    @property
    def dedicated(self) -> DedicatedBearers:
        return self.node.held["vg-1"].dedicated

    @property
    def only(self) -> Session:
        (session,) = self.sessions.open_sessions.values()
        return session

    async def stored(self) -> Session:
        (session,) = await self.node._world.store.sessions.of_sim(self.only.sim_id)
        return session

    @property
    def imsi(self) -> str:
        return self.sims[1].imsi


Script = Callable[[Stage], Awaitable[None]]


def played(script: Script) -> Script:
    """Run a script on a fresh stage, and afterwards see that the pools are whole again."""

    def test() -> None:
        async def main() -> None:
            stage = Stage(0, Plan(sims=2))
            await stage.start_node()
            await stage._make_sims()
            async with AsyncExitStack() as stack:
                stage.stack = stack
                await script(stage)
                stage.store_rates.before = stage.store_rates.after = 0.0
                await stage.sessions.end_sessions_of(stage.sims[1].sim.sim_id, CloseReason.CUSTOMER)
            await asyncio.sleep(120)
            assert stage.node.held["vg-1"].gateway.allocated == {"addresses": 0, "teids": 0}
            assert stage.node.held["vg-1"].gtp.endpoint.contexts == 0
            await stage.finish()

        run_virtual(main)

    test.__name__, test.__doc__ = script.__name__, script.__doc__
    return test  # type: ignore[return-value]  # pytest calls it without a stage


# -- addresses ------------------------------------------------------------------------------------------


@played
async def test_a_session_of_both_families_has_the_prefix_of_its_address(stage: Stage) -> None:
    elements = {**create_elements(pdn_type=3), "indication": element(77, b"\x80")}
    answer = await stage.ask(message2(32, 0, 1, b"".join(elements.values())))
    assert answer[16] == Cause.REQUEST_ACCEPTED
    session = stage.only
    assert session.pdn_type is PdnType.IPV4V6
    assert session.ue_prefix is not None
    interface = session.ue_prefix.network_address + int(session.ue_address)
    assert element(79, b"\x03\x40" + interface.packed + session.ue_address.packed) in answer
    assert await stage.stored() == session


@played
async def test_a_prefix_that_is_not_the_sims_own_is_refused_and_nothing_is_kept(stage: Stage) -> None:
    wanted = IPv6Network("2001:db8:0:77::/64").network_address.packed
    for pdn_type, paa in ((2, b"\x02\x40" + wanted), (3, b"\x03\x40" + wanted + bytes(4))):
        elements = {**create_elements(pdn_type=pdn_type), "paa": element(79, paa)}
        elements["indication"] = element(77, b"\x80")
        answer = await stage.ask(message2(32, 0, pdn_type, b"".join(elements.values())))
        assert answer[16] == Cause.SERVICE_NOT_SUPPORTED
    assert stage.node.held["vg-1"].gateway.allocated == {"addresses": 0, "teids": 0}


# -- attaching without a detach -------------------------------------------------------------------------


@played
async def test_the_same_bearer_again_replaces_the_session_without_a_word(stage: Stage) -> None:
    sgw = await stage.peer(Sgw, "127.0.2.1")
    first = await sgw.attach(imsi=stage.imsi, apn=APN)
    other = await stage.peer(Sgw, "127.0.2.2")
    second = await other.attach(imsi=stage.imsi, apn="internet")
    assert stage.only.ue_address == second.ue_address
    assert (first.ended_by_gateway, second.is_active) == (False, True)


@played
async def test_the_same_apn_and_type_by_another_bearer_replaces_the_session(stage: Stage) -> None:
    sgw = await stage.peer(Sgw, "127.0.2.1")
    await sgw.attach(imsi=stage.imsi, apn=APN, nsapi=5)
    await sgw.attach(imsi=stage.imsi, apn=APN.upper(), nsapi=6)
    assert stage.only.tunnel is not None
    assert stage.only.tunnel.nsapi == 6


@played
async def test_another_apn_or_another_type_by_another_bearer_stands_beside(stage: Stage) -> None:
    sgw = await stage.peer(Sgw, "127.0.2.1")
    await sgw.attach(imsi=stage.imsi, apn=APN, nsapi=5)
    await sgw.attach(imsi=stage.imsi, apn="internet", nsapi=6)
    elements = create_elements(pdn_type=2)
    bearer = element(73, b"\x07") + f_teid(4, 0x1001, 2) + element(80, bytes.fromhex("7409") + bytes(20))
    elements["bearer context"] = element(93, bearer)
    assert (await stage.ask(message2(32, 0, 1, b"".join(elements.values()))))[16] == 16
    assert len(stage.sessions.open_sessions) == 3


@played
async def test_a_flood_for_one_imsi_ends_in_one_session(stage: Stage) -> None:
    wire = Wire()
    socket = await stage.network.open_datagram((HERE, 2123), wire.take)
    for sequence in range(200):
        socket.send(create_session(sequence), (GATEWAY, 2123))
    await asyncio.sleep(PATIENCE_S)
    assert len(wire.received) >= 1
    assert stage.only.imsi == stage.imsi
    assert stage.node.held["vg-1"].gateway.allocated == {"addresses": 1, "teids": 2}
    socket.close()


# -- changes --------------------------------------------------------------------------------------------


async def changed(stage: Stage, qos: Qos) -> Session:
    """As the session service does when the customer changes a SIM's speed."""
    change = ModifySession(session_id=stage.only.session_id, qos=qos)
    session = await stage.sessions.modify(change)
    front_end = stage.sessions.front_end_of(session)
    assert front_end is not None
    front_end.changed(session)
    await asyncio.sleep(1)
    return session


@played
async def test_a_change_on_our_side_reaches_the_sgw_and_the_sgsn(stage: Stage) -> None:
    sgw, sgsn = await stage.peer(Sgw, "127.0.2.1"), await stage.peer(Sgsn, "127.0.1.1")
    context = await sgw.attach(imsi=stage.imsi, apn=APN)
    await changed(stage, Qos(ambr_up_kbps=128, ambr_down_kbps=256))
    assert sgw.told_ambr == (128, 256)
    await sgsn.take_over(context)
    await changed(stage, Qos(ambr_up_kbps=32, ambr_down_kbps=32))
    assert stage.only.qos.ambr_up_kbps == 32
    versions = stage.node.held["vg-1"].gtp.endpoint.versions.values()
    assert not any(version.requests._open for version in versions), "both were answered"


@played
async def test_a_session_that_its_peer_lost_is_closed_when_a_change_finds_it_out(stage: Stage) -> None:
    sgw = await stage.peer(Sgw, "127.0.2.1")
    sgw.lose(await sgw.attach(imsi=stage.imsi, apn=APN))
    await changed(stage, Qos(ambr_up_kbps=128, ambr_down_kbps=256))
    assert not stage.sessions.open_sessions


@played
async def test_a_peer_that_knows_a_session_no_more_ends_it_not_when_it_has_moved(stage: Stage) -> None:
    sgw, other = await stage.peer(Sgw, "127.0.2.1"), await stage.peer(Sgw, "127.0.2.2")
    context = await sgw.attach(imsi=stage.imsi, apn=APN)
    stage.rng.seed(4)  # so delayed, the move arrives before the answer of the one that it leaves
    stage.network.faults = NetworkFaults(delay_s_max=0.5)
    moving = asyncio.create_task(other.take_over(context))
    await asyncio.sleep(0)
    telling = asyncio.create_task(changed(stage, Qos(ambr_up_kbps=128, ambr_down_kbps=256)))
    sgw.lose(context)
    await asyncio.gather(moving, telling)
    await asyncio.sleep(30)
    tunnel = stage.only.tunnel
    assert tunnel is not None
    assert tunnel.peer_control_address == "127.0.2.2"


@played
async def test_a_changed_subscription_is_durable_and_comes_back_as_an_update(stage: Stage) -> None:
    assert (await stage.ask(create_session()))[16] == 16
    tunnel = stage.only.tunnel
    assert tunnel is not None
    bearer = element(93, element(73, b"\x05") + element(80, bytes.fromhex("3808") + bytes(20)))
    ambr = element(72, (300).to_bytes(4, "big") + (400).to_bytes(4, "big"))
    answer = await stage.ask(message2(64, tunnel.local_teid_control, 0x800001, ambr + bearer))
    assert (answer[1], answer[8:11]) == (97, b"\x80\0\x01")
    assert ambr in answer
    assert (await stage.stored()).qos == Qos(8, 0x38, 300, 400)
    only_ambr = element(72, bytes(8)) + element(93, element(73, b"\x05"))
    answer = await stage.ask(message2(64, tunnel.local_teid_control, 0x800002, only_ambr))
    assert ambr in answer, "an AMBR of nothing leaves the one that there is"


@played
async def test_a_suspended_session_stays_so_until_it_is_resumed_or_moves(stage: Stage) -> None:
    assert (await stage.ask(create_session()))[16] == 16
    tunnel = stage.only.tunnel
    assert tunnel is not None
    for kind, is_suspended in ((162, True), (164, False), (162, True)):
        answer = await stage.ask(message2(kind, tunnel.local_teid_control, 30 + kind + is_suspended, b""))
        assert (answer[1], answer[16]) == (kind + 1, 16)
        assert (await stage.stored()).is_suspended is is_suspended
        await asyncio.sleep(60)
    sgw = await stage.peer(Sgw, "127.0.2.1")
    context = await sgw.attach(imsi=stage.imsi, apn=APN)
    assert stage.only.is_suspended is False
    await stage.sessions.modify(ModifySession(session_id=stage.only.session_id, is_suspended=True))
    await (await stage.peer(Sgsn, "127.0.1.1")).take_over(context)
    assert stage.only.is_suspended is False


@played
async def test_a_change_notification_is_durable(stage: Stage) -> None:
    assert (await stage.ask(create_session()))[16] == 16
    tunnel = stage.only.tunnel
    assert tunnel is not None
    uli = element(86, bytes.fromhex("18" "44f0510001" "44f05100000002"))  # fmt: skip
    answer = await stage.ask(message2(38, tunnel.local_teid_control, 2, element(82, b"\x08") + uli))
    assert (answer[1], answer[16]) == (39, 16)
    location = (await stage.stored()).location
    assert (location.plmn, location.rat) == ("44015", "NB-IoT")


@played
async def test_a_sim_that_goes_into_another_device_is_told_and_ends_when_it_is_locked(stage: Stage) -> None:
    assert (await stage.ask(create_session()))[16] == 16
    tunnel, was = stage.only.tunnel, stage.only.imei
    assert tunnel is not None
    world, sim = stage.node._world, stage.sims[1].sim

    async def notify(sequence: int, mei: str) -> bytes:
        body = element(82, b"\x06") + element(75, bytes.fromhex(mei))
        return await stage.ask(message2(38, tunnel.local_teid_control, sequence, body))

    assert (await notify(2, "5320000000000010"))[16] == 16
    assert stage.only.imei == was == "3502000000000001"
    assert (await notify(3, "9410450223731510"))[16] == 16
    assert (await stage.stored()).imei == "4901542032375101"
    page = await world.store.sessions.events(sim.sim_id, since=sim.created, until=stage.clock.now())
    assert (page.items[0].kind.value, page.items[0].imei) == ("Modified", "4901542032375101")
    sims = Sims(
        store=world.store, control=stage.node.control, clock=stage.clock, entropy=SeededEntropy(stage.rng)
    )
    await sims.set_imei_lock(OPERATOR, sim.sim_id, "490154203237518")
    assert len(stage.sessions.open_sessions) == 1
    assert (await notify(4, "5320000000000010"))[16] == Cause.USER_AUTHENTICATION_FAILED
    assert not stage.sessions.open_sessions


# -- dedicated bearers ----------------------------------------------------------------------------------


async def added(stage: Stage, precedence: int = 7) -> DedicatedBearer:
    filters = [replace(each, precedence=precedence) for each in FILTERS]
    return await stage.dedicated.add(stage.only.session_id, qci=7, arp=0x34, filters=filters)


@played
async def test_a_dedicated_bearer_is_durable_outlives_a_crash_and_ends_alone(stage: Stage) -> None:
    sgw = await stage.peer(Sgw, "127.0.2.1")
    context = await sgw.attach(imsi=stage.imsi, apn=APN)
    made = await added(stage)
    assert (made.ebi, made.peer_user_address) == (6, "127.0.2.1")
    assert context.bearers == {6: made.local_teid_user}
    assert (await stage.stored()).dedicated == (made,)
    await stage.crash()
    await stage.start_node()
    assert stage.only.dedicated == (made,)
    assert stage.node.held["vg-1"].gateway.allocated == {"addresses": 1, "teids": 3}
    await stage.dedicated.remove(stage.only.session_id, 6)
    await asyncio.sleep(1)
    assert (context.bearers, (await stage.stored()).dedicated, context.is_active) == ({}, (), True)
    assert stage.node.held["vg-1"].gateway.allocated == {"addresses": 1, "teids": 2}
    with pytest.raises(Refused):
        await stage.dedicated.remove(stage.only.session_id, 6)


@played
async def test_what_the_peer_does_not_make_leaves_nothing(stage: Stage) -> None:
    sgw = await stage.peer(Sgw, "127.0.2.1")
    await sgw.attach(imsi=stage.imsi, apn=APN)
    sgw.verdict = Cause.NO_RESOURCES_AVAILABLE
    with pytest.raises(Refused) as refused:
        await added(stage)
    assert refused.value.reason is AttachRefusal.NOT_SUPPORTED
    assert stage.node.held["vg-1"].gateway.allocated == {"addresses": 1, "teids": 2}
    sgsn = await stage.peer(Sgsn, "127.0.1.1")
    await sgsn.attach(imsi=stage.imsi, apn=APN)
    with pytest.raises(Refused):
        await added(stage)


@played
async def test_a_session_that_ends_while_its_bearer_is_asked_for_leaves_nothing(stage: Stage) -> None:
    sgw = await stage.peer(Sgw, "127.0.2.1")
    context = await sgw.attach(imsi=stage.imsi, apn=APN)
    sgw._answer_gateway = lambda *_: None  # type: ignore[method-assign]  # a peer that does not answer
    adding = asyncio.create_task(added(stage))
    await asyncio.sleep(1)
    await sgw.detach(context)
    with pytest.raises(Refused):
        await adding
    assert stage.node.held["vg-1"].gateway.allocated["teids"] == 0


@played
async def test_a_bearer_of_a_peer_from_which_the_session_moved_is_none(stage: Stage) -> None:
    sgw, other = await stage.peer(Sgw, "127.0.2.1"), await stage.peer(Sgw, "127.0.2.2")
    context = await sgw.attach(imsi=stage.imsi, apn=APN)
    answer, loop = sgw._answer_gateway, asyncio.get_running_loop()
    sgw._answer_gateway = lambda *of: loop.call_later(3, answer, *of)  # type: ignore[assignment]  # a slow one
    adding = asyncio.create_task(added(stage))
    await asyncio.sleep(1)
    await other.take_over(context)
    with pytest.raises(Refused):
        await adding
    assert not stage.only.dedicated
    assert stage.node.held["vg-1"].gateway.allocated["teids"] == 2


@played
async def test_a_bearer_that_cannot_be_asked_for_now_is_not_called_unsupported(stage: Stage) -> None:
    sgw = await stage.peer(Sgw, "127.0.2.1")
    await sgw.attach(imsi=stage.imsi, apn=APN)
    version = stage.node.held["vg-1"].gtp.endpoint.versions[Access.GTPV2]
    version.requests = RequestSender(random_bytes=bytes, places=Places(0))
    with pytest.raises(Unavailable, match="too many requests"):
        await added(stage)
    assert stage.node.held["vg-1"].gateway.allocated["teids"] == 2


@played
async def test_a_bearer_that_nobody_waits_for_any_more_is_taken_back(stage: Stage) -> None:
    sgw = await stage.peer(Sgw, "127.0.2.1")
    context = await sgw.attach(imsi=stage.imsi, apn=APN)
    adding = asyncio.create_task(added(stage))
    await asyncio.sleep(0)
    adding.cancel()
    await asyncio.sleep(1)
    assert (context.bearers, stage.only.dedicated) == ({}, ())
    assert stage.node.held["vg-1"].gateway.allocated["teids"] == 2


@played
async def test_a_bearer_that_cannot_be_stored_is_taken_back_but_one_that_may_be_stands(stage: Stage) -> None:
    sgw = await stage.peer(Sgw, "127.0.2.1")
    context = await sgw.attach(imsi=stage.imsi, apn=APN)
    stage.store_rates.before = 1.0
    with pytest.raises(Unavailable):
        await added(stage)
    stage.store_rates.before, stage.store_rates.after = 0.0, 1.0
    await asyncio.sleep(1)
    assert (context.bearers, stage.only.dedicated) == ({}, ())
    with pytest.raises(Unavailable):
        await added(stage)
    stage.store_rates.after = 0.0
    await asyncio.sleep(1)
    (kept,) = stage.only.dedicated
    assert context.bearers == {kept.ebi: kept.local_teid_user}
    await stage.dedicated.remove(stage.only.session_id, kept.ebi)
    assert (await stage.stored()).dedicated == ()


@played
async def test_a_change_of_a_bearer_that_cannot_be_stored_is_taken_back_from_the_peer(stage: Stage) -> None:
    sgw = await stage.peer(Sgw, "127.0.2.1")
    await sgw.attach(imsi=stage.imsi, apn=APN)
    made = await added(stage)
    asked: list[bytes] = []

    def tap(data: bytes, _: Address, is_incoming: bool) -> None:
        if data[1] == 97 and not is_incoming:
            asked.append(data[12:])

    stage.stack.enter_context(stage.node.held["vg-1"].gtp.tapped(tap))
    stage.store_rates.before = 1.0
    with pytest.raises(Unavailable):
        await stage.dedicated.change(stage.only.session_id, made.ebi, qci=8)
    stage.store_rates.before = 0.0
    assert [data[data.index(b"\x50\0\x16") + 5] for data in asked] == [8, 7]
    assert stage.only.dedicated == (await stage.stored()).dedicated == (made,)
    sgw.verdict = Cause.NO_RESOURCES_AVAILABLE
    with pytest.raises(Refused):
        await stage.dedicated.change(stage.only.session_id, made.ebi, qci=8)
    assert stage.only.dedicated == (made,)
    sgw.verdict = Cause.REQUEST_ACCEPTED
    changed = await stage.dedicated.change(stage.only.session_id, made.ebi, qci=8, arp=0x10)
    assert stage.only.dedicated == (await stage.stored()).dedicated == (changed,)
    assert changed == replace(made, qci=8, arp=0x10)


@played
async def test_filters_have_one_order_and_bearers_a_number(stage: Stage) -> None:
    sgw = await stage.peer(Sgw, "127.0.2.1")
    await sgw.attach(imsi=stage.imsi, apn=APN)
    impossible: tuple[list[PacketFilter], ...] = (
        [],
        [PacketFilter(1, 1)],
        [PacketFilter(1, 1, protocol=6), PacketFilter(2, 1, protocol=17)],
        [PacketFilter(1, 1, protocol=6), PacketFilter(1, 2, protocol=17)],
        [PacketFilter(1, 1, remote="10.0.0.1/8")],
        [PacketFilter(1, 1, local_ports=(9, 5))],
        [PacketFilter(16, 1, protocol=6)],
        [PacketFilter(1, 256, protocol=6)],
        [PacketFilter(1, 1, is_uplink=False, is_downlink=False, protocol=6)],
    )
    for filters in impossible:
        with pytest.raises(Refused):
            await stage.dedicated.add(stage.only.session_id, qci=7, arp=0x34, filters=filters)
    for qci in (0, 1, 255):
        with pytest.raises(Refused):
            await stage.dedicated.add(stage.only.session_id, qci=qci, arp=0x34, filters=FILTERS)
    assert stage.node.held["vg-1"].gateway.allocated["teids"] == 2
    for precedence in range(BEARERS_MAX):
        await added(stage, precedence)
        with pytest.raises(Refused):
            await added(stage, precedence)
    with pytest.raises(Refused) as refused:
        await added(stage, 200)
    assert refused.value.reason is AttachRefusal.NO_RESOURCES


@played
async def test_two_bearers_of_one_precedence_at_once_become_one(stage: Stage) -> None:
    sgw = await stage.peer(Sgw, "127.0.2.1")
    context = await sgw.attach(imsi=stage.imsi, apn=APN)
    done = await asyncio.gather(added(stage), added(stage), return_exceptions=True)
    await asyncio.sleep(1)
    assert [isinstance(one, Refused) for one in done].count(True) == 1
    assert list(context.bearers) == [bearer.ebi for bearer in stage.only.dedicated]


@played
async def test_the_peer_has_a_dedicated_bearer_deleted_by_its_command(stage: Stage) -> None:
    sgw = await stage.peer(Sgw, "127.0.2.1")
    await sgw.attach(imsi=stage.imsi, apn=APN)
    made = await added(stage)
    tunnel = stage.only.tunnel
    assert tunnel is not None
    for ebi, kind in ((9, 67), (made.ebi, 99)):
        command = element(93, element(73, bytes((ebi,))))
        answer = await stage.ask(message2(66, tunnel.local_teid_control, 0x800000 | ebi, command))
        assert answer[1] == kind
    assert (await stage.stored()).dedicated == ()


# -- handovers ------------------------------------------------------------------------------------------


def identity(session: Session) -> tuple[object, ...]:
    """What a handover keeps."""
    tunnel = session.tunnel
    assert tunnel is not None
    own = (tunnel.local_teid_control, tunnel.local_teid_user, tunnel.charging_id)
    return session.session_id, session.ue_address, session.ue_prefix, session.pdn_type, own


@played
async def test_a_session_goes_from_2g_to_lte_and_back_with_all_that_it_has(stage: Stage) -> None:
    sgsn, sgw = await stage.peer(Sgsn, "127.0.1.1"), await stage.peer(Sgw, "127.0.2.1")
    context = await sgsn.attach(imsi=stage.imsi, apn=APN)
    kept = identity(stage.only)
    for peer, access in ((sgw, Access.GTPV2), (sgsn, Access.GTPV1), (sgw, Access.GTPV2)):
        context = await peer.take_over(context)
        assert (identity(stage.only), stage.only.access) == (kept, access)
    made = await added(stage)
    assert made in stage.only.dedicated
    await sgsn.take_over(context)
    assert identity(stage.only) == kept
    assert not stage.only.dedicated
    assert stage.node.held["vg-1"].gateway.allocated == {"addresses": 1, "teids": 2}


@pytest.mark.parametrize("was", [Sgsn, Sgw])
def test_a_create_session_with_handover_indication_goes_on(was: type[GtpPeer]) -> None:  # type: ignore[type-arg]  # any
    @played
    async def script(stage: Stage) -> None:
        peer = await stage.peer(was, "127.0.1.1")
        await peer.attach(imsi=stage.imsi, apn=APN, nsapi=6)
        kept = identity(stage.only)
        elements = {**create_elements(), "indication": element(77, b"\x20")}
        answer = await stage.ask(message2(32, 0, 1, b"".join(elements.values())))
        assert answer[16] == 16
        assert identity(stage.only) == kept
        tunnel = stage.only.tunnel
        assert tunnel is not None
        assert (tunnel.nsapi, tunnel.peer_teid_control, stage.only.access) == (5, 0x2001, Access.GTPV2)
        assert f_teid(7, tunnel.local_teid_control, 1, IPv4Address(GATEWAY).packed) in answer
        assert await stage.stored() == stage.only

    script()  # type: ignore[call-arg]  # pytest's way of it


@played
async def test_a_handover_of_nothing_is_an_attach(stage: Stage) -> None:
    elements = {**create_elements(), "indication": element(77, b"\x20")}
    assert (await stage.ask(message2(32, 0, 1, b"".join(elements.values()))))[16] == 16
    assert stage.only.imsi == stage.imsi


@played
async def test_a_later_version_is_answered_by_the_latest_and_an_older_by_the_older(stage: Stage) -> None:
    assert (await stage.ask(bytes((0x60, 1, 0, 8)) + bytes(8)))[:2] == b"\x40\x03"
    await asyncio.sleep(2)
    assert (await stage.ask(bytes((0x1E, 1, 0, 0)) + bytes(16)))[:2] == b"\x32\x03"
