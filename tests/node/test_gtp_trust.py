"""Whose a session is: two partners × every GTP message × the other's session, and who may take one over.

A message type without a row here is red.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest

from core.domain.audit import AuditAction, AuditEntry
from core.domain.flow import DedicatedBearer, PacketFilter
from core.domain.session import Access, CloseReason, Session
from core.domain.usage import day_of
from core.domain.values import replace
from core.ports.network import Address
from gtp.doubts import (
    DOUBTS_MAX,
    INDICATED_AGAIN_S,
    INDICATED_MAX,
    INDICATED_TIMES,
    Doubts,
    IndicationAction,
    Indications,
)
from gtp.partners import Partner, Partners
from gtp.transaction import PATIENCE_S
from gtp.userplane import messages
from gtp.v1.message import MessageType as V1
from gtp.v2.message import MessageType as V2
from loadtest.peers.gtp import GtpPeer, PdpContext, Refusal
from loadtest.peers.sgsn import Sgsn
from loadtest.peers.sgw import Sgw
from loadtest.simulation.plan import Plan
from loadtest.simulation.virtual import SeededEntropy, run_virtual
from loadtest.simulation.world import APN, GATEWAY, World
from tests.support import gtp as v1
from tests.support import gtp2 as v2

ALPHA, BETA = "127.0.1.1", "127.0.2.1"
BETA_ADDRESS = IPv4Address(BETA).packed
HERE = "127.0.2.8"
"""Another address of beta's."""
Peer = GtpPeer[Any]
kinds = pytest.mark.parametrize("kind", [Sgsn, Sgw])


class Stage(World):
    """A node, two partners, and the SIM whose session alpha holds."""

    stack: AsyncExitStack
    alpha: Peer
    context: PdpContext

    async def peer(self, kind: type[Peer], address: str) -> Peer:
        entropy = SeededEntropy(self.rng)
        peer = kind(network=self.network, address=address, gateway=GATEWAY, entropy=entropy)
        return await self.stack.enter_async_context(peer.running())

    async def begin(self) -> None:
        """Alpha has a session, by which its device talks."""
        state = self.sims[1]
        state.peer, state.context = self.alpha, await self.alpha.attach(imsi=state.imsi, apn=APN)
        self.context = state.context
        self.owner_of[self.context.ue_address] = state.imsi
        state.device = self._device(state, self.context)
        await asyncio.sleep(PATIENCE_S)
        await self.see_that_alpha_has_it()

    async def see_that_alpha_has_it(self) -> None:
        """Its device's packets go up and come back, through alpha."""
        device = self.sims[1].device
        assert device is not None
        assert await device.send_raw(b"reading", answer_s=5.0) == b"200"
        assert (self.context.is_active, self.context.ended_by_gateway) == (True, False)

    async def ask(self, data: bytes, port: int = 2123) -> list[bytes]:
        """Send octets from an address of beta's; what comes back."""
        received = list[bytes]()

        def take(data: bytes, _: Address) -> None:
            received.append(data)

        socket = await self.network.open_datagram((HERE, port), take)
        socket.send(data, (GATEWAY, port))
        await asyncio.sleep(1)
        socket.close()
        return received

    def of_alpha(self) -> Session:
        found = [s for s in self.open_sessions() if s.tunnel and s.tunnel.peer_control_address == ALPHA]
        (session,) = found
        return session

    async def stored(self) -> dict[str, Session]:
        sessions = await self.node._world.store.sessions.of_sim(self.sims[1].sim.sim_id)
        return {each.session_id: each for each in sessions}

    async def audited(self) -> list[AuditEntry]:
        page = await self.node._world.store.audit.of_day(day_of(self.clock.now()))
        return [each for each in page.items if each.action is AuditAction.SESSION_TAKEN_OVER]


Script = Callable[[Stage], Awaitable[None]]


def play(script: Script, kind: type[Peer] = Sgsn, *, may_take_over: tuple[str, ...] = ()) -> None:
    async def main() -> None:
        partners = (
            {"name": "alpha", "networks": ["127.0.1.0/24"]},
            {"name": "beta", "networks": ["127.0.2.0/24"], "may_take_over": may_take_over},
        )
        stage = Stage(0, Plan(sims=2, partners=partners))
        await stage.start_node()
        await stage._make_sims()
        async with AsyncExitStack() as stack:
            stage.stack = stack
            stage.alpha = await stage.peer(kind, ALPHA)
            await stage.begin()
            await script(stage)
            await (await stage.holding()).sessions.end_sessions_of(
                stage.sims[1].sim.sim_id, CloseReason.CUSTOMER
            )
        await asyncio.sleep(120)
        assert (await stage.holding()).gateway.allocated == {"addresses": 0, "teids": 0}
        await stage.finish()

    run_virtual(main)


