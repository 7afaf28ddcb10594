"""The benchmark of neighbours: what it counts, and what it compares."""

from collections import Counter

from loadtest.bench.neighbours import QUIET, Figures, row_of
from loadtest.outside.tries_edge import greedy_question


def figures(*p99_ms: float, **not_accepted: int) -> Figures:
    found = Figures(p50_ms=list(p99_ms), p99_ms=list(p99_ms), max_ms=max(p99_ms), attaches=200)
    found.not_accepted = Counter(not_accepted)
    return found


def test_a_row_is_the_median_of_its_rounds_by_the_quiet_one_and_fails_where_an_attach_did() -> None:
    quiet = figures(10.0, 90.0, 11.0)
    row = row_of("dns", {"now": {QUIET: quiet, "dns": figures(20.0, 21.0, 1.0)}})
    assert (row["now"]["quiet_p99_ms"], row["now"]["p99_ms"]) == (11.0, 20.0)
    assert (row["ratio"], row["ok"]) == (1.82, True)
    assert not row_of("dns", {"now": {QUIET: quiet, "dns": figures(22.0)}})["ok"]
    assert not row_of("dns", {"now": {QUIET: quiet, "dns": figures(11.0, refused=1)}})["ok"]


def test_the_device_asks_43_questions_in_a_datagram() -> None:
    assert int.from_bytes(greedy_question()[4:6], "big") == 43
