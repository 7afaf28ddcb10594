"""Pages of open sessions over several gateways, and the effect of filters."""

from ipaddress import IPv4Address, IPv6Address, IPv6Network
from typing import Any

import pytest

from core.domain.session import PdnType, Session
from core.domain.values import replace
from core.services.sessions import search
from core.services.sessions.search import Searched, SessionQuery, page_of
from tests.contract.stores import session_of, sim_of

PEER = "127.0.1.1"
PREFIX = IPv6Network("2001:db8:0:1::/64")


def gateway(numbers: range) -> Searched:
    sessions = {f"{number:032x}": session_of(sim_of(number), number) for number in numbers}
    return Searched(sessions, {PEER: "operator-a"}.__getitem__)


async def ids(gateways: list[Searched], **asked: Any) -> tuple[list[int], str | None]:
    page, following = await page_of(gateways, SessionQuery(**asked))
    return [int(session.session_id, 16) for session in page], following


async def test_pages_go_on_by_id_over_all_gateways(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "LOOKED_AT", 4)
    gateways = [gateway(range(10, 15)), gateway(range(1, 10))]
    first, following = await ids(gateways, limit=6)
    second, after = await ids(gateways, limit=6, after=following)
    last, end = await ids(gateways, limit=6, after=after)
    assert (first, second, last) == ([1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 11, 12], [13, 14])
    assert end is None


async def test_a_page_that_is_just_full_is_the_last() -> None:
    assert await ids([gateway(range(1, 4))], limit=3) == ([1, 2, 3], None)


@pytest.mark.parametrize(("asked", "is_wanted"), [
    ({}, True),
    ({"imsi": "001010000000001"}, True),
    ({"imsi": "001010000000002"}, False),
    ({"address": IPv4Address("10.128.0.2")}, True),
    ({"address": IPv4Address("10.128.0.3")}, False),
    ({"address": IPv6Address("2001:db8:0:1::5")}, False),
    ({"teid": 1}, True),
    ({"teid": 4}, True),
    ({"teid": 9}, False),
    ({"apn": "soracom.io"}, True),
    ({"apn": "other"}, False),
    ({"access": "gtpv1"}, True),
    ({"access": "radius"}, False),
    ({"peer": PEER}, True),
    ({"peer": "operator-a"}, True),
    ({"peer": "operator-b"}, False),
    ({"peer": PEER, "apn": "other"}, False),
])  # fmt: skip
async def test_every_filter_that_is_given_must_fit(asked: dict[str, Any], is_wanted: bool) -> None:
    assert await ids([gateway(range(1, 2))], **asked) == ([1] if is_wanted else [], None)


@pytest.mark.parametrize(("pdn_type", "by_ipv4"), [(PdnType.IPV4V6, True), (PdnType.IPV6, False)])
def test_a_session_is_found_by_the_addresses_that_its_device_has(pdn_type: PdnType, by_ipv4: bool) -> None:
    session: Session = replace(session_of(sim_of(1)), pdn_type=pdn_type, ue_prefix=PREFIX)
    where = Searched({}, str)
    assert where.is_wanted(session, SessionQuery(address=IPv6Address("2001:db8:0:1::5")))
    assert where.is_wanted(session, SessionQuery(address=session.ue_address)) is by_ipv4


def test_a_session_without_a_tunnel_has_no_peer() -> None:
    session = replace(session_of(sim_of(1)), tunnel=None)
    assert not Searched({}, str).is_wanted(session, SessionQuery(peer=PEER))
    assert not Searched({}, str).is_wanted(session, SessionQuery(teid=1))
