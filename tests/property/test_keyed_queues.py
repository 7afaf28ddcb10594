"""Lanes against a stream that fails any record at any time."""

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.domain.message import StreamRecord
from core.ports.stream import PUT_BYTES_MAX, RECORD_BYTES_MAX, RECORDS_PER_PUT_MAX
from core.services.streaming.keyed_queues import RETRY_S_MAX, Entry, KeyedQueues, QueueRefusal

FAR = 1e9


def stored_by_key(stored: list[StreamRecord]) -> dict[str, list[int]]:
    by_key: dict[str, list[int]] = {}
    for record in stored:
        by_key.setdefault(record.partition_key, []).append(int(record.data))
    return by_key


def fail(rng: random.Random, batch: list[Entry[int]], failure: float, *, keeps_order: bool) -> list[str]:
    """What a stream says of a batch; where order is kept, what is behind a failure failed too."""
    errors = ["failed" if rng.random() < failure else "" for _ in batch]
    failed: set[str] = set()
    for n, entry in enumerate(batch):
        if keeps_order and entry.record.partition_key in failed:
            errors[n] = "failed"
        if errors[n]:
            failed.add(entry.record.partition_key)
    return errors


def run(
    queues: KeyedQueues[int], seed: int, keys: int, count: int, failure: float, *, keeps_order: bool = False
) -> None:
    """Offer, put in overlapping batches, fail at random; then check everything that queues promise."""
    rng = random.Random(seed)
    stored: list[StreamRecord] = []
    acknowledged: list[int] = []
    flying: list[list[Entry[int]]] = []
    offered: dict[str, list[int]] = {}
    now, next_number = 0.0, 0
    while next_number < count or queues.record_count:
        now += rng.random() * 0.2
        for _ in range(rng.randrange(8)):
            if next_number < count:
                key = f"k{rng.randrange(keys)}"
                if queues.offer(StreamRecord(key, b"%d" % next_number), next_number, deadline=FAR) is None:
                    offered.setdefault(key, []).append(next_number)
                    next_number += 1
        if batch := queues.next_batch(now):
            flying.append(batch)
        if flying and rng.random() < 0.7:
            batch = flying.pop(rng.randrange(len(flying)))
            errors = fail(rng, batch, failure, keeps_order=keeps_order)
            # the stream's own order of concurrent calls is that of their completion here
            stored += [e.record for e, error in zip(batch, errors, strict=True) if not error]
            done = {int(record.data) for record in stored}
            for entry in queues.settle(batch, errors, now):
                assert entry.token in done, "acknowledged before accepted"
                acknowledged.append(entry.token)
    assert stored_by_key(stored) == offered, "order, loss or duplicate"
    assert Counter(acknowledged) == Counter(range(count))
    assert (queues.record_count, queues.byte_count, queues.queue_count) == (0, 0, 0)
    assert queues.take_given_up() == []


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    keys=st.integers(1, 12),
    count=st.integers(0, 150),
    failure=st.floats(0, 0.8),
    keeps_order=st.booleans(),
)
def test_order_loss_and_acknowledgement(
    seed: int, keys: int, count: int, failure: float, keeps_order: bool
) -> None:
    run(KeyedQueues(keeps_order=keeps_order), seed, keys, count, failure, keeps_order=keeps_order)


def test_the_checker_sees_a_batch_reordered_by_partial_failure() -> None:
    with pytest.raises(AssertionError, match="order, loss or duplicate"):
        for seed in range(20):
            run(KeyedQueues(keeps_order=True), seed, 3, 100, 0.3)


def test_a_run_is_as_long_as_a_call() -> None:
    queues = KeyedQueues[int](keeps_order=True, key_records_max=2 * RECORDS_PER_PUT_MAX)
    for _ in range(RECORDS_PER_PUT_MAX + 7):
        offer(queues, "a")
    batch = queues.next_batch(0)
    assert len(batch) == RECORDS_PER_PUT_MAX
    assert queues.next_batch(0) == [], "a run at a time"
    queues.settle(batch, [""] * len(batch), 0)
    assert len(queues.next_batch(0)) == 7
    queues = KeyedQueues[int](keeps_order=True)
    for _ in range(6):
        offer(queues, "a", RECORD_BYTES_MAX - 1)
    assert len(queues.next_batch(0)) == PUT_BYTES_MAX // RECORD_BYTES_MAX


