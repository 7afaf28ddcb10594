"""A gateway with many sessions is killed under traffic: a share of `./run prove gateway`."""

import pytest

from loadtest.proofs.prove import prove_gateway


@pytest.mark.e2e
@pytest.mark.root
@pytest.mark.program("ip")
def test_a_killed_gateway_comes_back_whole_and_traffic_goes_on_without_signalling() -> None:
    finding = prove_gateway(3, seed=11, sessions=2_000)
    assert finding["is_whole"], finding  # how fast is for `./run prove`: tests may share a machine
    assert finding["sessions_stored"] == finding["devices_reached"] == 2_000
