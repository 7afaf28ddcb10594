"""Path management (TS 23.007 §18, §20; TS 29.060 §7.2, TS 29.274 §7.1): Echo, restarts of peers, silent
peers.

Rules: what a peer's message says of its restart counter is confirmed by Echo Requests before it counts
(``gtp.restart``); what a proved restart leaves ends or is asked about, in batches.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from core.domain.session import Access
from gtp.contexts import Context, Contexts, ContextState
from gtp.doubts import Doubts
from gtp.events import Event, PathLost, PeerRestarted, SessionsDoubted
from gtp.network_requests import NetworkRequest, Procedure
from gtp.partners import Partners
from gtp.path import PeerPath
from gtp.serving import Serving
from gtp.transaction import GTP_C_PORT, Peer
from gtp.version import Version


@dataclass(frozen=True, slots=True)
class PeerView:
    """A peer as an operator sees it."""

    address: str
    partner: str
    sessions: int
    path: PeerPath


class PathManagement:
    """The paths of all versions."""

    def __init__(
        self,
        *,
        serving: Serving,
        versions: Mapping[Access, Version],
        contexts: Contexts,
        partners: Partners,
        patience_s: float,
        events: deque[Event],
        outgoing: deque[tuple[bytes, Peer]],
    ) -> None:
        self._serving = serving
        self._versions = versions
        self._contexts = contexts
        self._partners = partners
        self._doubts: Doubts[tuple[str, Access]] = Doubts(patience_s)
        """Sessions, each with the version by which it was asked for."""
        self._events = events
        self._outgoing = outgoing

    def peers(self, access: Access) -> Iterator[PeerView]:
        """Every peer that is known by this version."""
        for address, path in self._versions[access].peers.items():
            sessions = self._contexts.count_of_peer(access, address)
            yield PeerView(address, self._partners.name_of(address), sessions, path)

    def forget_peer(self, peer: str) -> None:
        """Know nothing any more of a peer's address, or of those of a partner."""
        for access, version in self._versions.items():
            for view in list(self.peers(access)):
                if peer in (view.address, view.partner):
                    version.peers.forget(view.address)

    # -- what is heard --------------------------------------------------------------------------------

    def on_echo_request(
        self, version: Version, peer: Peer, sequence: int, recovery: int | None, now: float
    ) -> None:
        """Answered at once."""
        response = version.wire.encode_echo_response(sequence, self._serving.gateway.recovery)
        self._outgoing.append((response, peer))
        self.on_recovery(version, peer[0], recovery, now)

    def on_recovery(self, version: Version, address: str, recovery: int | None, now: float) -> None:
        """A message carried this restart counter of a peer's."""
        if version.peers.on_recovery(address, recovery, now):
            self._send_echo_request(version, address, now)

    def on_echo_response(self, version: Version, address: str, recovery: int | None, now: float) -> None:
        """What this peer held before its restart is over, if it is proved now."""
        if (counter := version.peers.on_echo_response(address, recovery, now)) is not None:
            self._clear_older(version, address, counter, now)

    def _clear_older(self, version: Version, address: str, counter: int, now: float) -> None:
        """What it asked for since then is not."""
        found = self._contexts.of_other_counters(version.access, address, counter)
        for context in found.doubted:
            context.peer_restart_counter = counter
        if found.lost:
            version.claims["ended_by_restart"] += len(found.lost)
            ids = tuple(context.session_id for context in found.lost)
            self._events.append(PeerRestarted(address, counter, ids, found.older))
        if found.doubted:
            self._events.append(SessionsDoubted(tuple(context.session_id for context in found.doubted)))
        if found.older > len(found.lost) or found.doubted:
            version.peers.prove_again(address, now)
        else:
            version.peers.cleared(address)

    # -- sessions -------------------------------------------------------------------------------------

    def on_adopted(self, context: Context, now: float) -> None:
        """A session was read back: its peer's restart counter was this, and may be another now."""
        peers = self._versions[context.access].peers
        if context.peer_restart_counter is not None:
            peers.learn(context.control_address, context.peer_restart_counter)
        peers.watch(context.control_address, now, is_recalled=True)

    def on_held(self, context: Context, now: float) -> None:
        """A session was opened or changed: its peer is watched, and asked later whether it knows it if the
        request may be of before a restart.
        """
        version = self._versions[context.access]
        version.peers.watch(context.control_address, now)
        if _is_doubted(version, context):
            party = self._partners.party_of(context.control_address)
            version.claims["not_asked"] += not self._doubts.add(
                (context.session_id, context.access), party, now
            )

    def _is_still_doubted(self, session_id: str, access: Access) -> bool:
        """Where another version speaks of it by now, what that one was asked counts."""
        context = self._contexts.by_session(session_id)
        if context is None or context.access is not access:
            return False
        return _is_doubted(self._versions[access], context)

    # -- timers ---------------------------------------------------------------------------------------

    def timers(self) -> list[float | None]:
        """When ``handle_timer`` has something to do."""
        return [self._doubts.timer(), *[version.peers.timer() for version in self._versions.values()]]

    def handle_timer(self, now: float) -> None:
        """Ask peers and find the lost."""
        due = self._doubts.due(now)
        if doubted := tuple(each for each, access in due if self._is_still_doubted(each, access)):
            self._events.append(SessionsDoubted(doubted))
        for version in self._versions.values():
            due_now = version.peers.due(now, self._has_sessions_by(version.access))
            for address in due_now.lost:
                of_peer = self._contexts.of_peer(version.access, address)
                self._events.append(PathLost(address, tuple(context.session_id for context in of_peer)))
            for address in due_now.ask:
                self._send_echo_request(version, address, now)

    def _has_sessions_by(self, access: Access) -> Callable[[str], bool]:
        return lambda address: self._contexts.count_of_peer(access, address) > 0

    def _send_echo_request(self, version: Version, address: str, now: float) -> None:
        request, to = NetworkRequest(Procedure.ECHO, address, version.access), (address, GTP_C_PORT)
        sequence = version.requests.draw(address)
        data = version.wire.encode_echo_request(sequence or 0, self._serving.gateway.recovery)
        if sequence is not None and version.requests.begin(sequence, data, to, request, now):
            version.peers.on_echo_sent(address, now)
            self._outgoing.append((data, to))
        else:
            version.peers.on_echo_timeout(address, now)


def _is_doubted(version: Version, context: Context) -> bool:
    """Whether its peer asked for it under another restart counter than is known of it: it may not know
    the session.
    """
    counter = context.peer_restart_counter
    if counter is None or context.state is not ContextState.ACTIVE:
        return False
    known = version.peers.known_of(context.control_address)
    return known is not None and known != counter