# -- the matrix -----------------------------------------------------------------------------------------

Row = Callable[[int, int], bytes]
"""A message of beta's about the session with this TEID of ours, under this sequence number."""


def of_v1(kind: V1, body: bytes) -> Row:
    return lambda teid, sequence: v1.message(kind, teid, sequence, body)


def of_v2(kind: V2, body: bytes) -> Row:
    return lambda teid, sequence: v2.message2(kind, teid, sequence, body)


def create_v1(_: int, sequence: int) -> bytes:
    return v1.create_request(sequence).replace(IPv4Address(ALPHA).packed, BETA_ADDRESS)


def create_v2(_: int, sequence: int, *, is_handover: bool = False) -> bytes:
    elements = {**v2.create_elements(), "indication": v2.element(77, b"\x20" if is_handover else b"\0")}
    return v2.message2(V2.CREATE_SESSION_REQUEST, 0, sequence, b"".join(elements.values()))


UNKNOWN_V1 = b"\x01\xc0"
UNKNOWN_V2 = v2.element(2, b"\x40\0")
EBI = v2.element(73, b"\x05")
ULI = v2.element(86, bytes.fromhex("1844f001000144f00100000001"))
COMMANDED = v2.element(72, bytes(8)) + v2.element(93, EBI + v2.element(80, bytes.fromhex("3808") + bytes(20)))

