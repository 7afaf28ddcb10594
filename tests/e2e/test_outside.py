"""What outsiders found, tried again by code that shares nothing with the product: the quick tries.

`./run prove outside` runs all of them.
"""

from pathlib import Path

import pytest

from loadtest.outside.place import Place
from loadtest.outside.tries import ROOT, TRIES

QUICK = (
    "gtp-restart-counter-back",
    "H4-foreign-handover",
    "gtp-name-servers-beside-unknown",
    "gtp-second-source",
    "radius-unproved-is-rejected",
    "H8-other-nas",
    "radius-one-number-two-nases",
    "edge-empty-mqtt-payload",
    "edge-expect-continue",
    "H2-flipped-bit",
    "M1-token-outlives-nothing",
    "M5-file-modes",
)

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize("name", QUICK)
def test_it_holds(name: str, tmp_path: Path) -> None:
    outcome = TRIES[name](Place(ROOT, tmp_path, 100 + QUICK.index(name)))
    assert outcome["ok"], str(outcome)
