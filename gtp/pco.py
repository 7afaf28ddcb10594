"""Protocol configuration options (TS 24.008 §10.5.6.3): what a device asks for and what it is told.

Rules: options are read up to a bound, and what overruns or is unknown is left unanswered: a device with a
broken option still gets its session. PAP and CHAP are acknowledged without a check, because no group asks
for one yet.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hmac import compare_digest
from ipaddress import AddressValueError, IPv4Address

from core.domain.apn import Apn

IPCP = 0x8021
PAP = 0xC023
CHAP = 0xC223
DNS_SERVER_IPV4 = 0x000D
LINK_MTU_IPV4 = 0x0010

OPTIONS_MAX = 16

_CONFIGURE_REQUEST, _ACK, _NAK, _REJECT = 1, 2, 3, 4
_CHAP_RESPONSE, _CHAP_SUCCESS = 2, 3
_PRIMARY_DNS, _SECONDARY_DNS = 129, 131


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a device showed by PAP: user name and password."""

    user_name: str
    password: bytes

    def prove(self, user_name: str, password: bytes) -> bool:
        """Whether it knows both."""
        return compare_digest(self.user_name.encode(), user_name.encode()) & compare_digest(
            self.password, password
        )


def answer_options(asked: bytes, apn: Apn) -> bytes:
    """The network's options for a device's; empty when there is nothing to tell."""
    parts: list[bytes] = []
    servers = apn.dns
    for identifier, content in _options(asked):
        if identifier == IPCP:
            parts.append(_option(IPCP, _answer_ipcp(content, servers)))
        elif identifier == PAP and len(content) >= 4 and content[0] == _CONFIGURE_REQUEST:
            parts.append(_option(PAP, bytes((_ACK, content[1], 0, 5, 0))))
        elif identifier == CHAP and len(content) >= 4 and content[0] == _CHAP_RESPONSE:
            parts.append(_option(CHAP, bytes((_CHAP_SUCCESS, content[1], 0, 4))))
        elif identifier == DNS_SERVER_IPV4 and not content:
            parts += [_option(DNS_SERVER_IPV4, server.packed) for server in servers]
        elif identifier == LINK_MTU_IPV4 and not content:
            parts.append(_option(LINK_MTU_IPV4, apn.mtu_bytes.to_bytes(2, "big")))
    body = b"".join(parts)
    return b"\x80" + body if body else b""


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


def _answer_ipcp(request: bytes, servers: Sequence[IPv4Address]) -> bytes:
    """Acknowledge, correct or reject the options of a Configure-Request (RFC 1332 §3, RFC 1877 §1)."""
    if len(request) < 4 or request[0] != _CONFIGURE_REQUEST:
        return b""
    known = dict(zip((_PRIMARY_DNS, _SECONDARY_DNS), servers, strict=False))
    rejected, corrected, accepted = b"", b"", b""
    for kind, option in _ipcp_options(request):
        if kind not in known:
            rejected += option
        elif option[2:] != known[kind].packed:
            corrected += bytes((kind, 6)) + known[kind].packed
        else:
            accepted += option
    code, options = (_REJECT, rejected) if rejected else (_NAK, corrected) if corrected else (_ACK, accepted)
    return bytes((code, request[1])) + (4 + len(options)).to_bytes(2, "big") + options


def _ipcp_options(request: bytes) -> Iterator[tuple[int, bytes]]:
    at, end = 4, min(int.from_bytes(request[2:4], "big"), len(request))
    while at + 2 <= end and 2 <= request[at + 1] <= end - at:
        yield request[at], request[at : at + request[at + 1]]
        at += request[at + 1]