ROWS_V1: Mapping[V1, Row] = {
    V1.ECHO_REQUEST: of_v1(V1.ECHO_REQUEST, b"\x0e\x63"),
    V1.ECHO_RESPONSE: of_v1(V1.ECHO_RESPONSE, b"\x0e\x63"),
    V1.VERSION_NOT_SUPPORTED: of_v1(V1.VERSION_NOT_SUPPORTED, b""),
    V1.CREATE_PDP_CONTEXT_REQUEST: create_v1,
    V1.CREATE_PDP_CONTEXT_RESPONSE: of_v1(V1.CREATE_PDP_CONTEXT_RESPONSE, UNKNOWN_V1),
    V1.UPDATE_PDP_CONTEXT_REQUEST: lambda teid, sequence: v1.update_request(
        teid, sequence, address=BETA_ADDRESS
    ),
    V1.UPDATE_PDP_CONTEXT_RESPONSE: of_v1(V1.UPDATE_PDP_CONTEXT_RESPONSE, UNKNOWN_V1),
    V1.DELETE_PDP_CONTEXT_REQUEST: v1.delete_request,
    V1.DELETE_PDP_CONTEXT_RESPONSE: of_v1(V1.DELETE_PDP_CONTEXT_RESPONSE, UNKNOWN_V1),
    V1.SUPPORTED_EXTENSION_HEADERS_NOTIFICATION: of_v1(
        V1.SUPPORTED_EXTENSION_HEADERS_NOTIFICATION, b"\x8d\0\x01\x02"
    ),
    V1.MS_INFO_CHANGE_NOTIFICATION_REQUEST: of_v1(
        V1.MS_INFO_CHANGE_NOTIFICATION_REQUEST,
        v1.tlv(0x97, b"\x01") + v1.tlv(0x98, bytes.fromhex("0144f0010001aabb")),
    ),
    V1.MS_INFO_CHANGE_NOTIFICATION_RESPONSE: of_v1(V1.MS_INFO_CHANGE_NOTIFICATION_RESPONSE, UNKNOWN_V1),
}
ROWS_V2: Mapping[V2, Row] = {
    V2.ECHO_REQUEST: lambda _, sequence: v2.message2(1, None, sequence, v2.element(3, b"\x63")),
    V2.ECHO_RESPONSE: lambda _, sequence: v2.message2(2, None, sequence, v2.element(3, b"\x63")),
    V2.VERSION_NOT_SUPPORTED: lambda _, sequence: v2.message2(3, None, sequence, b""),
    V2.CREATE_SESSION_REQUEST: create_v2,
    V2.MODIFY_BEARER_REQUEST: v2.modify_bearer,
    V2.DELETE_SESSION_REQUEST: v2.delete_session,
    V2.CHANGE_NOTIFICATION_REQUEST: of_v2(
        V2.CHANGE_NOTIFICATION_REQUEST,
        v2.element(1, v1.imsi_octets(1)) + ULI + v2.element(82, b"\x09"),
    ),
    V2.MODIFY_BEARER_COMMAND: lambda teid, sequence: v2.message2(64, teid, 0x800000 | sequence, COMMANDED),
    V2.DELETE_BEARER_COMMAND: lambda teid, sequence: v2.message2(
        66, teid, 0x800000 | sequence, v2.element(93, v2.element(73, b"\x06"))
    ),
    V2.BEARER_RESOURCE_COMMAND: lambda teid, sequence: v2.message2(
        68, teid, 0x800000 | sequence, EBI + v2.element(100, b"\x01")
    ),
    **{
        kind: of_v2(kind, UNKNOWN_V2 + EBI)
        for kind in (
            V2.CREATE_SESSION_RESPONSE,
            V2.MODIFY_BEARER_RESPONSE,
            V2.DELETE_SESSION_RESPONSE,
            V2.CHANGE_NOTIFICATION_RESPONSE,
            V2.MODIFY_BEARER_FAILURE_INDICATION,
            V2.DELETE_BEARER_FAILURE_INDICATION,
            V2.BEARER_RESOURCE_FAILURE_INDICATION,
            V2.CREATE_BEARER_REQUEST,
            V2.CREATE_BEARER_RESPONSE,
            V2.UPDATE_BEARER_REQUEST,
            V2.UPDATE_BEARER_RESPONSE,
            V2.DELETE_BEARER_REQUEST,
            V2.DELETE_BEARER_RESPONSE,
            V2.DELETE_PDN_CONNECTION_SET_REQUEST,
            V2.DELETE_PDN_CONNECTION_SET_RESPONSE,
            V2.SUSPEND_NOTIFICATION,
            V2.SUSPEND_ACKNOWLEDGE,
            V2.RESUME_NOTIFICATION,
            V2.RESUME_ACKNOWLEDGE,
            V2.PGW_RESTART_NOTIFICATION,
            V2.PGW_RESTART_NOTIFICATION_ACKNOWLEDGE,
            V2.UPDATE_PDN_CONNECTION_SET_REQUEST,
            V2.UPDATE_PDN_CONNECTION_SET_RESPONSE,
        )
    },
}
SECOND_ROWS: Mapping[str, Row] = {
    "create session by handover": lambda teid, sequence: create_v2(teid, sequence, is_handover=True)
}
CONTROL: Mapping[str, Row] = {
    **{f"v1 {kind.name.lower()}": row for kind, row in ROWS_V1.items()},
    **{f"v2 {kind.name.lower()}": row for kind, row in ROWS_V2.items()},
    **SECOND_ROWS,
}
NO_TYPES = {"GTP_U_PORT", "EXTENSION_HEADERS_MAX", "NOT_UNDERSTOOD", "PLAIN", "NUMBERED"}
"""Numbers of ``gtp.userplane.messages`` that are no types of messages."""


def test_every_message_type_has_a_row() -> None:
    assert set(ROWS_V1) == set(V1)
    assert set(ROWS_V2) == set(V2)
    numbers = {name: value for name, value in vars(messages).items() if isinstance(value, int)}
    types = {value for name, value in numbers.items() if name[0].isalpha() and name not in NO_TYPES}
    assert set(ROWS_U) == types


def leave_requests_open(stage: Stage) -> list[int]:
    """Whatever we ask alpha, it never hears; the sequence numbers."""
    stage.network.cut_off.add(ALPHA)
    front_end, session = stage.node.held["vg-1"].gtp, stage.of_alpha()
    endpoint, now = front_end.endpoint, stage.clock.monotonic()
    version = endpoint.versions[session.access]
    front_end.ask_about([session.session_id])
    endpoint._paths._send_echo_request(version, ALPHA, now)
    endpoint.add_bearer(session, _bearer(), now)
    return [sequence for _, sequence in version.requests._open]


def _bearer() -> DedicatedBearer:
    return DedicatedBearer(
        ebi=0,
        qci=7,
        arp=0x34,
        filters=(PacketFilter(1, 7, remote="10.1.0.0/16", protocol=17),),
        local_teid_user=0xC0000001,
        peer_teid_user=0,
        peer_user_address="0.0.0.0",
        charging_id=1,
    )


