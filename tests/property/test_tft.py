"""Traffic flow templates: what is encoded comes back, and whatever arrives is read or refused."""

from ipaddress import IPv4Network, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.domain.flow import PacketFilter
from core.errors import LocalProtocolError, RemoteProtocolError
from gtp.tft import FILTERS_MAX, Tft, TftOperation, decode_tft, encode_tft

PORTS = st.none() | st.tuples(st.integers(0, 65_535), st.integers(0, 65_535)).map(
    lambda pair: (min(pair), max(pair))
)
IPV4 = st.tuples(st.ip_addresses(v=4), st.integers(0, 32)).map(lambda at: str(IPv4Network(at, strict=False)))
IPV6 = st.tuples(st.ip_addresses(v=6), st.integers(0, 128)).map(lambda at: str(IPv6Network(at, strict=False)))
FILTERS = st.lists(
    st.builds(
        PacketFilter,
        identifier=st.integers(0, 15),
        precedence=st.integers(0, 255),
        is_uplink=st.booleans(),
        is_downlink=st.booleans(),
        remote=st.just("") | IPV4 | IPV6,
        protocol=st.none() | st.integers(0, 255),
        local_ports=PORTS,
        remote_ports=PORTS,
    ).filter(
        lambda each: (
            (each.is_uplink or each.is_downlink)
            and bool(each.remote or each.protocol is not None or each.local_ports or each.remote_ports)
        )
    ),
    min_size=1,
    max_size=FILTERS_MAX,
    unique_by=lambda each: each.identifier,
)


@given(FILTERS)
def test_filters_come_back(filters: list[PacketFilter]) -> None:
    assert decode_tft(encode_tft(filters)) == Tft(TftOperation.CREATE, tuple(filters))


@given(FILTERS, st.data())
def test_a_template_cut_short_is_refused(filters: list[PacketFilter], data: st.DataObject) -> None:
    value = encode_tft(filters)
    with pytest.raises(RemoteProtocolError):
        decode_tft(value[: data.draw(st.integers(0, len(value) - 1))])


@given(st.binary(max_size=300))
def test_whatever_arrives_is_read_or_refused(value: bytes) -> None:
    try:
        template = decode_tft(value)
    except RemoteProtocolError:
        return
    assert len(template.filters) <= FILTERS_MAX


def test_a_template_octet_by_octet() -> None:
    """As in the captures of VoLTE: one filter, both directions, UDP from a network and a port."""
    each = PacketFilter(1, 7, remote="10.1.0.0/16", protocol=17, remote_ports=(5_060, 5_060))
    value = bytes.fromhex("21" "31070e" "100a010000ffff0000" "3011" "5013c4")  # fmt: skip
    assert encode_tft([each]) == value
    assert decode_tft(value).filters == (each,)


@pytest.mark.parametrize(
    "broken",
    [
        "",
        "e1",
        "21",
        "2131",
        "213107ff3011",  # the filter's length overruns
        "2131070300000000",  # no such component
        "21310700",
        "2231070230113107023011",  # an identifier twice
        "2131070510000a0100",  # half an address
        "21310709100a000000ff00ff00",  # a mask with holes
        "21310709100a000000000000ff",  # a mask upside down
        "213107054100020001",  # ports in no order
        "a501",  # five identifiers, one is there
    ],
)
def test_what_overruns_or_contradicts_itself_is_refused(broken: str) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_tft(bytes.fromhex(broken))


def test_other_operations_are_told_apart() -> None:
    assert decode_tft(b"\x40") == Tft(TftOperation.DELETE)
    assert decode_tft(b"\xa2\x01\x02") == Tft(TftOperation.DELETE_FILTERS, identifiers=(1, 2))
    mask = IPv6Network("2001:db8::/32")
    old = bytes((0x20,)) + mask.network_address.packed + mask.netmask.packed
    template = decode_tft(b"\x61\x02\x05" + bytes((len(old),)) + old)
    assert (template.operation, template.filters[0].remote) == (TftOperation.ADD_FILTERS, str(mask))
    assert template.filters[0].is_uplink


@pytest.mark.parametrize(
    "filters",
    [
        [],
        [PacketFilter(1, 1, protocol=6)] * 2,
        [PacketFilter(number, number, protocol=6) for number in range(16)],
        [PacketFilter(1, 1)],
        [PacketFilter(1, 1, is_uplink=False, is_downlink=False, protocol=6)],
    ],
)
def test_what_cannot_be_told_is_a_bug_of_ours(filters: list[PacketFilter]) -> None:
    with pytest.raises(LocalProtocolError):
        encode_tft(filters)
