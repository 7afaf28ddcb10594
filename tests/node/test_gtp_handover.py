"""One session, two versions: from an SGSN to an SGW and back (TS 23.401 annex D)."""

import asyncio
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Address, IPv4Network

import pytest

from core.domain.flow import DedicatedBearer, PacketFilter
from core.domain.session import Access, Qos, Session
from core.domain.values import replace
from gtp.endpoint import GtpcEndpoint
from gtp.events import (
    Accepted,
    BearerAnswered,
    DeleteRequested,
    DeviceAsleep,
    SessionRequested,
    UpdateRequested,
)
from gtp.v1.header import decode_header
from gtp.v1.ie import decode_elements
from gtp.v1.message import MessageType
from gtp.v1.wire import V1Wire
from gtp.v2 import ie
from gtp.v2.wire import V2Wire
from gtp.wire import PeerEndpoints
from loadtest.peers.gtp import GtpPeer, Refusal
from loadtest.peers.sgsn import Sgsn
from loadtest.peers.sgw import Sgw
from loadtest.simulation.world import APN as APN_NAME
from tests.node.test_radius_door import Stage, played
from tests.support.gtp import (
    APN,
    SGSN,
    counting,
    create_request,
    delete_request,
    message,
    session,
    update_request,
)
from tests.support.gtp2 import SGW, delete_session, element, message2, modify_bearer

TEID = 0xA0000001


class Both:
    """An endpoint of both versions, and the session as its service would hold it."""

    def __init__(self) -> None:
        self.endpoint = GtpcEndpoint(
            wires=[V1Wire(), V2Wire()],
            address=IPv4Address("127.0.0.1"),
            recovery=3,
            apns=[APN],
            allowed_peers=[IPv4Network("127.0.0.0/8")],
            random_bytes=counting(100),
        )
        self.session = session()
        self.endpoint.receive_datagram(create_request(), SGSN, 0)
        event = self.endpoint.next_event()
        assert isinstance(event, SessionRequested)
        self.endpoint.answer(event.token, Accepted(self.session), 0)
        self.endpoint.datagrams_to_send()

    def move(self, data: bytes, peer: tuple[str, int]) -> bytes:
        """Let an update be asked for, carried out and answered; the answer."""
        self.endpoint.receive_datagram(data, peer, 0)
        event = self.endpoint.next_event()
        assert isinstance(event, UpdateRequested), event
        assert event.session_id == self.session.session_id
        self.session = moved(self.session, event.ends, event.access)
        self.endpoint.answer(event.token, Accepted(self.session), 0)
        ((answer, to),) = self.endpoint.datagrams_to_send()
        assert to == peer
        return answer


def moved(before: Session, ends: PeerEndpoints, access: Access) -> Session:
    assert before.tunnel is not None
    tunnel = replace(
        before.tunnel,
        peer_teid_control=ends.teid_control or 0,
        peer_teid_user=ends.teid_user or 0,
        peer_control_address=str(ends.control_address),
        peer_user_address=str(ends.user_address),
    )
    return replace(before, access=access, tunnel=tunnel)


def test_a_session_goes_to_lte_and_back_with_its_teids_charging_id_and_nsapi_as_ebi() -> None:
    both = Both()
    before = both.session.tunnel
    assert before is not None
    answer = both.move(modify_bearer(TEID, 5), SGW)
    assert answer[1] == 35
    told = ie.decode_elements(answer[12:])
    assert (told[73, 0], told[127, 0]) == (b"\x05", b"\0"), "the default bearer, and no APN restriction"
    assert before.charging_id.to_bytes(4, "big") in answer
    context = both.endpoint._contexts.by_teid(TEID)
    assert context is not None
    assert (context.access, context.peer_teid, context.nsapi) == (Access.GTPV2, 0x2002, 5)
    assert context.control_address == SGW[0]

    answer = both.move(update_request(TEID, 6), SGSN)
    elements = decode_elements(decode_header(answer).payload)
    assert elements[1] == [b"\x80"]
    assert elements[17] == [before.local_teid_control.to_bytes(4, "big")]
    assert elements[16] == [before.local_teid_user.to_bytes(4, "big")]
    assert elements[127] == [before.charging_id.to_bytes(4, "big")]
    assert (context.access, context.control_address) == (Access.GTPV1, SGSN[0])
    assert both.endpoint.contexts == 1