@kinds
@pytest.mark.parametrize("name", CONTROL)
def test_no_control_message_of_another_partner_touches_a_session(kind: type[Peer], name: str) -> None:
    async def script(stage: Stage) -> None:
        before = stage.of_alpha()
        stored = (await stage.stored())[before.session_id]
        assert before.tunnel is not None
        teid, row = before.tunnel.local_teid_control, CONTROL[name]
        (answer,) = await stage.ask(row(teid, 7)) or [b""]
        (stranger,) = await stage.ask(row(teid ^ 0x5A5A, 8)) or [b""]
        if "create" not in name:
            assert answer[:4] == stranger[:4], "the answer must not reveal whether the TEID is in use"
            assert answer[12:] == stranger[12:]
        for sequence in leave_requests_open(stage):
            await stage.ask(row(teid, sequence & (0xFFFF if name.startswith("v1") else 0x7FFFFF)))
        await asyncio.sleep(PATIENCE_S)
        stage.network.cut_off.clear()
        assert stage.of_alpha() == before
        assert (await stage.stored())[before.session_id] == stored
        for other in (await stage.stored()).values():
            assert other.session_id == before.session_id or other.ue_address != before.ue_address
        await stage.see_that_alpha_has_it()
        assert await stage.audited() == []

    play(script, kind)


def of_u(kind: int) -> Callable[[Session], bytes]:
    def build(session: Session) -> bytes:
        tunnel = session.tunnel
        assert tunnel is not None
        body = b"\x10" + tunnel.peer_teid_user.to_bytes(4, "big") + b"\x85\0\x04" + BETA_ADDRESS
        if kind == messages.G_PDU:
            body = b"\x45\0\0\x1c" + bytes(4) + b"\x40\x11\0\0" + session.ue_address.packed + bytes(12)
        return b"\x32" + bytes((kind,)) + (len(body) + 4).to_bytes(2, "big") + _teid(tunnel) + bytes(4) + body

    return build


def _teid(tunnel: Any) -> bytes:
    return bytes(tunnel.local_teid_user.to_bytes(4, "big"))


ROWS_U: Mapping[int, Callable[[Session], bytes]] = {
    kind: of_u(kind)
    for kind in (
        messages.ECHO_REQUEST,
        messages.ECHO_RESPONSE,
        messages.ERROR_INDICATION,
        messages.SUPPORTED_EXTENSION_HEADERS,
        messages.END_MARKER,
        messages.G_PDU,
    )
}


@kinds
@pytest.mark.parametrize("message_type", ROWS_U)
def test_no_user_message_of_another_partner_touches_a_session(kind: type[Peer], message_type: int) -> None:
    async def script(stage: Stage) -> None:
        before, up = stage.of_alpha(), dict(stage.up_bytes)
        await stage.ask(ROWS_U[message_type](before), 2152)
        await asyncio.sleep(PATIENCE_S)
        assert stage.of_alpha() == before
        assert dict(stage.up_bytes) == up
        await stage.see_that_alpha_has_it()

    play(script, kind)


# -- what another partner gets --------------------------------------------------------------------------


@kinds
def test_another_partners_create_opens_a_session_beside(kind: type[Peer]) -> None:
    async def script(stage: Stage) -> None:
        beta = await stage.peer(kind, BETA)
        context = await beta.attach(imsi=stage.sims[1].imsi, apn=APN)
        assert context.ue_address != stage.context.ue_address
        assert len(stage.open_sessions()) == 2
        await stage.see_that_alpha_has_it()
        held = await stage.holding()
        assert held.gtp.endpoint.versions[stage.of_alpha().access].claims["beside_anothers"] == 1
        again = await beta.attach(imsi=stage.sims[1].imsi, apn=APN)
        assert (len(stage.open_sessions()), again.is_active) == (2, True), "its own it replaces"

    play(script, kind)


def test_sessions_beside_each_other_are_bounded() -> None:
    async def script(stage: Stage) -> None:
        beta = await stage.peer(Sgsn, BETA)
        for nsapi in range(5, 15):
            await beta.attach(imsi=stage.sims[1].imsi, apn=APN, nsapi=nsapi)
        with pytest.raises(Refusal):
            await beta.attach(imsi=stage.sims[1].imsi, apn=APN, nsapi=15)
        mine = await stage.alpha.attach(imsi=stage.sims[1].imsi, apn=APN)
        assert mine.is_active, "who has one may attach again"

    play(script)