def offer(queues: KeyedQueues[int], key: str, size: int = 1, deadline: float = FAR) -> QueueRefusal | None:
    return queues.offer(StreamRecord(key, bytes(size)), 0, deadline=deadline)


def test_each_bound_is_reached() -> None:
    queues = KeyedQueues[int](key_records_max=2, records_max=3, bytes_max=10_000)
    assert offer(queues, "a") is None
    assert offer(queues, "a") is None
    assert offer(queues, "a") is QueueRefusal.KEY_FULL
    assert offer(queues, "b", 10_000) is QueueRefusal.FULL
    assert offer(queues, "b") is None
    assert offer(queues, "c") is QueueRefusal.FULL
    queues.settle(batch := queues.next_batch(0), [""] * len(batch), 0)
    assert offer(queues, "c") is None


def test_poison_is_refused_on_entry() -> None:
    queues = KeyedQueues[int]()
    assert offer(queues, "a", RECORD_BYTES_MAX) is QueueRefusal.TOO_LARGE
    assert offer(queues, "a", RECORD_BYTES_MAX - 1) is None
    assert queues.queue_count == 1


def test_a_batch_is_one_call() -> None:
    queues = KeyedQueues[int]()
    for n in range(RECORDS_PER_PUT_MAX + 7):
        offer(queues, f"k{n}")
    assert [len(queues.next_batch(0)) for _ in range(3)] == [RECORDS_PER_PUT_MAX, 7, 0]
    queues = KeyedQueues[int]()
    for n in range(12):
        offer(queues, f"k{n:02d}", 1_000_000)
    batches = [queues.next_batch(0) for _ in range(3)]
    assert [len(batch) for batch in batches] == [5, 5, 2]
    assert all(sum(entry.size for entry in batch) <= PUT_BYTES_MAX for batch in batches)


def test_a_failed_queue_pauses_and_others_go_on() -> None:
    queues = KeyedQueues[int]()
    offer(queues, "bad")
    offer(queues, "good")
    offer(queues, "good")
    queues.settle(queues.next_batch(0), ["failed", ""], 0)
    assert [entry.record.partition_key for entry in queues.next_batch(0)] == ["good"]
    assert queues.next_pause_end() == pytest.approx(0.05)
    now, pauses = 0.05, []
    for _ in range(2_000):
        batch = queues.next_batch(now)
        queues.settle(batch, ["failed"] * len(batch), now)
        end = queues.next_pause_end()
        assert end is not None
        pauses.append(end - now)
        now = end
    assert pauses[:3] == pytest.approx([0.1, 0.2, 0.4])
    assert max(pauses) == pytest.approx(RETRY_S_MAX)


def test_given_up_only_between_two_tries_and_what_is_behind_goes_on() -> None:
    queues = KeyedQueues[int]()
    offer(queues, "a", deadline=1.0)
    offer(queues, "a", deadline=9.0)
    batch = queues.next_batch(0)
    assert queues.next_batch(2.0) == []
    assert queues.take_given_up() == []
    queues.settle(batch, ["failed"], 2.0)
    second = queues.next_batch(3.0)
    assert second[0].deadline == 9.0
    assert queues.take_given_up() == batch
    queues.settle(second, ["failed"], 3.0)
    assert queues.next_batch(10.0) == []
    assert (queues.take_given_up(), queues.queue_count, queues.byte_count) == (second, 0, 0)


def test_clear_gives_everything_back() -> None:
    queues = KeyedQueues[int]()
    for key in "aab":
        offer(queues, key)
    queues.next_batch(0)
    assert len(queues.clear()) == 3
    assert (queues.record_count, queues.queue_count, queues.next_batch(0)) == (0, 0, [])
