"""Imports run down from folder to folder, without a circle; docs/ARCHITECTURE.md shows them as they are."""

from graphlib import CycleError
from pathlib import Path

import pytest

from tests import graph
from tests.sources import ROOT

LEVELS = [{"loadtest"}, {"airloom"}, {"api", "billing", "gtp", "mqtt_bridge", "radius"}, {"core"}]
"""From the roof to the ground; what stands on one level does not see each other."""


def test_every_package_of_the_tree_has_its_level() -> None:
    packages = {folder.parent.name for folder in ROOT.glob("*/__init__.py")} - {"tests"}
    assert packages == set.union(*LEVELS) == set(graph.FOLDERS)


def test_no_arrow_between_folders_runs_up_or_aside() -> None:
    level = {folder: number for number, folders in enumerate(LEVELS) for folder in folders}
    wrong = [
        f"{folder} imports {other}"
        for folder, others in graph.arrows(graph.FOLDERS).items()
        for other in others
        if level[other] <= level[folder]
    ]
    assert wrong == []


@pytest.mark.parametrize("name", graph.PICTURES)
def test_no_circle(name: str) -> None:
    rooms = graph.PICTURES[name]
    try:
        assert {room for level in graph.levels(graph.arrows(rooms)) for room in level} == set(rooms)
    except CycleError as error:
        pytest.fail(f"these import each other in a circle: {' → '.join(error.args[1])}")


def test_the_architecture_page_shows_what_the_code_imports() -> None:
    page = graph.PAGE.read_text()
    assert graph.redrawn(page) == page, "`python -m tests.graph` redraws it"


def test_a_room_that_is_imported_anywhere_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "ROOT", tmp_path)
    for folder in ("roof", "ground/deep", "beside"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "roof" / "a.py").write_text("def late() -> None:\n    from ground.deep import stone\n")
    (tmp_path / "ground" / "deep" / "stone.py").write_text("import besides\n")
    (tmp_path / "beside" / "b.py").write_text("import ground\n")
    found = graph.arrows(("roof", "ground", "beside"))
    assert found == {"roof": {"ground"}, "ground": frozenset(), "beside": {"ground"}}
    assert graph.levels(found) == [["beside", "roof"], ["ground"]]


def test_a_circle_is_found() -> None:
    with pytest.raises(CycleError):
        graph.levels({"a": frozenset({"b"}), "b": frozenset({"a"})})
