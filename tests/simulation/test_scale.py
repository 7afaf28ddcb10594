"""Many nodes over one store: a share of `./run prove scale`."""

from loadtest.proofs.scale import FAULTS, Fleet, simulate_fleet

SMALL = Fleet(nodes=6, gateways=60, zones=1)


def test_many_nodes_fail_and_every_gateway_has_one_owner() -> None:
    finding = simulate_fleet(SMALL, seed=1, faults=len(FAULTS))
    assert finding.ok, finding.as_dict()
    held = SMALL.gateways // SMALL.nodes
    assert finding.most_taken_by_one <= 0.4 * held, "5 survivors share what one held"
    assert finding.quiet_reads_per_s < 6 * SMALL.gateways, "all nodes together read a lease as often as one"
    assert finding.conflicts < 20, "they take turns"


def test_a_lost_zone_comes_back_and_the_same_seed_is_the_same_run() -> None:
    fleet = Fleet(nodes=4, gateways=8, zones=2)
    first, again = (simulate_fleet(fleet, seed=3, faults=2, is_zone_lost=True) for _ in range(2))
    assert first.ok, first.as_dict()
    assert len(first.gaps_s["zone lost"]) == fleet.gateways // fleet.zones
    assert first.as_dict() == again.as_dict()