def test_whoever_holds_it_last_is_asked_to_release_it() -> None:
    both = Both()
    both.move(modify_bearer(TEID, 5), SGW)
    both.endpoint.release(both.session.session_id, 0)
    ((asked, peer),) = both.endpoint.datagrams_to_send()
    assert (asked[1], peer) == (99, SGW)


@pytest.mark.parametrize("cause", [128, 232])
def test_what_one_version_was_told_is_not_answered_by_the_other(cause: int) -> None:
    """An SGSN's answer that comes after the session has gone to an SGW, whose own is still to come."""
    both = Both()
    both.endpoint.changed(both.session, 0)
    ((first, peer),) = both.endpoint.datagrams_to_send()
    assert (first[1], peer) == (MessageType.UPDATE_PDP_CONTEXT_REQUEST, SGSN)
    both.move(modify_bearer(TEID, 5), SGW)
    both.endpoint.changed(both.session, 0)
    ((second, peer),) = both.endpoint.datagrams_to_send()
    assert (second[1], peer) == (97, SGW)
    newest = replace(both.session, qos=Qos(ambr_up_kbps=512))
    both.endpoint.changed(newest, 0)
    late = message(19, TEID, int.from_bytes(first[8:10], "big"), bytes((1, cause)))
    both.endpoint.receive_datagram(late, SGSN, 1)
    assert (both.endpoint.datagrams_to_send(), both.endpoint.next_event()) == ([], None)
    answer = message2(98, TEID, int.from_bytes(second[8:11], "big"), element(2, b"\x10\0"))
    both.endpoint.receive_datagram(answer, SGW, 2)
    ((third, peer),) = both.endpoint.datagrams_to_send()
    assert (third[1], peer) == (97, SGW), "of the changes of a session the newest follows the answer"


def test_what_an_sgsn_put_off_is_not_asked_of_an_sgw() -> None:
    both = Both()
    both.endpoint.changed(both.session, 0)
    ((asked, _),) = both.endpoint.datagrams_to_send()
    asleep = message(19, TEID, int.from_bytes(asked[8:10], "big"), bytes((1, 232)))
    both.endpoint.receive_datagram(asleep, SGSN, 1)
    assert both.endpoint.next_event() == DeviceAsleep(both.session.session_id)
    both.move(modify_bearer(TEID, 5), SGW)
    both.endpoint.wake(both.session.session_id, 2)
    assert both.endpoint.datagrams_to_send() == []


def test_a_bearer_that_an_sgw_put_off_is_given_up_when_its_session_goes_to_an_sgsn() -> None:
    both = Both()
    both.move(modify_bearer(TEID, 5), SGW)
    filters = (PacketFilter(1, 7, remote="10.1.0.0/16", protocol=17),)
    token = both.endpoint.add_bearer(both.session, DedicatedBearer(0, 7, 0x34, filters, 1, 0, "", 1), 0)
    assert token is not None
    ((asked, _),) = both.endpoint.datagrams_to_send()
    put_off = message2(96, TEID, int.from_bytes(asked[8:11], "big"), element(2, bytes((110, 0))))
    both.endpoint.receive_datagram(put_off, SGW, 1)
    assert both.endpoint.put_off_of(Access.GTPV2) == 1
    both.move(update_request(TEID, 6), SGSN)
    assert both.endpoint.next_event() == BearerAnswered(token, both.session.session_id, None)
    assert both.endpoint.put_off_of(Access.GTPV2) == 0


def test_a_peer_that_speaks_both_versions_has_two_paths() -> None:
    """One restart counter does not contradict the other (TS 23.007 §18)."""
    both = Both()
    for recovery in (7, 7, 7):
        both.endpoint.receive_datagram(message(1, 0, 9, bytes((14, recovery))), SGSN, 1)
        both.endpoint.receive_datagram(message2(1, None, 9, element(3, b"\x63")), SGSN, 1)
    sent = both.endpoint.datagrams_to_send()
    assert {data[1] for data, _ in sent} == {MessageType.ECHO_RESPONSE}, "nothing is asked"
    known = [both.endpoint.known_counter_of(access, SGSN[0]) for access in (Access.GTPV1, Access.GTPV2)]
    assert known == [7, 0x63]


