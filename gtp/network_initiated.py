"""Network-initiated procedures: releases, changes of sessions, dedicated bearers (TS 29.060 §7.3, TS
29.274 §7.2), and what becomes of each when its peer answers, puts it off or stays silent.

Rules: a session is spoken of by the version that its context is of. A peer that puts something off is asked
again (``gtp.network_requests``); one that does not know a session ends it.
"""

from collections import deque
from collections.abc import Mapping

from core.domain.flow import DedicatedBearer
from core.domain.reasons import AttachRefusal
from core.domain.session import Access, CloseReason, Session
from core.domain.values import replace
from gtp.contexts import Context, ContextEvent, Contexts, ContextState
from gtp.events import BearerAnswered, DeviceAsleep, Event, SessionUnknown
from gtp.network_requests import Changes, Encode, NetworkRequest, Procedure, PutOff
from gtp.partners import Partners
from gtp.serving import Serving
from gtp.transaction import GTP_C_PORT, Peer
from gtp.version import Sender, Version
from gtp.wire import BearerEndpoints, BearerWire, Reply, Verdict

_NOT_PUT_OFF = frozenset({Procedure.CHANGE, Procedure.RELEASE_FORMER})
"""Changes have a table of their own; a former peer is asked once."""


class NetworkInitiated:
    """Network-initiated procedures of all versions."""

    def __init__(
        self,
        *,
        serving: Serving,
        versions: Mapping[Access, Version],
        contexts: Contexts,
        partners: Partners,
        put_off_max: int,
        events: deque[Event],
        outgoing: deque[tuple[bytes, Peer]],
    ) -> None:
        self._serving = serving
        self._versions = versions
        self._contexts = contexts
        self._partners = partners
        self._changes = Changes()
        self._put_off = PutOff(put_off_max, party_of=partners.party_of)
        self._events = events
        self._outgoing = outgoing
        self._last_token = 0

    def put_off_of(self, access: Access) -> int:
        """Of how many sessions requests wait for their devices, changes apart."""
        return self._put_off.count_of(access)

    # -- what is asked --------------------------------------------------------------------------------

    def release(self, context: Context, reason: CloseReason, now: float) -> None:
        """End a context by a request that is repeated until the peer answers it."""
        if not self.step(context, ContextEvent.RELEASE, self._versions[context.access]):
            return
        if context.state is not ContextState.RELEASING:  # its peer is deleting it by itself
            return

        def encode(context: Context, sequence: int) -> bytes:
            return self._encode_release(context, sequence, reason)

        released = NetworkRequest(Procedure.RELEASE, context.session_id, encode=encode)
        if not self._send(context, released, now):
            self._end(context, ContextEvent.RELEASE_ENDED)

    def release_former(self, context: Context, now: float) -> None:
        """Release a context, as it stood, at the peer that the session had before it was taken over."""

        def encode(context: Context, sequence: int) -> bytes:
            return self._encode_release(context, sequence, CloseReason.REPLACED)

        self._send(context, NetworkRequest(Procedure.RELEASE_FORMER, context.session_id, encode=encode), now)

    def change(self, session: Session, now: float) -> None:
        """Send the peer the QoS that a session is granted, once the change before is answered."""
        is_standing = self._standing(session.session_id, session.access) is not None
        if is_standing and self._changes.begin(session):
            self._send_change(session, now)

    def add_bearer(self, session: Session, bearer: DedicatedBearer, now: float) -> int | None:
        """Request a dedicated bearer; its ``BearerAnswered`` has this token. ``None``: not possible now."""
        if (context := self._standing(session.session_id, session.access)) is None:
            return None
        if (wire := self._bearers_of(context)) is None:
            return None

        def encode(context: Context, sequence: int) -> bytes:
            gateway = self._serving.gateway
            return wire.encode_create(context.peer_teid, sequence, context.nsapi, bearer, gateway)

        return self._send_bearer(context, Procedure.ADD_BEARER, bearer, encode, now)

    def change_bearer(self, session: Session, bearer: DedicatedBearer, now: float) -> int | None:
        """Request the change of a dedicated bearer into this; as ``add_bearer``."""
        if (context := self._standing(session.session_id, session.access)) is None:
            return None
        if (wire := self._bearers_of(context)) is None:
            return None

        def encode(context: Context, sequence: int) -> bytes:
            return wire.encode_update(context.peer_teid, sequence, bearer, session.qos)

        return self._send_bearer(context, Procedure.CHANGE_BEARER, bearer, encode, now)

    def remove_bearer(self, session_id: str, ebi: int, now: float) -> None:
        """Release a dedicated bearer at the peer."""
        context = self._contexts.by_session(session_id)
        if context is None or context.state is not ContextState.ACTIVE:
            return
        if (wire := self._bearers_of(context)) is None:
            return

        def encode(context: Context, sequence: int) -> bytes:
            return wire.encode_delete(context.peer_teid, sequence, ebi)

        self._send(context, NetworkRequest(Procedure.REMOVE_BEARER, session_id, encode=encode), now)

    def on_command(
        self, sender: Sender, data: bytes, sequence: int, commanded: NetworkRequest, now: float
    ) -> None:
        """A command is answered by a request of ours with its number, which is repeated (TS 29.274 §7.6)."""
        asked = replace(commanded, address=sender.peer[0])
        sender.version.requests.begin(sequence, data, sender.peer, asked, now)

    # -- what ends, moves or wakes --------------------------------------------------------------------

    def step(self, context: Context, event: ContextEvent, version: Version) -> bool:
        """Take a context through an event, which came by this version; false when its state does not allow
        it.
        """
        state = context.state
        if not self._contexts.step(context, event):
            version.dropped[f"{event.value}_while_{state.value}"] += 1
            return False
        if context.state is not ContextState.ACTIVE:
            self.abandon(context.session_id)
        return True

    def forget(self, session_id: str) -> None:
        """Drop a context without telling its peer."""
        if context := self._contexts.by_session(session_id):
            is_put_off = context.state is ContextState.RELEASING and self._put_off.take(session_id)
            self._end(context, ContextEvent.RELEASE_ENDED if is_put_off else ContextEvent.FORGET)

    def wake(self, session_id: str, now: float) -> None:
        """The device of a session was heard of: what its peer put off is asked now."""
        for request in self._put_off.take(session_id):
            self._send_again(request, now)
        if (change := self._changes.again(session_id)) is not None:
            self._send_change(change, now)

    def abandon(self, session_id: str) -> None:
        """The session is over, or goes on by another version: what was put off is never asked."""
        self._changes.forget(session_id)
        for request in self._put_off.take(session_id):
            if request.procedure in (Procedure.ADD_BEARER, Procedure.CHANGE_BEARER):
                self._events.append(BearerAnswered(request.token, session_id, None))

    def timers(self) -> tuple[float | None, float | None]:
        """When ``handle_timer`` has something to do."""
        return self._changes.timer(), self._put_off.timer()

    def handle_timer(self, now: float) -> None:
        """Ask again what was put off until now."""
        for session in self._changes.due(now):
            self._send_change(session, now)
        for request in self._put_off.due(now):
            self._send_again(request, now)

    # -- what is answered -----------------------------------------------------------------------------

    def on_reply(self, request: NetworkRequest, reply: Reply | None, now: float) -> None:
        """A request of ours, other than an Echo Request, was answered; ``None``: it was given up."""
        session_id, verdict = request.about, Verdict.REFUSED if reply is None else reply.verdict
        is_standing = self._standing(session_id, request.access) is not None
        if verdict is Verdict.ASLEEP and is_standing:
            self._events.append(DeviceAsleep(session_id))
        if self._is_put_off(request, verdict, now, is_standing=is_standing):
            return
        match request.procedure:
            case Procedure.RELEASE:
                if context := self._contexts.by_session(session_id):
                    self._end(context, ContextEvent.RELEASE_ENDED)
            case Procedure.CHANGE:
                self._on_change_answered(request, verdict, now)
            case Procedure.ADD_BEARER:
                self._on_bearer_added(request, reply.ends if reply else None, now)
            case Procedure.CHANGE_BEARER:
                made = request.bearer if verdict is Verdict.DONE else None
                self._events.append(BearerAnswered(request.token, session_id, made, is_new=False))
                return  # 64 is of the bearer, and says nothing of the session
            case _:
                return
        if verdict is Verdict.UNKNOWN and self._standing(session_id, request.access) is not None:
            self._version_of(request).claims["unknown_to_peer"] += 1
            self._events.append(SessionUnknown(session_id, request.address, request.teid))

    def _is_put_off(
        self, request: NetworkRequest, verdict: Verdict, now: float, *, is_standing: bool
    ) -> bool:
        """Whether it is asked again when the device is heard of, or after a while."""
        if request.procedure in _NOT_PUT_OFF:
            return False
        if request.procedure is Procedure.RELEASE:
            is_standing = self._contexts.by_session(request.about) is not None
        if not is_standing:
            return False
        given_up = self._put_off.keep(request, verdict, now)
        for surplus in given_up or ():
            self.on_reply(surplus, None, now)
        return given_up is not None

    def _on_change_answered(self, request: NetworkRequest, verdict: Verdict, now: float) -> None:
        """A late answer by the version that the session has left does not end the other version's change."""
        context = self._contexts.by_session(request.about)
        if context is not None and context.access is not request.access:
            return
        if (following := self._changes.end(request.about, verdict, now)) is not None:
            self._send_change(following, now)

    def _on_bearer_added(self, request: NetworkRequest, ends: BearerEndpoints | None, now: float) -> None:
        made = None
        if ends is not None and not self._partners.may_receive(request.address, ends.user_address):
            self._version_of(request).dropped[f"refused_{AttachRefusal.FOREIGN_ADDRESS.value}"] += 1
            self.remove_bearer(request.about, ends.ebi, now)
        elif ends is not None and request.bearer is not None:
            made = replace(
                request.bearer,
                ebi=ends.ebi,
                peer_teid_user=ends.teid_user,
                peer_user_address=ends.user_address,
            )
        self._events.append(BearerAnswered(request.token, request.about, made))

    # -- sending --------------------------------------------------------------------------------------

    def _standing(self, session_id: str, access: Access | None) -> Context | None:
        """The session's context, if this version speaks of it and it is not ending."""
        context = self._contexts.by_session(session_id)
        if context is None or context.access is not access or context.state is not ContextState.ACTIVE:
            return None
        return context

    def _version_of(self, request: NetworkRequest) -> Version:
        assert request.access is not None, "it was sent"
        return self._versions[request.access]

    def _bearers_of(self, context: Context) -> BearerWire | None:
        return self._versions[context.access].wire.bearers

    def _encode_release(self, context: Context, sequence: int, reason: CloseReason) -> bytes:
        wire = self._versions[context.access].wire
        return wire.encode_release(context.peer_teid, sequence, context.nsapi, reason)

    def _end(self, context: Context, event: ContextEvent) -> None:
        self.step(context, event, self._versions[context.access])

    def _send(self, context: Context, request: NetworkRequest, now: float) -> bool:
        """Send a request to a context's peer; false when there is no room for one more."""
        version, address, encode = self._versions[context.access], context.control_address, request.encode
        assert encode is not None, "it is of a session"
        if (sequence := version.requests.draw(address)) is None:
            return False
        data, peer = encode(context, sequence), (address, GTP_C_PORT)
        asked = replace(request, access=context.access, address=address, teid=context.peer_teid)
        if not version.requests.begin(sequence, data, peer, asked, now):
            return False
        self._outgoing.append((data, peer))
        return True

    def _send_bearer(
        self, context: Context, procedure: Procedure, bearer: DedicatedBearer, encode: Encode, now: float
    ) -> int | None:
        self._last_token += 1
        token = self._last_token
        request = NetworkRequest(procedure, context.session_id, token=token, bearer=bearer, encode=encode)
        return token if self._send(context, request, now) else None

    def _send_change(self, session: Session, now: float) -> None:
        def encode(context: Context, sequence: int) -> bytes:
            wire = self._versions[context.access].wire
            return wire.encode_change(context.peer_teid, sequence, context.nsapi, session.qos)

        context = self._standing(session.session_id, session.access)
        change = NetworkRequest(Procedure.CHANGE, session.session_id, encode=encode)
        if context is None or not self._send(context, change, now):
            self._changes.forget(session.session_id)

    def _send_again(self, request: NetworkRequest, now: float) -> None:
        context, again = self._contexts.by_session(request.about), replace(request, tries=request.tries + 1)
        if context is None or not self._send(context, again, now):
            self.on_reply(request, None, now)
