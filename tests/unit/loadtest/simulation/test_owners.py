"""The check of owners distinguishes two at a time from one after the other."""

import pytest

from core.adapters.store.memory import Disk, MemoryEngine
from core.adapters.store.wide_column import WideColumnStore
from loadtest.simulation.owners import OwnerWatch
from loadtest.simulation.virtual import VirtualClock

Told = list[tuple[str, dict[str, int]]]


@pytest.mark.parametrize(
    ("told", "are_two"),
    [
        ([("a", {"vg-1": 1}), ("b", {}), ("a", {"vg-1": 1})], False),
        ([("a", {"vg-1": 1}), ("b", {"vg-1": 2}), ("a", {}), ("a", {"vg-1": 3})], False),
        ([("a", {"vg-1": 1}), ("b", {"vg-1": 2}), ("a", {"vg-1": 1})], True),
        ([("a", {"vg-1": 1}), ("b", {"vg-1": 1})], True),
        ([("a", {"vg-1": 1}), ("b", {"vg-2": 1})], False),
    ],
)
def test_two_owners_are_told_from_one_after_the_other(told: Told, are_two: bool) -> None:
    clock = VirtualClock()
    store = WideColumnStore(engine=MemoryEngine(disk=Disk(), clock=clock), clock=clock)
    watch = OwnerWatch({}, "", (), store.leases)
    for name, fences in told:
        watch._handle(name, fences)
    assert bool(watch.two_owners) is are_two
    assert watch.looks == len(told)
