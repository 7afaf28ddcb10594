"""Forwarding: from a tunnel to the packet's destination, and back into the tunnel.

Rules:

- No sockets, no clock, no objects per packet: bytes come in, bytes go out through callables.
- A packet is forwarded, then counted: a kill between the two errs in the customer's favour.
- What is counted is the inner packet's own length (IPv4 total length, IPv6 header and payload); what follows
  it in the datagram is neither forwarded nor counted. What the gateway itself says to a device
  (advertisements, ICMP errors) is not the customer's traffic and is not counted.
- A device sends from its own address or /64, through its session's peer or another of the same partner
  (``sources``), to the internet, the platform or another device of its closed group, and nowhere else: not to
  the gateway, not to any other device. On its link it has one address, of the identifier that it was given
  (TS 23.401 §5.3.1.2.2).
- Hostile bytes end as a counted drop, never as an exception.

References: TS 29.281 (GTPv1-U) clauses 4.3, 5.1, 5.2, 7.2, 7.3; RFC 791; RFC 8200.
"""

import struct
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Network, IPv6Address

from core.domain.apn import MTU_BYTES_MAX, NUMBER_BYTES, Apn
from core.ports.network import Address
from core.ports.user_plane import Bearer, PacketSink
from gtp.userplane import messages
from gtp.userplane.destinations import DEVICE, EDGE, INTERNET, Destinations, Network
from gtp.userplane.filters import choose
from gtp.userplane.inner import HEADER_IPV6_BYTES, TCP, clamp_mss, fragments, too_big
from gtp.userplane.links import Links
from gtp.userplane.messages import G_PDU, GTP_U_PORT, NUMBERED, PLAIN
from gtp.userplane.neighbours import (
    ADVERTISE_AGAIN_S,
    ROUTER_SOLICITATION,
    neighbour_advertisement,
    router_advertisement,
    solicitation,
)
from gtp.userplane.policing import PerSecond
from gtp.userplane.reasons import Drop, Signal
from gtp.userplane.sources import NO_SOURCES, Sources
from gtp.userplane.tables import Tables, Tunnel, ends, is_dedicated_peer

COMPLAINTS_PER_S_MAX = 10
"""Error Indications and notifications of extension headers, per peer (TS 29.281 leaves the rate to us)."""
COMPLAINT_PEERS_MAX = 1_024
"""Peers that get one within a second; the others get none until the second is over."""
INDICATIONS_PER_S_MAX = 100
"""Error Indications that are processed, per peer: it slows the guessing of TEIDs."""
TOO_BIG_PER_S_MAX = 10
"""Per session that is sent what is too big."""
TOO_BIG_SESSIONS_MAX = 1_024

_HEADER = struct.Struct("!BBH4s")
_UPLINK_INNER = struct.Struct("!BxH5xB2x4s4s")  # version and length, total length, protocol, addresses
_DOWNLINK_INNER = struct.Struct("!BxH5xB6x4s")  # the same without source
_G_PDU_HEADER = struct.Struct("!HHI")
_PLAIN_G_PDU = PLAIN << 8 | G_PDU
_NUMBERED_HEADER = struct.Struct("!HHIH2x")  # no N-PDU number, no extension header
_NUMBERED_G_PDU = NUMBERED << 8 | G_PDU
_NO_TEID = bytes(4)

_IPV4_HEADER_BYTES = {0x40 | words: 4 * words for words in range(5, 16)}
_TCP_HEADER_BYTES, _TCP_FLAGS_AT, _SYN = 20, 13, 0x02
_MULTICAST = 0xFF
_LINK_LOCAL = IPv6Address("fe80::").packed[:8]
_UNSPECIFIED = bytes(16)
PEERS_AT_ONCE = 2_000
"""Tunnels whose peers are sent a message before the event loop has its turn."""


