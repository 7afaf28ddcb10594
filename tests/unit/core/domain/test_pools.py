"""What a gateway instance allocates: never twice, never at once again."""

from ipaddress import IPv4Address, IPv4Network, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.domain.pools import AddressPool, PoolExhausted, TeidPool, UePrefixes


def pool_of(*blocks: str, quarantine_s: float = 0, opens: float = 0) -> AddressPool:
    pool = AddressPool(quarantine_s=quarantine_s)
    for block in blocks:
        pool.add(IPv4Network(block), opens)
    return pool


def test_an_address_rests_before_it_is_allocated_again() -> None:
    pool = pool_of("10.0.0.0/30", quarantine_s=60)
    only = pool.allocate(now=0)
    assert only == IPv4Address("10.0.0.2")
    with pytest.raises(PoolExhausted):
        pool.allocate(now=0)
    pool.release(only, now=10)
    with pytest.raises(PoolExhausted):
        pool.allocate(now=69)
    assert pool.allocate(now=70) == only


def test_a_claimed_address_is_not_allocated() -> None:
    pool = pool_of("10.0.0.0/29", quarantine_s=0)
    assert pool.claim(IPv4Address("10.0.0.3"), holder="somebody")
    allocated = {pool.allocate(now=0) for _ in range(4)}
    assert IPv4Address("10.0.0.3") not in allocated
    assert len(allocated) == 4


def test_releasing_twice_does_not_lend_twice() -> None:
    pool = pool_of("10.0.0.0/30", quarantine_s=0)
    address = pool.allocate(now=0)
    pool.release(address, now=1)
    pool.release(address, now=1)
    assert pool.allocate(now=2) == address
    with pytest.raises(PoolExhausted):
        pool.allocate(now=3)


def test_what_rests_is_claimed_by_whom_it_rests_for_alone() -> None:
    pool = pool_of("10.0.0.0/29", quarantine_s=60)
    address = pool.allocate(now=0)
    pool.release(address, now=1, holder="one")
    assert not pool.claim(address, holder="another")
    assert pool.claim(address, holder="one")
    assert not pool.claim(address, holder="one")
    pool.quarantine(IPv4Address("10.0.0.4"), now=1)
    assert not pool.claim(IPv4Address("10.0.0.4"), holder="one")
    assert pool.claim(IPv4Address("10.0.0.5"), holder="one")


def test_an_open_session_has_its_address_though_it_were_in_quarantine() -> None:
    pool = pool_of("10.0.0.0/29", quarantine_s=60)
    for address in (IPv4Address("10.0.0.2"), IPv4Address("10.0.0.3")):
        pool.quarantine(address, now=0)
        assert pool.reclaim(address)
        assert not pool.reclaim(address)
        pool.quarantine(address, now=0)
    allocated = {pool.allocate(now=100) for _ in range(3)}
    assert allocated == {IPv4Address(f"10.0.0.{host}") for host in (4, 5, 6)}
    with pytest.raises(PoolExhausted):
        pool.allocate(now=100)


@pytest.mark.parametrize("host", ["0", "1", "7", "8"])
def test_what_is_never_allocated_or_in_no_block_cannot_be_claimed(host: str) -> None:
    pool = pool_of("10.0.0.0/29")
    assert not pool.claim(IPv4Address(f"10.0.0.{host}"), holder="one")
    assert not pool.reclaim(IPv4Address(f"10.0.0.{host}"))
    pool.quarantine(IPv4Address(f"10.0.0.{host}"), now=0)
    assert (pool.allocated, pool.unused(now=0)) == (0, 5)


