"""What a virtual gateway lends: never twice, never at once again."""

from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.domain.pools import AddressPool, PoolExhausted, TeidPool


def test_an_address_rests_before_it_is_lent_again() -> None:
    pool = AddressPool(IPv4Network("10.0.0.0/30"), quarantine_s=60)
    only = pool.lease(now=0)
    assert only == IPv4Address("10.0.0.2")
    with pytest.raises(PoolExhausted):
        pool.lease(now=0)
    pool.release(only, now=10)
    with pytest.raises(PoolExhausted):
        pool.lease(now=69)
    assert pool.lease(now=70) == only


def test_a_claimed_address_is_not_lent() -> None:
    pool = AddressPool(IPv4Network("10.0.0.0/29"), quarantine_s=0)
    pool.claim(IPv4Address("10.0.0.3"))
    lent = {pool.lease(now=0) for _ in range(4)}
    assert IPv4Address("10.0.0.3") not in lent
    assert len(lent) == 4


def test_releasing_twice_does_not_lend_twice() -> None:
    pool = AddressPool(IPv4Network("10.0.0.0/30"), quarantine_s=0)
    address = pool.lease(now=0)
    pool.release(address, now=1)
    pool.release(address, now=1)
    assert pool.lease(now=2) == address
    with pytest.raises(PoolExhausted):
        pool.lease(now=3)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 20)), max_size=200))
def test_no_address_is_held_by_two(steps: list[tuple[bool, int]]) -> None:
    pool = AddressPool(IPv4Network("10.0.0.0/28"), quarantine_s=5)
    held: list[IPv4Address] = []
    now = 0.0
    for take, pick in steps:
        now += 1
        if take or not held:
            try:
                address = pool.lease(now)
            except PoolExhausted:
                continue
            assert address not in held
            held.append(address)
        else:
            pool.release(held.pop(pick % len(held)), now)
    assert pool.lent == len(held)


def test_teids_are_never_zero_nor_in_use_nor_at_rest() -> None:
    draws = iter([b"\0\0\0\0", b"\0\0\0\1", b"\0\0\0\1", b"\0\0\0\2", b"\0\0\0\1", b"\0\0\0\1"])
    pool = TeidPool(lambda _: next(draws), quarantine_s=60)
    assert pool.lease(now=0) == 1
    assert pool.lease(now=0) == 2
    pool.release(1, now=0)
    assert pool.lent == 1
    assert next(draws) == b"\0\0\0\1"
    assert pool.lease(now=61) == 1


def test_a_pool_that_only_draws_taken_teids_gives_up() -> None:
    pool = TeidPool(lambda _: b"\0\0\0\7", quarantine_s=60)
    assert pool.lease(now=0) == 7
    with pytest.raises(PoolExhausted):
        pool.lease(now=0)
