"""What an access point gives to whom asks for more than it has."""

import pytest

from core.domain.apn import Apn
from core.domain.session import PdnType

V4, V6, BOTH = PdnType


@pytest.mark.parametrize(
    ("offered", "asked", "granted"),
    [
        ({V4}, BOTH, V4),
        ({V6}, BOTH, V6),
        ({V4, V6}, BOTH, V4),
        ({V4, V6, BOTH}, BOTH, BOTH),
        ({V4, V6, BOTH}, V6, V6),
        ({V4}, V6, None),
        ({V6}, V4, None),
    ],
)
def test_the_nearest_of_what_was_asked_for(
    offered: set[PdnType], asked: PdnType, granted: PdnType | None
) -> None:
    assert Apn("internet", frozenset(offered)).grant(asked) is granted
