"""Where a device is, as each version says it: whole, broken, and too long."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.domain.session import NOWHERE, Cell, Location
from core.domain.values import replace
from gtp import values

PLMN = "44f001"
JAPAN = Cell(mcc=440, mnc=10)


@pytest.mark.parametrize(
    ("octets", "cell"),
    [
        (f"00{PLMN}00010002", replace(JAPAN, lac=1, ci=2)),
        (f"01{PLMN}00010002", replace(JAPAN, lac=1, sac=2)),
        (f"02{PLMN}000107ff", replace(JAPAN, lac=1, rac=7)),
        (f"00{PLMN}00010002ffff", replace(JAPAN, lac=1, ci=2)),
        ("0013006200010002", Cell(310, 260, lac=1, ci=2)),
        (f"03{PLMN}00010002", None),
        (f"00{PLMN}000100", None),
        ("00ffffff00010002", None),
        ("", None),
    ],
)
def test_version_1_names_a_cell_a_service_area_or_a_routing_area(octets: str, cell: Cell | None) -> None:
    assert values.decode_cell_v1(bytes.fromhex(octets)) == cell


@pytest.mark.parametrize(
    ("octets", "cell"),
    [
        (f"01{PLMN}00010002", replace(JAPAN, lac=1, ci=2)),
        (f"02{PLMN}00010002", replace(JAPAN, lac=1, sac=2)),
        (f"04{PLMN}000107ff", replace(JAPAN, lac=1, rac=7)),
        (f"18{PLMN}0001{PLMN}f0000002", replace(JAPAN, tac=1, eci=2)),
        (f"08{PLMN}0003", replace(JAPAN, tac=3)),
        (f"10{PLMN}0fffffff", replace(JAPAN, eci=0x0FFFFFFF)),
        (f"20{PLMN}0009", replace(JAPAN, lac=9)),
        (f"1f{PLMN}00010002{PLMN}00010003{PLMN}000107ff{PLMN}0004{PLMN}00000005",
         Cell(440, 10, lac=1, ci=2, sac=3, rac=7, tac=4, eci=5)),
        (f"18{PLMN}0001{PLMN}f00000", replace(JAPAN, tac=1)),  # the second is cut off
        (f"18{PLMN}00", None),
        ("18ffffff0001ffffff00000002", None),
        (f"c0{PLMN}000001", None),  # only what is not read
        ("00", None),
        ("", None),
    ],
)  # fmt: skip
def test_version_2_names_several_at_once(octets: str, cell: Cell | None) -> None:
    assert values.decode_cell_v2(bytes.fromhex(octets)) == cell


@pytest.mark.parametrize(
    ("octets", "zone"),
    [
        ("6300", "+09:00"),
        ("0000", "+00:00"),
        ("8200", "+07:00"),
        ("0a01", "-05:00"),
        ("22", "+05:30"),
        ("3200", "+05:45"),
        ("f300", ""),
        ("9f00", "-19:45"),
        ("", ""),
    ],
)
def test_time_zones_are_quarters_of_hours(octets: str, zone: str) -> None:
    assert values.decode_time_zone(bytes.fromhex(octets)) == zone


@pytest.mark.parametrize(
    ("octets", "rat"), [("06", "LTE"), ("02", "GSM"), ("08", "NB-IoT"), ("09", "LTE-M"), ("ff", ""), ("", "")]
)
def test_radio_technologies_have_names(octets: str, rat: str) -> None:
    assert values.decode_rat(bytes.fromhex(octets)) == rat


def locate(serving_network: bytes, user_location: bytes) -> Location:
    return values.locate(values.decode_cell_v2, serving_network, b"", user_location, b"")


def test_the_serving_network_counts_before_that_of_the_cell() -> None:
    uli = bytes.fromhex(f"08{PLMN}0003")
    assert locate(bytes.fromhex("130062"), uli).plmn == "310260"
    assert locate(b"", uli).plmn == "44010"
    assert locate(b"", b"") == NOWHERE


def test_a_location_keeps_what_is_not_told_anew() -> None:
    known = Location("44010", "LTE", "08", replace(JAPAN, tac=3), "+09:00")
    assert known.moved(NOWHERE) == known
    moved = known.moved(Location(plmn="310260", user_location="ff"))
    assert moved == Location("310260", "LTE", "ff", None, "+09:00")


@given(st.binary(max_size=300), st.binary(max_size=4))
def test_any_octets_are_a_place_or_none(octets: bytes, short: bytes) -> None:
    values.decode_cell_v1(octets)
    assert len(locate(short, octets).user_location) <= 2 * values.USER_LOCATION_OCTETS_MAX
    assert len(values.decode_time_zone(short)) in (0, 6)
    values.decode_rat(short)


@pytest.mark.parametrize(
    ("seconds", "octet"),
    [(0.5, 0x01), (10, 0x05), (62, 0x1F), (63, 0x22), (1_860, 0x3F), (1_861, 0x44), (20_000, 0x66),
     (111_601, 0x84), (1_116_000, 0x9F), (1e9, 0x9F)],
)  # fmt: skip
def test_a_back_off_is_told_in_the_smallest_unit_that_it_fits_in(seconds: float, octet: int) -> None:
    assert values.encode_back_off(seconds) == bytes((octet,))