def test_a_block_is_allocated_from_when_it_opens_and_claimed_before() -> None:
    pool = pool_of("10.0.0.0/29", opens=100, quarantine_s=10)
    with pytest.raises(PoolExhausted):
        pool.allocate(now=99)
    assert pool.claim(IPv4Address("10.0.0.3"), holder="one")
    pool.add(IPv4Network("10.0.1.0/29"), opens=50)
    assert {pool.allocate(now=99) for _ in range(5)} == {
        IPv4Address(f"10.0.1.{host}") for host in range(2, 7)
    }
    assert pool.empty_blocks(now=99) == []
    assert [pool.allocate(now=100) for _ in range(4)] == [
        IPv4Address(f"10.0.0.{host}") for host in (2, 4, 5, 6)
    ]
    assert pool.unused(now=100) == 0


def test_a_block_goes_when_everything_of_it_has_rested() -> None:
    first, second = IPv4Network("10.0.0.0/29"), IPv4Network("10.0.1.0/30")
    pool = pool_of(str(first), str(second), quarantine_s=10)
    addresses = [pool.allocate(now=0) for _ in range(6)]
    assert addresses[5] == second[2]
    for address in addresses:
        pool.release(address, now=1)
    assert pool.empty_blocks(now=10) == []
    assert set(pool.empty_blocks(now=11)) == {first, second}
    pool.remove(first)
    assert (set(pool.blocks), pool.unused(now=11)) == ({second}, 1)
    assert pool.allocate(now=11) == second[2]
    assert not pool.claim(first[2], holder="one")


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 20)), max_size=200))
def test_no_address_is_held_by_two(steps: list[tuple[bool, int]]) -> None:
    pool = pool_of("10.0.0.0/28", quarantine_s=5)
    held: list[IPv4Address] = []
    now = 0.0
    for take, pick in steps:
        now += 1
        if take or not held:
            try:
                address = pool.allocate(now)
            except PoolExhausted:
                continue
            assert address not in held
            held.append(address)
        else:
            pool.release(held.pop(pick % len(held)), now)
    assert pool.allocated == len(held)


def test_teids_are_never_zero_nor_in_use_nor_in_quarantine() -> None:
    draws = iter([b"\0\0\0\0", b"\0\0\0\1", b"\0\0\0\1", b"\0\0\0\2", b"\0\0\0\1", b"\0\0\0\1"])
    pool = TeidPool(lambda _: next(draws), quarantine_s=60)
    assert pool.allocate(now=0) == 1
    assert pool.allocate(now=0) == 2
    pool.release(1, now=0)
    assert pool.allocated == 1
    assert next(draws) == b"\0\0\0\1"
    assert pool.allocate(now=61) == 1


def test_a_pool_that_only_draws_taken_teids_gives_up() -> None:
    pool = TeidPool(lambda _: b"\0\0\0\7", quarantine_s=60)
    assert pool.allocate(now=0) == 7
    with pytest.raises(PoolExhausted):
        pool.allocate(now=0)


def test_a_teid_in_quarantine_is_not_allocated_and_an_open_session_has_its_own() -> None:
    draws = iter([b"\0\0\0\1", b"\0\0\0\2", b"\0\0\0\1"])
    pool = TeidPool(lambda _: next(draws), quarantine_s=60)
    pool.quarantine(1, now=0)
    assert pool.allocate(now=59) == 2
    assert pool.allocate(now=60) == 1
    pool.release(1, now=60)
    pool.reclaim(1)
    pool.quarantine(1, now=61)
    assert pool.allocated == 2


def test_the_nth_address_has_the_nth_prefix_and_a_block_all_of_its_own() -> None:
    prefixes = UePrefixes(((IPv4Network("10.128.0.0/9"), IPv6Network("2001:db8::/32")),))
    assert prefixes.of(IPv4Address("10.128.0.0")) == IPv6Network("2001:db8::/64")
    assert prefixes.of(IPv4Address("10.128.1.2")) == IPv6Network("2001:db8:0:102::/64")
    block = prefixes.around(IPv4Network("10.128.4.0/22"))
    assert block == IPv6Network("2001:db8:0:400::/54")
    last = prefixes.of(IPv4Address("10.128.7.255"))
    assert block is not None
    assert last is not None
    assert last.subnet_of(block)
    assert prefixes.of(IPv4Address("192.0.2.1")) is None