class Forwarding:
    """The tunnels of a gateway and the way of packets through them.

    ``words`` holds the counters (four words per tunnel from the index given to ``install``: up bytes, up
    packets, down bytes, down packets). ``address`` is the gateway's GTP-U address, ``inner_addresses`` the
    sources of its ICMP errors about packets that are too big, of each family the last; ``devices`` are the
    devices' networks, ``platform`` is the edge's, and no device reaches what is ``forbidden``. Inner packets
    down have at most the MTU of the session's access point, one of ``apns`` (``mtu_bytes``: of any other);
    they are numbered by tunnel if ``is_numbered`` (§5.1). ``sources`` has the senders allowed beside a
    tunnel's peer.
    The callables may be set at any time:

    - ``send(data, to)``: to a peer; false when it was not sent.
    - ``write_internet(packet)``: raises ``OSError`` when it was not taken; ``write_internet_of`` has those of
      access points that have their own.
    - ``on_edge_packet(session_id, packet)``, ``on_error_indication(session_id)``, ``on_heard(session_id)``,
      ``on_echo_response(peer, sequence)``: must not raise.
    """

    def __init__(
        self,
        *,
        words: memoryview,
        monotonic: Callable[[], float],
        address: IPv4Address,
        inner_addresses: Collection[IPv4Address | IPv6Address],
        devices: tuple[Network, ...],
        platform: IPv4Network,
        forbidden: tuple[Network, ...] = (),
        apns: Iterable[Apn] = (),
        mtu_bytes: int = MTU_BYTES_MAX,
        is_numbered: bool = False,
        sources: Sources = NO_SOURCES,
    ) -> None:
        self.send: Callable[[bytes, Address], bool] = send_nowhere
        self.write_internet: Callable[[bytes], object] | None = None
        self.write_internet_of: Mapping[str, Callable[[bytes], object]] = {}
        self.on_edge_packet: PacketSink | None = None
        self.on_error_indication: Callable[[str], None] | None = None
        self.on_heard: Callable[[str], None] = lambda _session_id: None
        self.on_echo_response: Callable[[str, int | None], None] = lambda _peer, _sequence: None
        self.drops: dict[Drop, int] = dict.fromkeys(Drop, 0)
        self.signals: dict[Signal, int] = dict.fromkeys(Signal, 0)
        self._words = words
        self._monotonic = monotonic
        self._address = address.packed
        self._inner_addresses: dict[int, bytes] = {each.version: each.packed for each in inner_addresses}
        self._is_numbered = is_numbered
        self._links = Links(apns, mtu_bytes)
        self._sources = sources
        self._tables = Tables(self._links)
        self._by_session = self._tables.by_session
        self._by_teid = self._tables.by_teid
        self._by_ue = self._tables.by_ue
        destinations = Destinations(
            devices=devices, platform=platform, forbidden=(IPv4Network(address), *forbidden)
        )
        self._verdicts = destinations.verdicts
        self._judge = destinations.judge
        self._complaints = PerSecond(each_max=COMPLAINTS_PER_S_MAX, keys_max=COMPLAINT_PEERS_MAX)
        self._indications = PerSecond(each_max=INDICATIONS_PER_S_MAX, keys_max=COMPLAINT_PEERS_MAX)
        self._too_big_sent = PerSecond(each_max=TOO_BIG_PER_S_MAX, keys_max=TOO_BIG_SESSIONS_MAX)

    def __contains__(self, session_id: str) -> bool:
        return session_id in self._by_session

    def serve(self, apns: Iterable[Apn], mtu_bytes: int, sources: Sources = NO_SOURCES) -> None:
        """The links of these access points are so from now on, and these are who else may send, for tunnels
        that stand too.
        """
        self._links.serve(apns, mtu_bytes, self._monotonic())
        self._sources = sources

    def install(self, bearer: Bearer, counters_at: int) -> None:
        """Forward for this session from now on, whatever was installed for it before.

        A peer whose tunnel has moved to another is sent an End Marker (§7.3.2).
        """
        before = self._tables.put(bearer, counters_at)
        if before is None:
            return
        after = ends(self._by_session[bearer.session_id])
        for ebi, (peer, teid) in ends(before).items():
            if after.get(ebi, (peer, teid)) != (peer, teid):
                self.send(messages.end_marker(teid), (peer, GTP_U_PORT))
                self.signals[Signal.END_MARKER_SENT] += 1

    def peers(self) -> Iterator[list[str]]:
        """Where the tunnels end, one for each, a part at a time, between which tunnels may come and go."""
        session_ids = list(self._by_session)
        for start in range(0, len(session_ids), PEERS_AT_ONCE):
            part = map(self._by_session.get, session_ids[start : start + PEERS_AT_ONCE])
            yield [peer for tunnel in part if tunnel is not None for peer, _ in ends(tunnel).values()]

    def remove(self, session_id: str) -> None:
        """Forward no longer; idempotent. What another session has taken over meanwhile stays its own."""
        self._tables.take(session_id)

    # -- the fast path --------------------------------------------------------------------------------

    # A straight line of checks: a call for each would cost a tenth of the rate.
    def uplink(self, data: bytes, source: Address) -> None:  # noqa: PLR0911, PLR0912, PLR0915 - see above
        """One datagram that came to the GTP-U port."""
        size = len(data)
        if size < 8:
            self.drops[Drop.MALFORMED] += 1
            return
        flags, kind, length, teid = _HEADER.unpack_from(data)
        end, offset = 8 + length, 8
        if flags != PLAIN or kind != G_PDU or end > size:
            offset = self._not_plain(data, source, flags, kind, end)
            if not offset:
                return
        tunnel = self._by_teid.get(teid)
        if tunnel is None:
            self._indicate_error(teid, source)
            return
        if source[0] != tunnel.source and not self._may_send(tunnel, teid, source[0]):
            self.drops[Drop.WRONG_PEER] += 1
            return
        if end - offset < 20:
            self.drops[Drop.INNER_MALFORMED] += 1
            return
        version, total, protocol, inner_source, destination = _UPLINK_INNER.unpack_from(data, offset)
        header = _IPV4_HEADER_BYTES.get(version)
        if header is None:
            total = self._uplink_ipv6(tunnel, version, data[offset:end])
            if not total:
                return
            header, protocol = HEADER_IPV6_BYTES, data[offset + 6]
            destination = data[offset + 24 : offset + 40]
        elif total < header or total > end - offset:
            self.drops[Drop.INNER_MALFORMED] += 1
            return
        elif inner_source != tunnel.address:
            self.drops[Drop.WRONG_SOURCE] += 1
            return
        verdict = self._verdicts.get(destination) or self._judge(destination)
        if tunnel.up_octet_s:
            now = self._monotonic()
            due = tunnel.up_due_s
            if due > now + tunnel.up_slack_s:
                self.drops[Drop.OVER_SPEED_UP] += 1
                return
            tunnel.up_due_s = (due if due > now else now) + total * tunnel.up_octet_s
        packet = data[offset : offset + total]
        if protocol == TCP and total >= header + _TCP_HEADER_BYTES and packet[header + _TCP_FLAGS_AT] & _SYN:
            packet = clamp_mss(packet, header, tunnel.link.mtu_bytes)
        if verdict is INTERNET:
            write, own = self.write_internet, self.write_internet_of
            write = own.get(tunnel.link.apn, write) if own else write
            if write is None:
                self.drops[Drop.NO_INTERNET] += 1
                return
            try:
                write(packet)
            except OSError:
                self.drops[Drop.INTERNET_FULL] += 1
                return
        elif verdict is EDGE:
            if self.on_edge_packet is None:
                self.drops[Drop.NO_EDGE] += 1
                return
            self.on_edge_packet(tunnel.session_id, packet)
        elif not self._across(tunnel, verdict, destination, packet):
            return
        words, at = self._words, tunnel.counters_at
        words[at] += total
        words[at + 1] += 1

    def downlink(self, packet: bytes) -> bool:
        """One IP packet for a device, from the internet side; whether it was sent."""
        size = len(packet)
        if size < 20:
            self.drops[Drop.INNER_MALFORMED] += 1
            return False
        version, total, protocol, destination = _DOWNLINK_INNER.unpack_from(packet)
        header = _IPV4_HEADER_BYTES.get(version)
        if header is None:
            total = self._total_ipv6(version, packet)
            if not total:
                return False
            header, protocol, destination = HEADER_IPV6_BYTES, packet[6], packet[24:32]
        elif total < header or total > size:
            self.drops[Drop.INNER_MALFORMED] += 1
            return False
        tunnel = self._by_ue.get(destination)
        if tunnel is None:
            self.drops[Drop.UNKNOWN_DEVICE] += 1
            return False
        if total != size:
            packet = packet[:total]
        if protocol == TCP and total >= header + _TCP_HEADER_BYTES and packet[header + _TCP_FLAGS_AT] & _SYN:
            packet = clamp_mss(packet, header, tunnel.link.mtu_bytes)
        return self._down(tunnel, packet, total)

    def _down(self, tunnel: Tunnel, packet: bytes, total: int) -> bool:
        """A whole packet for this session's device; whether it was sent."""
        if tunnel.is_suspended:
            self.drops[Drop.SUSPENDED] += 1
            return False
        if total > tunnel.link.mtu_bytes:
            return self._down_too_big(tunnel, packet)
        if tunnel.down_octet_s:
            now = self._monotonic()
            due = tunnel.down_due_s
            if due > now + tunnel.down_slack_s:
                self.drops[Drop.OVER_SPEED_DOWN] += 1
                return False
            tunnel.down_due_s = (due if due > now else now) + total * tunnel.down_octet_s
        teid, to = tunnel.peer_teid, tunnel.to
        if tunnel.bearer_paths and (bearer_path := choose(tunnel.bearer_paths, packet)) is not None:
            teid, to = bearer_path.peer_teid, bearer_path.to
        if self._is_numbered:
            header = _numbered(tunnel, total, teid, to)
        else:
            header = _G_PDU_HEADER.pack(_PLAIN_G_PDU, total, teid)
        if not self.send(header + packet, to):
            self.drops[Drop.PEER_FULL] += 1
            return False
        words, at = self._words, tunnel.counters_at + 2
        words[at] += total
        words[at + 1] += 1
        return True

    def inject(self, session_id: str, packet: bytes) -> bool:
        """An IP packet of the device edge for this session's device; whether it was sent."""
        tunnel = self._by_session.get(session_id)
        if tunnel is None:
            return False
        destination = packet[24:32] if packet[:1] >= b"\x60" else packet[16:20]
        if self._by_ue.get(destination) is not tunnel:
            self.drops[Drop.WRONG_DEVICE] += 1
            return False
        return self.downlink(packet)

    def watch(self, session_id: str) -> None:
        """Call ``on_heard`` with the next packet that this session's device sends."""
        if (tunnel := self._by_session.get(session_id)) is not None:
            tunnel.source = ""

    # -- everything else ------------------------------------------------------------------------------

    def _may_send(self, tunnel: Tunnel, teid: bytes, source: str) -> bool:
        """Whether packets of this tunnel may come from here; calls ``on_heard`` if one was waited for."""
        if source != tunnel.peer and not (
            self._sources.are_one(tunnel.peer, source) or is_dedicated_peer(tunnel, teid, source)
        ):
            return False
        if not tunnel.source:
            tunnel.source = tunnel.peer
            self.on_heard(tunnel.session_id)
        return True

    def _across(self, tunnel: Tunnel, verdict: str, destination: bytes, packet: bytes) -> bool:
        """From device to device, within a closed group; whether it was sent."""
        other = self._by_ue.get(destination[:8]) if verdict is DEVICE else None
        if other is None or not tunnel.closed_group or other.closed_group != tunnel.closed_group:
            self.drops[Drop.FORBIDDEN_DESTINATION] += 1
            return False
        return self._down(other, packet, len(packet))

    def _down_too_big(self, tunnel: Tunnel, packet: bytes) -> bool:
        """In fragments, or its sender gets the MTU by ICMP (RFC 1191, 8201); whether it was sent."""
        pieces = list(fragments(packet, tunnel.link.mtu_bytes))
        if pieces:
            return all([self._down(tunnel, piece, len(piece)) for piece in pieces])
        self.drops[Drop.TOO_BIG] += 1
        source = self._inner_addresses.get(packet[0] >> 4)
        error = too_big(packet, tunnel.link.mtu_bytes, source) if source else b""
        if error and self._too_big_sent.take(tunnel.session_id, self._monotonic()):
            self._send_error(tunnel, error)
            self.signals[Signal.TOO_BIG_SENT] += 1
        else:
            self.signals[Signal.TOO_BIG_WITHHELD] += 1
        return False

    def _send_error(self, tunnel: Tunnel, error: bytes) -> None:
        """An ICMP error about what this session was sent, to wherever it came from."""
        sender = error[16:20] if error[0] >> 4 == 4 else error[24:40]
        verdict = self._verdicts.get(sender) or self._judge(sender)
        if verdict is EDGE and self.on_edge_packet is not None:
            self.on_edge_packet(tunnel.session_id, error)
        elif verdict is INTERNET:
            write = self.write_internet_of.get(tunnel.link.apn, self.write_internet)
            if write is not None:
                with suppress(OSError):
                    write(error)
        elif verdict is DEVICE:
            other = self._by_ue.get(sender[:8])
            if other is not None and tunnel.closed_group and other.closed_group == tunnel.closed_group:
                self._say(other, error)

    def _say(self, tunnel: Tunnel, packet: bytes) -> None:
        """A packet of the gateway's own to a device: not the customer's traffic, so not counted."""
        if not tunnel.is_suspended:
            teid, to = tunnel.peer_teid, tunnel.to
            plain = _G_PDU_HEADER.pack(_PLAIN_G_PDU, len(packet), teid)
            header = _numbered(tunnel, len(packet), teid, to) if self._is_numbered else plain
            self.send(header + packet, to)

    def _total_ipv6(self, version: int, packet: bytes) -> int:
        """Length of the IPv6 packet that this begins with (RFC 8200 §3); 0, counted, when there is none."""
        if version >> 4 != 6:
            self.drops[Drop.INNER_MALFORMED if version >> 4 == 4 else Drop.INNER_NOT_IP] += 1
            return 0
        payload = int.from_bytes(packet[4:6], "big")
        if not payload or HEADER_IPV6_BYTES + payload > len(packet):  # nothing to carry, or a jumbogram
            self.drops[Drop.INNER_MALFORMED] += 1
            return 0
        return HEADER_IPV6_BYTES + payload

    def _uplink_ipv6(self, tunnel: Tunnel, version: int, packet: bytes) -> int:
        """The length of a device's IPv6 packet that may leave its link; 0 when it is dealt with."""
        total = self._total_ipv6(version, packet)
        if not total:
            return 0
        source = packet[8:24]
        is_own = source[:8] == tunnel.prefix
        is_on_link = not is_own and source in (_LINK_LOCAL + tunnel.interface, _UNSPECIFIED)
        if not tunnel.prefix or not (is_own or is_on_link):
            self.drops[Drop.WRONG_SOURCE] += 1
            return 0
        if is_on_link or packet[24] == _MULTICAST or packet[24:32] == _LINK_LOCAL:
            self._answer_neighbour(tunnel, packet[:total])
            return 0
        told_s = tunnel.advertised_s
        if told_s < tunnel.link.changed_s or self._monotonic() - told_s > ADVERTISE_AGAIN_S:
            self._advertise(tunnel, _UNSPECIFIED)
        return total

    def _answer_neighbour(self, tunnel: Tunnel, packet: bytes) -> None:
        """What a device says on its own link: solicitations are answered, nothing else goes anywhere."""
        kind = solicitation(packet)
        if kind == ROUTER_SOLICITATION:
            self._advertise(tunnel, packet[8:24])
        elif kind:
            self._say(tunnel, neighbour_advertisement(packet[8:24]))
            self.signals[Signal.NEIGHBOUR_ADVERTISED] += 1
        else:
            self.drops[Drop.LINK_LOCAL] += 1

    def _advertise(self, tunnel: Tunnel, to: bytes) -> None:
        tunnel.advertised_s = self._monotonic()
        link = tunnel.link
        self._say(tunnel, router_advertisement(tunnel.prefix, to, link.mtu_bytes, link.dns))
        self.signals[Signal.ROUTER_ADVERTISED] += 1

    def _not_plain(self, data: bytes, source: Address, flags: int, kind: int, end: int) -> int:
        """Where a G-PDU's inner packet begins; 0 when there is none and the datagram is dealt with."""
        start = messages.payload_start(data, flags, end)
        if start == messages.NOT_UNDERSTOOD:
            self._tell_extension_headers(kind, source)
        elif not start:
            self.drops[Drop.MALFORMED] += 1
        elif kind == G_PDU:
            return start
        else:
            self._handle(data[:end], source, kind, start)
        return 0

    def _tell_extension_headers(self, kind: int, source: Address) -> None:
        """Tell a peer which extension headers are understood (§7.2.3), not too often."""
        self.drops[Drop.EXTENSION_HEADER] += 1
        if kind not in (G_PDU, messages.ECHO_REQUEST) or not self._may_complain(source):
            self.signals[Signal.EXTENSION_HEADERS_WITHHELD] += 1
            return
        self.send(messages.supported_extension_headers(), (source[0], GTP_U_PORT))
        self.signals[Signal.EXTENSION_HEADERS_NOTIFIED] += 1

    def _handle(self, message: bytes, source: Address, kind: int, start: int) -> None:
        """A message of the path (§7.2, §7.3)."""
        if kind == messages.ECHO_REQUEST:
            self.send(messages.echo_response(message), source)  # to the port that asked
            self.signals[Signal.ECHO_ANSWERED] += 1
        elif kind == messages.ERROR_INDICATION:
            self._handle_error_indication(messages.indicated_teid(message, start), source[0])
        elif kind == messages.ECHO_RESPONSE:
            self.signals[Signal.ECHO_RESPONSE] += 1
            self.on_echo_response(source[0], messages.echo_sequence(message))
        elif kind == messages.END_MARKER:
            self.signals[Signal.END_MARKER] += 1
        elif kind == messages.SUPPORTED_EXTENSION_HEADERS:
            self.signals[Signal.SUPPORTED_EXTENSION_HEADERS] += 1
        else:
            self.drops[Drop.UNKNOWN_MESSAGE] += 1

    def _handle_error_indication(self, teid: bytes, peer: str) -> None:
        """The peer does not know our TEID for it any more (§7.3.1), or it is forged: the port proves nothing,
        but a packet must have gone down since the last one.

        If it was the default bearer's, the peer is asked by GTP-C; what a dedicated bearer took goes by the
        default one from now on.
        """
        if not self._indications.take(peer, self._monotonic()):
            self.signals[Signal.ERROR_INDICATION_EXCESS] += 1
            return
        number = int.from_bytes(teid, "big")
        tunnel = self._tables.by_peer.get((peer, number)) if teid else None
        if tunnel is None or (sent := self._words[tunnel.counters_at + 3]) == tunnel.indicated_at:
            self.signals[Signal.ERROR_INDICATION_IGNORED] += 1
            return
        tunnel.indicated_at = sent
        self.signals[Signal.ERROR_INDICATION_ACCEPTED] += 1
        if (peer, number) != (tunnel.peer, tunnel.peer_teid):
            tunnel.bearer_paths = tuple(
                bearer_path
                for bearer_path in tunnel.bearer_paths
                if (bearer_path.to[0], bearer_path.peer_teid) != (peer, number)
            )
        elif self.on_error_indication is not None:
            self.on_error_indication(tunnel.session_id)

    def _indicate_error(self, teid: bytes, source: Address) -> None:
        """Tell a peer that its TEID is none of ours (§7.3.1), to the GTP-U port and not too often."""
        self.drops[Drop.UNKNOWN_TEID] += 1
        if teid == _NO_TEID or not self._may_complain(source):
            self.signals[Signal.ERROR_INDICATION_WITHHELD] += 1
            return
        self.send(messages.error_indication(teid, self._address), (source[0], GTP_U_PORT))
        self.signals[Signal.ERROR_INDICATION_SENT] += 1

    def _may_complain(self, source: Address) -> bool:
        return self._complaints.take(source[0], self._monotonic())


def _numbered(tunnel: Tunnel, total: int, teid: int, to: Address) -> bytes:
    """The header of the next G-PDU by this tunnel; numbers begin at 0 and wrap (§5.1)."""
    if tunnel.sequences is None:
        tunnel.sequences = {}
    end = (to[0], teid)
    sequence = tunnel.sequences.get(end, 0)
    tunnel.sequences[end] = (sequence + 1) & 0xFFFF
    return _NUMBERED_HEADER.pack(_NUMBERED_G_PDU, total + NUMBER_BYTES, teid, sequence)


def send_nowhere(_data: bytes, _to: Address) -> bool:
    """A plane without a socket sends nothing."""
    return False
