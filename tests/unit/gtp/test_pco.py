"""What devices ask for in their protocol configuration options, and what they are told."""

import hashlib
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, IPv6Network

import pytest

from core.domain.apn import Apn
from core.domain.session import PdnType
from core.domain.values import replace
from gtp.pco import ANSWER_OCTETS_MAX, OPTIONS_MAX, answer_options, credentials
from tests.support.gtp import session

APN = Apn(
    "soracom.io",
    dns=(IPv4Address("100.127.0.53"), IPv4Address("100.127.1.53")),
    dns_ipv6=(IPv6Address("2001:db8::35"),),
    p_cscf=(IPv4Address("100.127.0.60"), IPv6Address("2001:db8::60")),
    mtu_bytes=1_400,
)


def option(identifier: int, content: bytes = b"") -> bytes:
    return identifier.to_bytes(2, "big") + bytes((len(content),)) + content


def packet(code: int, identifier: int, data: bytes) -> bytes:
    return bytes((code, identifier)) + (4 + len(data)).to_bytes(2, "big") + data


def counted(*values: bytes) -> bytes:
    return b"".join(bytes((len(value),)) + value for value in values)


def told(*options: bytes, pdn_type: PdnType = PdnType.IPV4V6, apn: Apn = APN) -> list[tuple[int, bytes]]:
    prefix = None if pdn_type is PdnType.IPV4 else IPv6Network("2001:db8:0:2::/64")
    answer = answer_options(
        b"\x80" + b"".join(options), replace(session(), pdn_type=pdn_type, ue_prefix=prefix), apn
    )
    assert answer[:1] in (b"", b"\x80")
    return list(_split(answer[1:]))


def _split(answer: bytes) -> Iterator[tuple[int, bytes]]:
    while answer:
        length = answer[2]
        yield int.from_bytes(answer[:2], "big"), answer[3 : 3 + length]
        answer = answer[3 + length :]


ALL_SERVERS = [option(identifier) for identifier in (0x0001, 0x0003, 0x000C, 0x000D, 0x0010)]
IPV4_TOLD = [
    (0x000C, bytes((100, 127, 0, 60))),
    (0x000D, bytes((100, 127, 0, 53))),
    (0x000D, bytes((100, 127, 1, 53))),
    (0x0010, b"\x05\x78"),
]
IPV6_TOLD = [
    (0x0001, IPv6Address("2001:db8::60").packed),
    (0x0003, IPv6Address("2001:db8::35").packed),
]


@pytest.mark.parametrize(
    ("pdn_type", "expected"),
    [
        (PdnType.IPV4, IPV4_TOLD),
        (PdnType.IPV6, IPV6_TOLD),
        (PdnType.IPV4V6, IPV6_TOLD + IPV4_TOLD),
    ],
)
def test_servers_and_mtu_are_told_of_the_families_that_the_session_has(
    pdn_type: PdnType, expected: list[tuple[int, bytes]]
) -> None:
    assert told(*ALL_SERVERS, pdn_type=pdn_type) == expected


def test_an_access_point_without_servers_tells_none() -> None:
    assert told(*ALL_SERVERS[:-1], apn=Apn("soracom.io")) == []


def test_what_is_not_known_here_is_left_unanswered() -> None:
    unknown = (0x0002, 0x0004, 0x0005, 0x000A, 0x0011, 0x0012, 0x0015, 0x0016, 0x0023, 0xC021, 0xFF00)
    assert told(*map(option, unknown), option(0x0005, b"\1"), option(0x0010)) == [(0x0010, b"\x05\x78")]


def test_each_thing_is_told_once_and_content_in_a_request_does_not_matter() -> None:
    assert told(option(0x0010, b"\0\0"), option(0x0010), pdn_type=PdnType.IPV4) == [(0x0010, b"\x05\x78")]


# -- IPCP -----------------------------------------------------------------------------------------------

