"""Protocol configuration options (TS 24.008 §10.5.6.3): what a device asks for and what it is sent.

Rules: options are read up to a bound, and what overruns or is unknown is left unanswered: a device with a
broken option still gets its session. A device is sent values of the families that its session has, each once;
each PPP packet is answered by one of its own. PAP and CHAP are acknowledged in the answer, for a session that
is open has passed them (``credentials``). There is one round, in PPP there are several: an answer states at
once all that was asked for and is known here, whatever else was asked for.
The additional and the extended options (TS 29.274 §8.96, §8.128) are written alike; each is answered by its
own kind.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from hmac import compare_digest
from ipaddress import AddressValueError, IPv4Address, IPv6Address

from core.domain.apn import Apn
from core.domain.session import PdnType, Session

IPCP = 0x8021
PAP = 0xC023
CHAP = 0xC223
P_CSCF_IPV6 = 0x0001
DNS_SERVER_IPV6 = 0x0003
P_CSCF_IPV4 = 0x000C
DNS_SERVER_IPV4 = 0x000D
LINK_MTU_IPV4 = 0x0010

OPTIONS_MAX = 32
"""Those beyond are not read."""
ANSWER_OCTETS_MAX = 251
"""What the element of TS 24.008 holds; what does not fit is left out."""

_FAMILIES = {P_CSCF_IPV6: 6, DNS_SERVER_IPV6: 6, P_CSCF_IPV4: 4, DNS_SERVER_IPV4: 4, LINK_MTU_IPV4: 4}
_LACKING = {PdnType.IPV4: 6, PdnType.IPV6: 4}
_PPP = frozenset({IPCP, PAP, CHAP})
_PAP_OCTETS, _CHAP_OCTETS = PAP.to_bytes(2, "big"), CHAP.to_bytes(2, "big")
_CONFIGURE_REQUEST, _ACK, _NAK, _REJECT = 1, 2, 3, 4
_AUTHENTICATE_REQUEST, _AUTHENTICATE_ACK = 1, 2
_CHALLENGE, _RESPONSE, _SUCCESS = 1, 2, 3
_IP_ADDRESS, _PRIMARY_DNS, _SECONDARY_DNS = 3, 129, 131


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a device showed: by PAP its password (RFC 1334 §2.2); by CHAP, where there is a ``challenge``, the
    digest of both (RFC 1994 §4.1).
    """

    user_name: str
    password: bytes = field(repr=False)
    challenge: bytes | None = None
    identifier: int = 0

    def prove(self, user_name: str, password: bytes) -> bool:
        """Whether it knows both."""
        expected = password
        if self.challenge is not None:
            hashed = bytes((self.identifier,)) + password + self.challenge
            expected = hashlib.md5(hashed, usedforsecurity=False).digest()
        return compare_digest(self.user_name.encode(), user_name.encode()) & compare_digest(
            self.password, expected
        )


def credentials(asked: bytes) -> Credentials | None:
    """What a device shows in its options; ``None``: nothing, or nothing whole."""
    if _PAP_OCTETS not in asked and _CHAP_OCTETS not in asked:
        return None
    packets = [(protocol, _packet(content)) for protocol, content in _options(asked)]
    challenges = {
        identifier: _counted(data)[0]
        for protocol, (code, identifier, data) in packets
        if (protocol, code) == (CHAP, _CHALLENGE)
    }
    for protocol, (code, identifier, data) in packets:
        shown, rest = _counted(data)
        if (protocol, code) == (PAP, _AUTHENTICATE_REQUEST):
            return Credentials(_text(shown), _counted(rest)[0])
        if (protocol, code) == (CHAP, _RESPONSE) and challenges.get(identifier):
            return Credentials(_text(rest), shown, challenges[identifier], identifier)
    return None


def answer_options(asked: bytes, session: Session, apn: Apn, *, ipcp_ack: bool = False) -> bytes:
    """The network's options for a device's; empty when there is nothing to send. ``ipcp_ack``: IPCP is
    acknowledged with our values, whatever it asked for.
    """
    answer = b"\x80"
    answered: set[int] = set()
    for identifier, content in _options(asked):
        if identifier in answered:
            continue
        if identifier in _PPP:
            packet = _answer_packet(identifier, content, session, apn, ipcp_ack=ipcp_ack)
            if packet and len(answer) + 3 + len(packet) <= ANSWER_OCTETS_MAX:
                answer += _option(identifier, packet)
            continue
        for offered in _offered(identifier, session, apn):
            answered.add(identifier)
            if len(answer) + 3 + len(offered) <= ANSWER_OCTETS_MAX:
                answer += _option(identifier, offered)
    return answer if len(answer) > 1 else b""