@pytest.mark.parametrize("is_in_lte", [True, False])
def test_whichever_version_deletes_ends_the_one_session(is_in_lte: bool) -> None:
    both = Both()
    if is_in_lte:
        both.move(modify_bearer(TEID, 5), SGW)
        both.endpoint.receive_datagram(delete_session(TEID, 9), SGW, 0)
    else:
        both.endpoint.receive_datagram(delete_request(TEID, 9), SGSN, 0)
    event = both.endpoint.next_event()
    assert isinstance(event, DeleteRequested)
    assert event.session_id == both.session.session_id


# -- with the real session service ----------------------------------------------------------------------


LATE = b"from the peer before"
"""On its way while the session moves."""


async def handover(stage: Stage, *kinds: type[GtpPeer[object]]) -> None:
    """A device attaches at the first peer and is handed on to each of the others; it talks at each."""
    peers = [
        await stage.stack.enter_async_context(stage._peer(kind, f"127.0.{number + 5}.1").running())
        for number, kind in enumerate(kinds)
    ]
    state = stage.sims[0]
    state.peer = peers[0]
    state.context = first = await peers[0].attach(imsi=stage.imsi, apn=APN_NAME)
    stage.owner_of[first.ue_address] = stage.imsi
    state.device = stage._device(state, first)
    (opened,) = stage.open_sessions()
    for number, peer in enumerate(peers):
        if number:
            left, old_peer = state.context, state.peer
            state.peer, state.context = peer, await peer.take_over(state.context)
            state.context.on_down = state.device.receive
            before = stage.up_bytes[stage.imsi]
            old_peer.send_up(left, state.device._packet(LATE, 50_000))
            await asyncio.sleep(0.1)
            assert stage.up_bytes[stage.imsi] == before + len(LATE) + 28, "it is of the same partner"
        assert await state.device.send_raw(b"reading %d" % number, answer_s=5.0) == b"200"
        (now,) = stage.open_sessions()
        assert now.access is (Access.GTPV1 if isinstance(peer, Sgsn) else Access.GTPV2)
        assert (now.session_id, now.ue_address) == (opened.session_id, opened.ue_address)
        assert now.tunnel is not None and opened.tunnel is not None
        assert now.tunnel.charging_id == opened.tunnel.charging_id == first.charging_id
        assert now.tunnel.nsapi == opened.tunnel.nsapi == 5
        assert now.tunnel.peer_user_address == peer.address
    await asyncio.sleep(stage.node._config.usage.report_interval_s + 1)
    assert await stage.metered() == (stage.up_bytes[stage.imsi], stage.down_bytes[stage.imsi])
    readings = len(peers) * (len(b"reading 0") + 28)
    assert stage.up_bytes[stage.imsi] == readings + (len(peers) - 1) * (len(LATE) + 28)
    readings_arrived = [each for each in stage.arrived[stage.imsi] if each != LATE]
    assert readings_arrived == [b"reading %d" % number for number in range(len(peers))]
    await state.peer.detach(state.context)
    assert stage.open_sessions() == []


def across(*kinds: type[GtpPeer[object]]) -> Callable[[Stage], Awaitable[None]]:
    async def script(stage: Stage) -> None:
        await handover(stage, *kinds)

    return played(script)


@pytest.mark.parametrize(
    "kinds",
    [(Sgsn, Sgw), (Sgw, Sgsn), (Sgsn, Sgw, Sgsn), (Sgw, Sgsn, Sgw), (Sgsn, Sgsn), (Sgw, Sgw)],
    ids=lambda kinds: "-".join(kind.__name__ for kind in kinds),
)
def test_address_charging_id_and_usage_go_on_over_handovers(kinds: tuple[type[GtpPeer[object]], ...]) -> None:
    across(*kinds)()  # type: ignore[call-arg]  # the stage is the decorator's


@played
async def test_an_sgsn_that_names_no_control_teid_gets_nothing_of_an_sgws_session(stage: Stage) -> None:
    sgw = await stage.stack.enter_async_context(stage._peer(Sgw, "127.0.2.1").running())
    sgsn = await stage.stack.enter_async_context(stage._peer(Sgsn, "127.0.1.1").running())
    context = await sgw.attach(imsi=stage.imsi, apn=APN_NAME)
    assert isinstance(sgsn, Sgsn)
    elements = [each for each in sgsn._end_elements(context) if each[0] != 17]
    with pytest.raises(Refusal) as caught:
        await sgsn._request(MessageType.UPDATE_PDP_CONTEXT_REQUEST, context.peer_teid_control, elements)
    assert caught.value.cause == 202
    assert stage.open_sessions()[0].access is Access.GTPV2