IPCP = 0x8021
RIGHT = bytes.fromhex("03060a800002") + bytes.fromhex("8106647f0035") + bytes.fromhex("8306647f0135")


def ipcp(options: bytes, *, code: int = 1, apn: Apn = APN, pdn_type: PdnType = PdnType.IPV4) -> bytes:
    ((protocol, answer),) = told(option(IPCP, packet(code, 7, options)), apn=apn, pdn_type=pdn_type)
    assert protocol == IPCP
    return answer


def test_ipcp_that_is_right_is_acknowledged_as_it_is() -> None:
    assert ipcp(RIGHT) == packet(2, 7, RIGHT)
    assert ipcp(b"") == packet(2, 7, b"")


def test_ipcp_that_asks_is_told_by_a_nak() -> None:
    asks = bytes.fromhex("030600000000810600000000830600000000")
    assert ipcp(asks) == packet(3, 7, RIGHT)


ASKS = bytes.fromhex("030600000000810600000000830600000000")
UNKNOWN = bytes.fromhex("0206002d0f01"), bytes.fromhex("820600000000"), bytes.fromhex("840600000000")
"""Van Jacobson compression, NBNS 1 and 2, as dial-up stacks ask for them."""


@pytest.mark.parametrize(
    "asks",
    [UNKNOWN[0] + ASKS, ASKS[:12] + UNKNOWN[1] + ASKS[12:] + UNKNOWN[2]],
    ids=["compression", "windows"],
)
def test_servers_are_told_beside_options_that_are_not_known(asks: bytes) -> None:
    """There is no second round in which the device would ask again without the others."""
    assert ipcp(asks) == packet(3, 7, RIGHT)


def test_what_is_right_is_told_again_beside_options_that_are_not_known() -> None:
    assert ipcp(RIGHT + UNKNOWN[0]) == packet(3, 7, RIGHT)
    assert ipcp(RIGHT[:6] + ASKS[6:] + UNKNOWN[0]) == packet(3, 7, RIGHT[6:]), "only what differs"


def test_ipcp_options_that_are_not_known_are_rejected_where_there_is_nothing_else() -> None:
    assert ipcp(UNKNOWN[1] + UNKNOWN[0]) == packet(4, 7, UNKNOWN[1] + UNKNOWN[0])


def test_each_ipcp_packet_is_answered() -> None:
    first, second = (option(0x8021, packet(1, number, ASKS[6 * number :][:6])) for number in (1, 2))
    assert told(first, option(0x0010), second, pdn_type=PdnType.IPV4) == [
        (0x8021, packet(3, 1, RIGHT[6:12])),
        (0x0010, b"\x05\x78"),
        (0x8021, packet(3, 2, RIGHT[12:])),
    ]


def test_no_more_ipcp_packets_are_answered_than_fit() -> None:
    answers = told(*[option(0x8021, packet(1, 1, ASKS))] * OPTIONS_MAX, pdn_type=PdnType.IPV4)
    assert len(answers) == (ANSWER_OCTETS_MAX - 1) // (3 + 4 + len(RIGHT))


@pytest.mark.parametrize("asks", [ASKS, ASKS + UNKNOWN[0], RIGHT], ids=["asks", "unknown", "right"])
def test_ipcp_may_be_acknowledged_with_our_values_as_other_gateways_do(asks: bytes) -> None:
    answer = answer_options(b"\x80" + option(0x8021, packet(1, 7, asks)), session(), APN, ipcp_ack=True)
    assert answer == b"\x80" + option(0x8021, packet(2, 7, RIGHT))


def test_one_server_alone_is_the_second_too() -> None:
    one = replace(APN, dns=APN.dns[:1])
    assert ipcp(bytes.fromhex("830600000000"), apn=one) == packet(3, 7, bytes.fromhex("8306647f0035"))


def test_ipcp_has_nothing_for_a_session_without_ipv4() -> None:
    asks = bytes.fromhex("810600000000")
    assert ipcp(asks, pdn_type=PdnType.IPV6) == packet(4, 7, asks)


