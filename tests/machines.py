"""The tables of all state machines, and their diagrams in docs/machines.md.

``python -m tests.machines`` redraws the diagrams; ``tests/test_machines.py`` compares them.
"""

import re
from collections.abc import Iterator, Mapping
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any

from core.domain.machine import Table
from core.domain.session_life import LIFE
from core.domain.sim import TRANSITIONS as SIM
from core.services.cluster.lease_states import LEASES
from gtp.contexts import TRANSITIONS as CONTEXTS
from gtp.path import PATHS
from gtp.restart import RESTARTS
from mqtt_bridge.mqtt.states import CONNECTION

PAGE = Path(__file__).resolve().parent.parent / "docs" / "machines.md"
MACHINES: Mapping[str, Table[Any, Any, Any]] = {
    "sim": SIM,
    "session": LIFE,
    "context": CONTEXTS,
    "path": PATHS,
    "restart": RESTARTS,
    "lease": LEASES,
    "mqtt": CONNECTION,
}
"""By the name of the diagram. A table begins with the state in which its machine begins."""


def diagram(table: Table[Any, Any, Any]) -> str:
    """A state diagram for Mermaid, with one arrow for all events that lead from one state to another."""
    return "\n".join(["stateDiagram-v2", *(f"    {line}" for line in _lines(table))])


def _lines(table: Table[Any, Any, Any]) -> Iterator[str]:
    yield f"[*] --> {next(iter(table)).name}"
    for state, row in table.items():
        arrows: dict[Enum, list[str]] = {}
        for event, (following, action) in row.items():
            label = event.name if action is None else f"{event.name} / {action.value}"
            arrows.setdefault(following, []).append(label)
        for following, labels in arrows.items():
            yield f"{state.name} --> {following.name}: {'<br/>'.join(labels)}"
        if arrows.keys() <= {state}:
            yield f"{state.name} --> [*]"


def redrawn(page: str) -> str:
    """The page with every diagram as the tables give it; raises ``ValueError`` for one without its place."""
    for name, table in MACHINES.items():
        place = re.compile(rf"(<!-- drawn: {name} -->\n```mermaid\n).*?(```\n)", re.DOTALL)
        if not place.search(page):
            raise ValueError(
                f"no place for the diagram {name}: <!-- drawn: {name} --> and a block of mermaid"
            )
        page = place.sub(partial(_put, diagram(table)), page)
    return page


def _put(drawn: str, found: re.Match[str]) -> str:
    return f"{found[1]}{drawn}\n{found[2]}"


if __name__ == "__main__":
    PAGE.write_text(redrawn(PAGE.read_text()))
