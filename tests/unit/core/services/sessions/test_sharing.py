"""What many sessions have in common, kept once."""

from core.domain.session import Location
from core.services.sessions.sharing import COMMON_MAX, Sharing


def test_equal_values_become_one_also_those_that_are_empty() -> None:
    sharing = Sharing()
    for make in (lambda: Location("44010"), tuple[str, ...], lambda: ("100.127.0.53",)):
        first = sharing.same(make())
        assert sharing.same(make()) is first == make()


def test_beyond_its_bound_it_learns_afresh() -> None:
    sharing = Sharing()
    first = sharing.same(Location("0"))
    for number in range(1, COMMON_MAX):
        sharing.same(Location(str(number)))
    assert sharing.same(Location("0")) is first
    sharing.same(Location("one more"))
    assert sharing.same(Location("0")) is not first
    assert len(sharing._values) == 2
