"""What the API says of a session: where it is, and by which address it is reached."""

from collections.abc import Mapping
from ipaddress import IPv6Network

import pytest

from api.views import cell_view, session_event_view, session_status_view
from core.adapters.store.rows import body_of, entity_of
from core.domain.session import Cell, Location, PdnType, Session
from core.domain.values import replace
from tests.contract.stores import event_of, session_of, sim_of

PREFIX = IPv6Network("2001:db8::/64")


@pytest.mark.parametrize(
    ("location", "told"),
    [
        (
            Location("44010", "LTE", "", Cell(440, 10, tac=7, eci=99)),
            {"tac": 7, "eci": 99, "radioType": "LTE"},
        ),
        (Location("44010", "HSPA", "", Cell(440, 10, lac=1, ci=2)), {"lac": 1, "ci": 2, "radioType": "3G"}),
        (Location("44010", "NB-IoT"), {"radioType": "NB-IoT"}),
        (Location("44010", "LTE-M"), {"radioType": "LTE-M"}),
        (Location("44010", "WLAN"), {}),
        (Location("44010", "", "0044f00100010002"), {"lac": 1, "ci": 2}),
        (Location("44010", "", "0144f00100010002"), {"lac": 1, "sac": 2}),
        (Location("44010", "", "0244f001000107ff"), {"lac": 1, "rac": 7}),
        (Location("44010", "", "8244f00100010244f00100000063"), {}),
        (Location("44010", "", "00"), {}),
    ],
)
def test_a_cell_is_told_in_the_contracts_words(location: Location, told: Mapping[str, object]) -> None:
    assert cell_view(location) == {"mcc": 440, "mnc": 10, **told}


def test_nowhere_is_no_cell() -> None:
    assert cell_view(Location()) is None


@pytest.mark.parametrize(
    ("pdn_type", "shown"),
    [(PdnType.IPV4, "10.128.0.2"), (PdnType.IPV4V6, "10.128.0.2"), (PdnType.IPV6, "2001:db8::/64")],
)
def test_a_session_is_told_by_an_address_that_reaches_it(pdn_type: PdnType, shown: str) -> None:
    sim = sim_of(1)
    session = replace(session_of(sim), pdn_type=pdn_type, ue_prefix=PREFIX)
    assert session_status_view(sim, [session])["ueIpAddress"] == shown
    event = replace(event_of(sim), ue_address=session.shown_address)
    assert session_event_view(sim, event)["ueIpAddress"] == shown


def test_a_cell_is_stored_with_its_session() -> None:
    location = Location("44010", "LTE", "00", Cell(440, 10, tac=7, eci=99), "+09:00")
    session = replace(session_of(sim_of(1)), location=location)
    assert entity_of(body_of(session).encode(), Session) == session
