"""What many sessions have in common, kept once."""

from core.domain.session import Location
from core.services.sessions.interning import COMMON_MAX, Interning


def test_equal_values_become_one_also_those_that_are_empty() -> None:
    interning = Interning()
    for make in (lambda: Location("44010"), tuple[str, ...], lambda: ("100.127.0.53",)):
        first = interning.same(make())
        assert interning.same(make()) is first == make()


def test_beyond_its_bound_it_learns_afresh() -> None:
    interning = Interning()
    first = interning.same(Location("0"))
    for number in range(1, COMMON_MAX):
        interning.same(Location(str(number)))
    assert interning.same(Location("0")) is first
    interning.same(Location("one more"))
    assert interning.same(Location("0")) is not first
    assert len(interning._values) == 2
