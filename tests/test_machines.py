"""Every state machine is a whole table, and docs/machines.md shows it as it is."""

import ast
from collections.abc import Iterator
from enum import Enum
from typing import Any

import pytest

from core.domain.machine import Table
from tests import machines
from tests.sources import ROOT, tree

PACKAGES = sorted(each.parent.name for each in ROOT.glob("*/__init__.py") if each.parent.name != "tests")


class Light(Enum):
    RED = "red"
    GREEN = "green"
    DARK = "dark"


class Happening(Enum):
    WAIT = "wait"
    PRESS = "press"
    BREAK = "break"


class Deed(Enum):
    RING = "ring the bell"


def test_the_page_shows_the_tables() -> None:
    page = machines.PAGE.read_text()
    assert machines.redrawn(page) == page, "`python -m tests.machines` redraws it"


@pytest.mark.parametrize("name", machines.MACHINES)
def test_every_state_has_its_row_and_can_be_reached(name: str) -> None:
    table = machines.MACHINES[name]
    first = next(iter(table))
    states: Any = type(first)
    assert set(table) == set(states)
    reached, ahead = {first}, [first]
    while ahead:
        new = {following for following, _ in table[ahead.pop()].values()} - reached
        reached |= new
        ahead += new
    assert reached == set(table)


def _tables() -> Iterator[str]:
    """Module and name of everything that is declared as a ``Table``."""
    for package in PACKAGES:
        for source in sorted((ROOT / package).rglob("*.py")):
            module = ".".join(source.relative_to(ROOT).with_suffix("").parts)
            for node in tree(source).body:
                if isinstance(node, ast.AnnAssign) and ast.unparse(node.annotation).startswith("Table["):
                    yield f"{module}.{ast.unparse(node.target)}"


def test_every_table_is_drawn() -> None:
    assert len(list(_tables())) == len(machines.MACHINES), sorted(_tables())


def test_a_diagram_has_one_arrow_for_two_states() -> None:
    table: Table[Light, Happening, Deed] = {
        Light.RED: {Happening.PRESS: (Light.GREEN, Deed.RING), Happening.WAIT: (Light.GREEN, None)},
        Light.GREEN: {Happening.PRESS: (Light.RED, None), Happening.BREAK: (Light.DARK, None)},
        Light.DARK: {Happening.WAIT: (Light.DARK, None)},
    }
    assert machines.diagram(table).splitlines() == [
        "stateDiagram-v2",
        "    [*] --> RED",
        "    RED --> GREEN: PRESS / ring the bell<br/>WAIT",
        "    GREEN --> RED: PRESS",
        "    GREEN --> DARK: BREAK",
        "    DARK --> DARK: WAIT",
        "    DARK --> [*]",
    ]


def test_a_diagram_without_its_place_is_told() -> None:
    with pytest.raises(ValueError, match="no place for the diagram sim"):
        machines.redrawn("# State machines\n")
