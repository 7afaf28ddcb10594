"""Mutated messages at a served gateway; a share of `./run prove hostile`."""

import asyncio
import random

import pytest

from loadtest.proofs.hostile import HostileFinding, attack, mutate


@pytest.mark.e2e
def test_mutated_messages_crash_nothing_and_good_peers_are_answered() -> None:
    finding = asyncio.run(attack(messages=40_000, seed=7))
    assert finding.ok, finding


def test_a_mutation_is_by_seed_and_fits_a_datagram() -> None:
    message = bytes.fromhex("3210000c0000000000010000") + bytes(100)
    broken = [mutate(message, message, random.Random(seed)) for seed in range(200)]
    assert broken == [mutate(message, message, random.Random(seed)) for seed in range(200)]
    assert sum(each != message for each in broken) > 180
    assert max(map(len, broken)) <= 1_500


@pytest.mark.parametrize(
    "fault",
    [
        {"ended": 1},
        {"said": "Traceback"},
        {"unanswered_echoes": 1},
        {"good_answered": 9},
        {"rss_mib": [1.0, 99.0]},
    ],
)
def test_a_run_in_which_anything_fails_is_not_ok(fault: dict[str, object]) -> None:
    good = {"good_sent": 10, "good_answered": 10, "good_attached": 1, "rss_mib": [1.0, 2.0]}
    assert HostileFinding(**good).ok  # type: ignore[arg-type]  # by name
    assert not HostileFinding(**(good | fault)).ok  # type: ignore[arg-type]  # by name