def dns_request() -> bytes:
    """Options by which a device asks for DNS servers and the link MTU."""
    return b"\x80" + _option(DNS_SERVER_IPV4, b"") + _option(LINK_MTU_IPV4, b"")


def dns_servers(answer: bytes) -> tuple[str, ...]:
    """The DNS servers that an answer names."""
    found: list[str] = []
    for identifier, content in _options(answer):
        if identifier == DNS_SERVER_IPV4:
            try:
                found.append(str(IPv4Address(content)))
            except AddressValueError:
                continue
    return tuple(found)


def _offered(identifier: int, session: Session, apn: Apn) -> list[bytes]:
    """The contents by which an option that holds nothing is answered."""
    family = _FAMILIES.get(identifier)
    if family is None or family == _LACKING.get(session.pdn_type):
        return []
    if identifier == LINK_MTU_IPV4:
        return [apn.mtu_bytes.to_bytes(2, "big")]
    servers: tuple[IPv4Address | IPv6Address, ...] = (*apn.dns, *apn.dns_ipv6)
    if identifier in (P_CSCF_IPV4, P_CSCF_IPV6):
        servers = apn.p_cscf
    return [server.packed for server in servers if server.version == family]


def _answer_packet(protocol: int, content: bytes, session: Session, apn: Apn, *, ipcp_ack: bool) -> bytes:
    code, identifier, data = _packet(content)
    if protocol == IPCP and code == _CONFIGURE_REQUEST:
        return _answer_ipcp(identifier, data, session, apn, ipcp_ack=ipcp_ack)
    if protocol == PAP and code == _AUTHENTICATE_REQUEST:
        return bytes((_AUTHENTICATE_ACK, identifier, 0, 5, 0))
    if protocol == CHAP and code == _RESPONSE:
        return bytes((_SUCCESS, identifier, 0, 4))
    return b""


def _answer_ipcp(identifier: int, request: bytes, session: Session, apn: Apn, *, ipcp_ack: bool) -> bytes:
    """Acknowledge, correct or reject the options of a Configure-Request (RFC 1332 §3, RFC 1877 §1). A second
    server that is not there is the first.

    Options that are not known are rejected only where there is nothing else to send: a Reject names them
    alone (RFC 1661 §5.4), and no second request would come. A Nak leaves them out.
    """
    known: dict[int, IPv4Address] = {}
    if session.pdn_type is not PdnType.IPV6:
        known[_IP_ADDRESS] = session.ue_address
        if apn.dns:
            known |= {_PRIMARY_DNS: apn.dns[0], _SECONDARY_DNS: apn.dns[:2][-1]}
    rejected, corrected, ours = b"", b"", b""
    for kind, option in _ipcp_options(request):
        if kind not in known:
            rejected += option
            continue
        correct = bytes((kind, 6)) + known[kind].packed
        ours += correct
        corrected += correct if correct != option else b""
    if rejected and not ours:
        code, options = _REJECT, rejected
    elif ipcp_ack or not (rejected or corrected):
        code, options = _ACK, ours
    else:
        code, options = _NAK, corrected or ours
    return bytes((code, identifier)) + (4 + len(options)).to_bytes(2, "big") + options


def _options(value: bytes) -> Iterator[tuple[int, bytes]]:
    at = 1
    for _ in range(OPTIONS_MAX):
        if at + 3 > len(value):
            return
        content = value[at + 3 : at + 3 + value[at + 2]]
        if len(content) != value[at + 2]:
            return
        yield int.from_bytes(value[at : at + 2], "big"), content
        at += 3 + len(content)


def _option(identifier: int, content: bytes) -> bytes:
    return identifier.to_bytes(2, "big") + bytes((len(content),)) + content


def _packet(content: bytes) -> tuple[int, int, bytes]:
    """Code, identifier and data of a PPP packet (RFC 1661 §5); code 0 when its length lies."""
    length = int.from_bytes(content[2:4], "big")
    if not 4 <= length <= len(content):
        return 0, 0, b""
    return content[0], content[1], content[4:length]


def _counted(data: bytes) -> tuple[bytes, bytes]:
    """What stands after its length, and the rest; both empty when the length lies."""
    if not data or 1 + data[0] > len(data):
        return b"", b""
    return data[1 : 1 + data[0]], data[1 + data[0] :]


def _text(value: bytes) -> str:
    return value.decode(errors="replace")


def _ipcp_options(request: bytes) -> Iterator[tuple[int, bytes]]:
    at, end = 0, len(request)
    while at + 2 <= end and 2 <= request[at + 1] <= end - at:
        yield request[at], request[at : at + request[at + 1]]
        at += request[at + 1]