def test_ipcp_that_is_no_request_is_left_unanswered() -> None:
    assert told(option(IPCP, packet(5, 7, b""))) == []


# -- PAP and CHAP ---------------------------------------------------------------------------------------

PAP, CHAP = 0xC023, 0xC223
CHALLENGE = b"0123456789abcdef"


def chap(password: bytes, *, identifier: int = 9) -> bytes:
    digest = hashlib.md5(bytes((identifier,)) + password + CHALLENGE).digest()  # noqa: S324 - RFC 1994
    return option(CHAP, packet(1, identifier, counted(CHALLENGE) + b"ggsn")) + option(
        CHAP, packet(2, identifier, counted(digest) + b"meter")
    )


def test_pap_shows_a_name_and_a_password() -> None:
    shown = credentials(b"\x80" + option(PAP, packet(1, 3, counted(b"meter", b"sesame"))))
    assert shown is not None
    assert shown.prove("meter", b"sesame")
    assert not shown.prove("meter", b"other")
    assert not shown.prove("other", b"sesame")
    assert "sesame" not in repr(shown)


def test_chap_proves_a_password_by_its_challenge() -> None:
    shown = credentials(b"\x80" + chap(b"sesame"))
    assert shown is not None
    assert shown.prove("meter", b"sesame")
    assert not shown.prove("meter", b"other")
    assert not shown.prove("other", b"sesame")


def test_a_chap_response_without_its_challenge_shows_nothing() -> None:
    challenge, response = chap(b"sesame"), chap(b"sesame", identifier=8)
    assert credentials(b"\x80" + challenge[: 3 + challenge[2]] + response[3 + response[2] :]) is None


def test_pap_and_chap_are_acknowledged() -> None:
    assert told(option(PAP, packet(1, 3, counted(b"meter", b"sesame")))) == [
        (PAP, bytes.fromhex("0203000500"))
    ]
    assert told(chap(b"sesame")) == [(CHAP, bytes.fromhex("03090004"))]


@pytest.mark.parametrize(
    "content",
    [
        b"\1\1",
        packet(1, 1, counted(b"meter", b"sesame"))[:-1],
        b"\1\1\0\3",
        b"\1\1\xff\xff" + counted(b"meter", b"sesame"),
    ],
)
def test_lengths_that_lie_show_nothing_and_are_left_unanswered(content: bytes) -> None:
    assert credentials(b"\x80" + option(PAP, content)) is None
    assert told(option(PAP, content), option(IPCP, content), option(CHAP, content)) == []


def test_a_name_that_overruns_its_packet_is_no_name() -> None:
    shown = credentials(b"\x80" + option(PAP, packet(1, 1, b"\xffmeter")))
    assert shown is not None
    assert (shown.user_name, shown.password) == ("", b"")


# -- too many, too long ---------------------------------------------------------------------------------


def test_an_option_that_overruns_ends_the_list_and_those_before_count() -> None:
    assert told(option(0x0010), b"\0\x0d\xff\1") == [(0x0010, b"\x05\x78")]


@pytest.mark.parametrize("count", [8, 9, 16, 17, OPTIONS_MAX - 1])
def test_many_options_are_read(count: int) -> None:
    assert told(*[option(0xFF00)] * count, option(0x0010)) == [(0x0010, b"\x05\x78")]


def test_options_beyond_the_bound_are_not_read() -> None:
    assert told(*[option(0xFF00)] * OPTIONS_MAX, option(0x0010)) == []


def test_an_answer_is_no_longer_than_its_element_may_be() -> None:
    many = replace(APN, dns_ipv6=APN.dns_ipv6 * 40)
    answer = told(option(0x0003), option(0x0010), apn=many)
    assert [identifier for identifier, _ in answer] == [0x0003] * 13
    assert 1 + 13 * (3 + 16) <= ANSWER_OCTETS_MAX < 1 + 14 * (3 + 16)
