"""The path of a packet: from a tunnel to where it wants to go, and back into its tunnel.

Rules:

- No sockets, no clock, no objects per packet: bytes come in, bytes go out through callables.
- A packet is forwarded, then counted: a kill between the two errs in the customer's favour.
- What is counted is the inner packet's own length (IPv4 total length); what follows it in the datagram is
  neither forwarded nor counted.
- A device sends from its own address, through its session's peer, to the internet or the platform, and
  nowhere else: not to the gateway, not to another device.
- Hostile bytes end as a counted drop, never as an exception.

References: TS 29.281 (GTPv1-U) clauses 4.3, 5.1, 5.2, 7.2, 7.3; RFC 791.
"""

import struct
from collections.abc import Callable
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network

from core.ports.network import Address
from core.ports.user_plane import Bearer, PacketSink

GTP_U_PORT = 2152
EXTENSION_HEADERS_MAX = 8
ERROR_INDICATIONS_PER_S_MAX = 10
"""Per peer (TS 29.281 leaves the rate to us)."""
ERROR_INDICATION_PEERS_MAX = 1_024
"""Peers that get one within a second; beyond it nobody does, until the second is over."""
VERDICTS_MAX = 65_536
"""Destinations whose verdict is remembered."""

_ECHO_REQUEST, _ECHO_RESPONSE, _ERROR_INDICATION = 1, 2, 26
_SUPPORTED_EXTENSION_HEADERS, _END_MARKER, _G_PDU = 31, 254, 255
_PLAIN = 0x30
"""Version 1, GTP, no optional field (§5.1)."""
_VERSION_MASK = 0xF0
_EXTENSION_FLAG = 0x04
_OPTIONAL_FLAGS = 0x07

_HEADER = struct.Struct("!BBH4s")
_UPLINK_INNER = struct.Struct("!BxH8x4s4s")  # version and length, total length, source, destination
_DOWNLINK_INNER = struct.Struct("!BxH12x4s")  # the same without source
_G_PDU_HEADER = struct.Struct("!HHI")
_PLAIN_G_PDU = _PLAIN << 8 | _G_PDU
_NO_TEID = bytes(4)

_IPV4_HEADER_BYTES = {0x40 | words: 4 * words for words in range(5, 16)}
_INTERNET, _EDGE = "internet", "edge"

_NOT_INTERNET = tuple(
    IPv4Network(network)
    for network in ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4")
)
"""This network, loopback, link local, multicast, reserved with broadcast (RFC 6890)."""


class Drop(StrEnum):
    """Why a packet went no further."""

    MALFORMED = "malformed"  # not GTPv1-U, cut short, or an extension header chain that does not end
    UNKNOWN_MESSAGE = "unknown_message"
    UNKNOWN_TEID = "unknown_teid"
    WRONG_PEER = "wrong_peer"  # a known TEID from another address than its session's peer
    INNER_NOT_IPV4 = "inner_not_ipv4"
    INNER_MALFORMED = "inner_malformed"
    WRONG_SOURCE = "wrong_source"  # not the device's own address
    FORBIDDEN_DESTINATION = "forbidden_destination"
    NO_INTERNET = "no_internet"  # no way to the internet is configured
    INTERNET_FULL = "internet_full"  # the kernel would not take it
    NO_EDGE = "no_edge"  # nobody listens at the platform's addresses
    UNKNOWN_DEVICE = "unknown_device"  # downlink for an address without a session
    WRONG_DEVICE = "wrong_device"  # injected for one session, addressed to another device
    PEER_FULL = "peer_full"  # the kernel would not send it


class Signal(StrEnum):
    """Messages of the path itself that were answered, heeded or taken note of."""

    ECHO_ANSWERED = "echo_answered"
    ECHO_RESPONSE = "echo_response"
    END_MARKER = "end_marker"
    SUPPORTED_EXTENSION_HEADERS = "supported_extension_headers"
    ERROR_INDICATION_SENT = "error_indication_sent"
    ERROR_INDICATION_WITHHELD = "error_indication_withheld"  # TEID 0, or above the rate
    ERROR_INDICATION_HEEDED = "error_indication_heeded"
    ERROR_INDICATION_IGNORED = "error_indication_ignored"  # malformed, or from another than the peer