@kinds
def test_a_static_address_in_anothers_session_is_refused(kind: type[Peer]) -> None:
    async def script(stage: Stage) -> None:
        static = IPv4Address("10.127.0.5")
        store = stage.node._world.store
        sim = await store.sims.get(stage.sims[1].sim.sim_id)
        assert sim is not None
        await store.sims.put(replace(sim, static_address=static))
        await stage.alpha.detach(stage.context)
        await stage.begin()
        assert stage.context.ue_address == static
        beta = await stage.peer(kind, BETA)
        with pytest.raises(Refusal) as caught:
            await beta.attach(imsi=stage.sims[1].imsi, apn=APN)
        assert caught.value.cause == (199 if kind is Sgsn else 73)
        await stage.see_that_alpha_has_it()

    play(script, kind)


# -- what may be taken over -----------------------------------------------------------------------------


@kinds
@pytest.mark.parametrize("named", ["alpha", "*"])
@pytest.mark.parametrize("way", ["replace", "move"])
def test_who_may_take_over_does_and_the_former_peer_is_told(kind: type[Peer], named: str, way: str) -> None:
    async def script(stage: Stage) -> None:
        before, beta = stage.of_alpha(), await stage.peer(kind, BETA)
        if way == "replace":
            context = await beta.attach(imsi=stage.sims[1].imsi, apn=APN)
            assert context.ue_address != before.ue_address
        else:
            context = await beta.take_over(stage.context)
        await asyncio.sleep(1)
        assert stage.context.ended_by_gateway, "alpha was sent a delete request"
        (now,) = stage.open_sessions()
        assert now.tunnel is not None
        assert (now.session_id == before.session_id) == (way == "move")
        assert now.tunnel.peer_control_address == now.tunnel.peer_user_address == BETA
        assert context.is_active
        (entry,) = await stage.audited()
        assert f"session {before.session_id} of alpha ({ALPHA})" in entry.detail
        assert f"beta ({BETA})" in entry.detail

    play(script, kind, may_take_over=(named,))


@kinds
def test_a_handover_by_create_session_from_who_may_tells_the_former_peer(kind: type[Peer]) -> None:
    async def script(stage: Stage) -> None:
        before = stage.of_alpha()
        elements = {**v2.create_elements(), "indication": v2.element(77, b"\x20")}
        answer = await stage.ask(v2.message2(32, 0, 1, b"".join(elements.values())))
        assert answer[0][16] == 16
        (now,) = stage.open_sessions()
        assert (now.session_id, now.ue_address) == (before.session_id, before.ue_address)
        assert now.access is Access.GTPV2
        assert stage.context.ended_by_gateway
        assert len(await stage.audited()) == 1

    play(script, kind, may_take_over=("alpha",))


def test_a_taker_that_names_but_one_end_gets_nothing() -> None:
    async def script(stage: Stage) -> None:
        before = stage.of_alpha()
        assert before.tunnel is not None
        body = v2.f_teid(6, 0x2002, 0) + v2.element(3, b"\x07")
        (answer,) = await stage.ask(v2.message2(34, before.tunnel.local_teid_control, 3, body))
        assert answer[16] == 64
        assert stage.of_alpha() == before

    play(script, Sgw, may_take_over=("alpha",))


def test_within_a_partner_a_session_moves_without_a_message_to_where_it_was() -> None:
    async def script(stage: Stage) -> None:
        other = await stage.peer(Sgsn, "127.0.1.2")
        await other.take_over(stage.context)
        await asyncio.sleep(1)
        assert not stage.context.ended_by_gateway
        assert await stage.audited() == []

    play(script)


def test_whose_sessions_a_partner_may_have() -> None:
    def networks(address: str) -> tuple[IPv4Network]:
        return (IPv4Network(address),)

    partners = Partners(
        (
            Partner("alpha", networks("10.1.0.0/16")),
            Partner("beta", networks("10.2.0.0/16"), may_take_over=("alpha",)),
            Partner("gamma", networks("10.3.0.0/16"), may_take_over=("*",)),
        ),
        networks("10.9.0.0/16"),
    )
    holders = {"alpha": "10.1.0.1", "beta": "10.2.0.1", "other": "10.9.0.1", "gone": "10.8.0.1", "a NAS": ""}
    allowed = {
        asker: {name for name, address in holders.items() if partners.may_take_over(asker, address)}
        for asker in ("10.1.0.9", "10.2.0.9", "10.3.0.9", "10.9.0.9", "10.8.0.9")
    }
    assert allowed == {
        "10.1.0.9": set(),
        "10.2.0.9": {"alpha"},
        "10.3.0.9": set(holders),
        "10.9.0.9": set(),
        "10.8.0.9": set(),
    }
    assert not Partners((), ()).may_take_over("10.1.0.1", "10.2.0.1")


