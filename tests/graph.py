"""The graph of imports between rooms, from the code, and its pictures in docs/ARCHITECTURE.md.

``python -m tests.graph`` redraws the pictures; ``tests/test_graph.py`` compares them.
"""

import ast
import re
from collections.abc import Iterator, Mapping
from functools import partial
from graphlib import TopologicalSorter
from pathlib import Path

from tests.sources import ROOT, nodes

PAGE = ROOT / "docs" / "ARCHITECTURE.md"
FOLDERS = ("loadtest", "airloom", "api", "billing", "gtp", "mqtt_bridge", "radius", "core")
PICTURES = {
    "folders": FOLDERS,
    "core/services": tuple(
        f"core.services.{folder.parent.name}"
        for folder in sorted((ROOT / "core" / "services").glob("*/__init__.py"))
    ),
}
"""Name of each picture, and its rooms."""

Arrows = Mapping[str, frozenset[str]]
"""Each room, and the rooms that it imports."""


def _imported(source: Path) -> Iterator[str]:
    """Every module that a file imports; ``from a import b`` may mean the module ``a.b``."""
    for node in nodes(source):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def arrows(rooms: tuple[str, ...]) -> Arrows:
    """Which of these packages imports which, in any of its modules and anywhere within them."""
    return {
        room: frozenset(
            other
            for source in ROOT.joinpath(*room.split(".")).rglob("*.py")
            for module in _imported(source)
            for other in rooms
            if other != room and f"{module}.".startswith(f"{other}.")
        )
        for room in rooms
    }


def levels(graph: Arrows) -> list[list[str]]:
    """From what nothing imports down to what imports nothing; raises ``graphlib.CycleError`` for a circle."""
    height: dict[str, int] = {}
    for room in TopologicalSorter(graph).static_order():
        height[room] = 1 + max((height[other] for other in graph[room]), default=-1)
    heights = sorted(set(height.values()), reverse=True)
    return [sorted(room for room in graph if height[room] == each) for each in heights]


def picture(rooms: tuple[str, ...]) -> str:
    """One line for each room: its level, its name and what it imports."""
    graph = arrows(rooms)
    width = max(len(_short(room)) for room in rooms)
    lines = []
    from_top = levels(graph)
    for depth, level in enumerate(from_top):
        for place, room in enumerate(level):
            targets = ", ".join(_short(other) for other in rooms if other in graph[room])
            named = f"{'' if place else len(from_top) - depth:<3}{_short(room):<{width}}"
            lines.append(f"{named} → {targets}" if targets else named.rstrip())
    return "\n".join(lines)


def _short(room: str) -> str:
    return room.rpartition(".")[2]


def redrawn(page: str) -> str:
    """The page with every picture as the code gives it; raises ``ValueError`` for one without its place."""
    for name, rooms in PICTURES.items():
        place = re.compile(rf"(<!-- drawn: {re.escape(name)} -->\n```\n).*?(\n```\n)", re.DOTALL)
        if not place.search(page):
            raise ValueError(f"no place for the picture {name}: <!-- drawn: {name} --> and a block of code")
        page = place.sub(partial(_put, picture(rooms)), page)
    return page


def _put(drawn: str, found: re.Match[str]) -> str:
    return f"{found[1]}{drawn}{found[2]}"


if __name__ == "__main__":
    PAGE.write_text(redrawn(PAGE.read_text()))