_Tunnel = tuple[bytes, str, str, int, int]
"""Uplink: device address, peer address, session id, index of the byte counter, of the packet counter."""
_Way = tuple[int, Address, int, int]
"""Downlink: the peer's TEID, its address and port, index of the byte counter, of the packet counter."""


class Tunnels:
    """The tunnels of a gateway and the way of packets through them.

    ``words`` holds the counters (four words per tunnel from the index given to ``install``: up bytes, up
    packets, down bytes, down packets). ``own_addresses`` are the gateway's, ``devices`` the devices',
    ``platform`` the edge's. The callables may be set at any time:

    - ``send(data, to)``: to a peer; false when it was not sent.
    - ``write_internet(packet)``: raises ``OSError`` when it was not taken.
    - ``on_edge_packet(session_id, packet)``, ``on_error_indication(session_id)``: must not raise.
    """

    def __init__(
        self,
        *,
        words: memoryview,
        monotonic: Callable[[], float],
        own_addresses: tuple[IPv4Address, ...],
        devices: tuple[IPv4Network, ...],
        platform: IPv4Network,
    ) -> None:
        self.send: Callable[[bytes, Address], bool] = send_nowhere
        self.write_internet: Callable[[bytes], object] | None = None
        self.on_edge_packet: PacketSink | None = None
        self.on_error_indication: Callable[[str], None] | None = None
        self.drops: dict[Drop, int] = dict.fromkeys(Drop, 0)
        self.signals: dict[Signal, int] = dict.fromkeys(Signal, 0)
        self._words = words
        self._monotonic = monotonic
        self._own_addresses = own_addresses
        self._devices = devices
        self._platform = platform
        self._bearers: dict[str, Bearer] = {}
        self._by_teid: dict[bytes, _Tunnel] = {}
        self._by_ue: dict[bytes, _Way] = {}
        self._by_session: dict[str, _Way] = {}
        self._by_peer: dict[tuple[str, bytes], str] = {}
        self._verdicts: dict[bytes, str] = {}
        self._indicated: dict[str, int] = {}
        self._indicated_at = 0

    def __contains__(self, session_id: str) -> bool:
        return session_id in self._bearers

    def install(self, bearer: Bearer, counters_at: int) -> None:
        """Forward for this session from now on, whatever was installed for it before."""
        self.remove(bearer.session_id)
        self._bearers[bearer.session_id] = bearer
        address, peer = bearer.ue_address.packed, bearer.peer_address
        way = bearer.peer_teid, (peer, GTP_U_PORT), counters_at + 2, counters_at + 3
        self._by_teid[_packed(bearer.local_teid)] = (
            address,
            peer,
            bearer.session_id,
            counters_at,
            counters_at + 1,
        )
        self._by_ue[address] = way
        self._by_session[bearer.session_id] = way
        self._by_peer[peer, _packed(bearer.peer_teid)] = bearer.session_id

    def remove(self, session_id: str) -> None:
        """Forward no longer; idempotent. What another session has taken over meanwhile stays its own."""
        bearer = self._bearers.pop(session_id, None)
        if bearer is None:
            return
        way = self._by_session.pop(session_id)
        teid, peer = _packed(bearer.local_teid), (bearer.peer_address, _packed(bearer.peer_teid))
        tunnel = self._by_teid.get(teid)
        if tunnel is not None and tunnel[2] == session_id:
            del self._by_teid[teid]
        if self._by_ue.get(bearer.ue_address.packed) is way:
            del self._by_ue[bearer.ue_address.packed]
        if self._by_peer.get(peer) == session_id:
            del self._by_peer[peer]

    # -- the fast path --------------------------------------------------------------------------------

    # A straight line of checks: a call for each would cost a tenth of the rate.
    def uplink(self, data: bytes, source: Address) -> None:  # noqa: PLR0911, PLR0912 - see above
        """One datagram that came to the GTP-U port."""
        size = len(data)
        if size < 8:
            self.drops[Drop.MALFORMED] += 1
            return
        flags, kind, length, teid = _HEADER.unpack_from(data)
        end = 8 + length
        offset = 8
        if flags != _PLAIN or kind != _G_PDU or end > size:
            offset = self._not_plain(data, source, flags, kind, end)
            if not offset:
                return
        tunnel = self._by_teid.get(teid)
        if tunnel is None:
            self._indicate_error(teid, source)
            return
        address, peer, session_id, bytes_at, packets_at = tunnel
        if source[0] != peer:
            self.drops[Drop.WRONG_PEER] += 1
            return
        if end - offset < 20:
            self.drops[Drop.INNER_MALFORMED] += 1
            return
        version, total, inner_source, destination = _UPLINK_INNER.unpack_from(data, offset)
        header = _IPV4_HEADER_BYTES.get(version)
        if header is None or total < header or total > end - offset:
            self._drop_inner(version)
            return
        if inner_source != address:
            self.drops[Drop.WRONG_SOURCE] += 1
            return
        verdict = self._verdicts.get(destination) or self._judge(destination)
        if verdict is _INTERNET:
            if self.write_internet is None:
                self.drops[Drop.NO_INTERNET] += 1
                return
            try:
                self.write_internet(data[offset : offset + total])
            except OSError:
                self.drops[Drop.INTERNET_FULL] += 1
                return
        elif verdict is _EDGE:
            if self.on_edge_packet is None:
                self.drops[Drop.NO_EDGE] += 1
                return
            self.on_edge_packet(session_id, data[offset : offset + total])
        else:
            self.drops[Drop.FORBIDDEN_DESTINATION] += 1
            return
        words = self._words
        words[bytes_at] += total
        words[packets_at] += 1

    def downlink(self, packet: bytes) -> bool:
        """One IP packet for a device, from the internet side; whether it was sent."""
        if len(packet) < 20:
            self.drops[Drop.INNER_MALFORMED] += 1
            return False
        version, total, destination = _DOWNLINK_INNER.unpack_from(packet)
        header = _IPV4_HEADER_BYTES.get(version)
        if header is None or total < header or total > len(packet):
            self._drop_inner(version)
            return False
        way = self._by_ue.get(destination)
        if way is None:
            self.drops[Drop.UNKNOWN_DEVICE] += 1
            return False
        teid, peer, bytes_at, packets_at = way
        if total != len(packet):
            packet = packet[:total]
        if not self.send(_G_PDU_HEADER.pack(_PLAIN_G_PDU, total, teid) + packet, peer):
            self.drops[Drop.PEER_FULL] += 1
            return False
        words = self._words
        words[bytes_at] += total
        words[packets_at] += 1
        return True

    def inject(self, session_id: str, packet: bytes) -> bool:
        """An IP packet of the device edge for this session's device; whether it was sent."""
        way = self._by_session.get(session_id)
        if way is None:
            return False
        if self._by_ue.get(packet[16:20]) is not way:
            self.drops[Drop.WRONG_DEVICE] += 1
            return False
        return self.downlink(packet)

    # -- everything else ------------------------------------------------------------------------------

    def _not_plain(self, data: bytes, source: Address, flags: int, kind: int, end: int) -> int:
        """Where a G-PDU's inner packet begins; 0 when there is none and the datagram is dealt with."""
        start = _payload_start(data, flags, end)
        if not start:
            self.drops[Drop.MALFORMED] += 1
        elif kind == _G_PDU:
            return start
        else:
            self._heed(data[:end], source, kind, start)
        return 0

    def _heed(self, message: bytes, source: Address, kind: int, start: int) -> None:
        """A message of the path (§7.2, §7.3)."""
        if kind == _ECHO_REQUEST:
            sequence = message[8:10] if message[0] & 0x02 else bytes(2)
            # Recovery is 0 in GTP-U (§7.2.2); the answer goes to the port that asked
            self.send(b"\x32\x02\x00\x06" + _NO_TEID + sequence + b"\x00\x00\x0e\x00", source)
            self.signals[Signal.ECHO_ANSWERED] += 1
        elif kind == _ERROR_INDICATION:
            self._heed_error_indication(message, source, start)
        elif kind == _ECHO_RESPONSE:
            self.signals[Signal.ECHO_RESPONSE] += 1
        elif kind == _END_MARKER:
            self.signals[Signal.END_MARKER] += 1
        elif kind == _SUPPORTED_EXTENSION_HEADERS:
            self.signals[Signal.SUPPORTED_EXTENSION_HEADERS] += 1
        else:
            self.drops[Drop.UNKNOWN_MESSAGE] += 1

    def _heed_error_indication(self, message: bytes, source: Address, start: int) -> None:
        """The peer knows our TEID for it no longer (§7.3.1): its first element is that TEID (§8.3)."""
        session_id = None
        if len(message) >= start + 5 and message[start] == 16:
            session_id = self._by_peer.get((source[0], message[start + 1 : start + 5]))
        if session_id is None:
            self.signals[Signal.ERROR_INDICATION_IGNORED] += 1
            return
        self.signals[Signal.ERROR_INDICATION_HEEDED] += 1
        if self.on_error_indication is not None:
            self.on_error_indication(session_id)

    def _indicate_error(self, teid: bytes, source: Address) -> None:
        """Tell a peer that its TEID is none of ours (§7.3.1), to the GTP-U port and not too often."""
        self.drops[Drop.UNKNOWN_TEID] += 1
        now = int(self._monotonic())
        if now != self._indicated_at:
            self._indicated_at = now
            self._indicated.clear()
        peer = source[0]
        sent = self._indicated.get(peer, 0)
        full = not sent and len(self._indicated) >= ERROR_INDICATION_PEERS_MAX
        if teid == _NO_TEID or full or sent >= ERROR_INDICATIONS_PER_S_MAX:
            self.signals[Signal.ERROR_INDICATION_WITHHELD] += 1
            return
        self._indicated[peer] = sent + 1
        own = b"\x85\x00\x04" + self._own_addresses[0].packed  # GTP-U Peer Address (§8.4)
        self.send(b"\x32\x1a\x00\x10" + _NO_TEID + bytes(4) + b"\x10" + teid + own, (peer, GTP_U_PORT))
        self.signals[Signal.ERROR_INDICATION_SENT] += 1

    def _drop_inner(self, version: int) -> None:
        self.drops[Drop.INNER_MALFORMED if version >> 4 == 4 else Drop.INNER_NOT_IPV4] += 1

    def _judge(self, destination: bytes) -> str:
        """Where packets for this address go; the answer never changes and is remembered."""
        address = IPv4Address(destination)
        if address in self._platform:
            verdict = _EDGE
        elif address in self._own_addresses or any(address in network for network in self._devices):
            verdict = "forbidden"
        elif any(address in network for network in _NOT_INTERNET):
            verdict = "forbidden"
        else:
            verdict = _INTERNET
        if len(self._verdicts) >= VERDICTS_MAX:
            self._verdicts.clear()
        self._verdicts[destination] = verdict
        return verdict


def _payload_start(data: bytes, flags: int, end: int) -> int:
    """Where the payload begins behind optional fields and extension headers (§5.1, §5.2); 0: malformed."""
    if flags & _VERSION_MASK != _PLAIN or end > len(data):
        return 0
    if not flags & _OPTIONAL_FLAGS:
        return 8
    start = 12
    if end < start:
        return 0
    following = data[11] if flags & _EXTENSION_FLAG else 0
    for _ in range(EXTENSION_HEADERS_MAX):
        if not following:
            return start
        length = 4 * data[start] if start < end else 0
        start += length
        if not length or start > end:
            return 0
        following = data[start - 1]
    return 0 if following else start


def _packed(teid: int) -> bytes:
    return teid.to_bytes(4, "big")


def send_nowhere(_data: bytes, _to: Address) -> bool:
    """A plane without a socket sends nothing."""
    return False