# -- Error Indications ----------------------------------------------------------------------------------


def indication(session: Session) -> bytes:
    assert session.tunnel is not None
    body = b"\x10" + session.tunnel.peer_teid_user.to_bytes(4, "big") + b"\x85\0\x04" + bytes(4)
    return b"\x32\x1a" + (len(body) + 4).to_bytes(2, "big") + bytes(8) + body


@kinds
def test_a_forged_error_indication_ends_nothing(kind: type[Peer]) -> None:
    """Address, port and TEID are right, and a packet went down: the peer is asked, and knows the session."""

    async def script(stage: Stage) -> None:
        for _ in range(20):
            await stage.see_that_alpha_has_it()
            plane = stage.node.held["vg-1"].user_plane
            plane._forwarding.uplink(indication(stage.of_alpha()), (ALPHA, 2152))
            await asyncio.sleep(INDICATED_AGAIN_S)
        assert stage.of_alpha().session_id
        await stage.see_that_alpha_has_it()

    play(script, kind)


@kinds
def test_an_error_indication_of_a_peer_that_lost_the_session_ends_it_at_once(kind: type[Peer]) -> None:
    async def script(stage: Stage) -> None:
        session = stage.of_alpha()
        stage.alpha.lose(stage.context)
        plane = stage.node.held["vg-1"].user_plane
        assert plane.inject(session.session_id, packet_for(session))
        await asyncio.sleep(1)
        assert stage.open_sessions() == []

    play(script, kind)


@kinds
def test_a_peer_whose_user_plane_lost_the_tunnel_is_told_the_sessions_end(kind: type[Peer]) -> None:
    """Its control plane knows the session, so the question changes nothing."""

    async def script(stage: Stage) -> None:
        session, plane = stage.of_alpha(), stage.node.held["vg-1"].user_plane
        stage.alpha.contexts.pop(stage.context.local_teid_user)
        for _ in range(INDICATED_TIMES):
            assert plane.inject(session.session_id, packet_for(session))
            await asyncio.sleep(INDICATED_AGAIN_S + 1)
        assert stage.of_alpha() == session
        assert plane.inject(session.session_id, packet_for(session))
        await asyncio.sleep(1)
        assert stage.open_sessions() == []
        assert stage.context.ended_by_gateway

    play(script, kind)


def packet_for(session: Session) -> bytes:
    """An IPv4 packet for its device."""
    header = b"\x45\0\0\x1c" + bytes(4) + b"\x40\x11\0\0" + bytes((8, 8, 8, 8))
    return header + session.ue_address.packed + bytes(8)


def test_what_is_remembered_of_doubts_and_indications_is_bounded() -> None:
    doubts: Doubts[str] = Doubts(1.0)
    assert all(doubts.add(str(number), str(number % 2), 0.0) for number in range(DOUBTS_MAX))
    assert not doubts.add("one more", "another", 0.0)
    assert len(doubts.due(1.0)) == DOUBTS_MAX
    assert doubts.timer() is None
    indicated = Indications()
    for number in range(INDICATED_MAX + 5):
        assert indicated.on_indication(str(number), str(number % 2), 0, 0.0) is IndicationAction.ASK
    assert len(indicated) == INDICATED_MAX
    assert indicated.on_indication(str(INDICATED_MAX), "0", 0, 1.0) is IndicationAction.NOTHING


def test_what_comes_up_the_tunnel_begins_the_count_of_indications_anew() -> None:
    indicated = Indications()
    for number in range(20):
        assert indicated.on_indication("a", "one", number, number * INDICATED_AGAIN_S) is IndicationAction.ASK
    for number in range(20, 20 + INDICATED_TIMES - 1):
        assert indicated.on_indication("a", "one", 19, number * INDICATED_AGAIN_S) is IndicationAction.ASK
    assert indicated.on_indication("a", "one", 19, 40 * INDICATED_AGAIN_S) is IndicationAction.END
