"""docs/api.md lists what is offered."""

import re
from pathlib import Path

from api.errors import FAULTS, INTERNAL, METHOD_NOT_ALLOWED, UNAVAILABLE, UNREADABLE
from api.routes import ROUTES, SANDBOX_ROUTES
from core.services.customers.guesses import BOUNDS

PAGE = Path(__file__).parents[3] / "docs" / "api.md"
ROW = re.compile(r"^\| `(\w+)` \| `([A-Z]+) /v1(\S+)` \| (.+) \|$", re.MULTILINE)


def test_the_page_lists_each_operation_with_its_parameters() -> None:
    listed = [
        (name, method, path, tuple(re.findall(r"`(\w+)`", query)))
        for name, method, path, query in ROW.findall(PAGE.read_text())
    ]
    offered = [(r.operation_id, r.method, r.path, r.query) for r in (*ROUTES, *SANDBOX_ROUTES)]
    assert listed == offered


def test_the_page_lists_each_code_with_its_status() -> None:
    page = PAGE.read_text().split("\n## Errors\n")[1].split("\n## ")[0]
    listed = re.findall(r"^\| ([A-Z]+\d+) \| (\d+) \|", page, re.MULTILINE)
    faults = (*FAULTS.values(), UNREADABLE, METHOD_NOT_ALLOWED, UNAVAILABLE, INTERNAL)
    assert sorted(listed) == sorted((fault.code, str(fault.status)) for fault in faults)


def test_the_page_on_credentials_has_the_bounds_of_wrong_tries() -> None:
    page = (PAGE.parent / "accounts.md").read_text().split("| what is guessed |")[1]
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in page.splitlines()[2:6]]
    assert {name.replace(" ", "_"): cells for name, *cells in rows} == {
        guess.value: [
            f"{bounds[of].tries}, then one each {bounds[of].again_s:g} s" if of in bounds else ""
            for of in ("both", "name", "source")
        ]
        for guess, bounds in BOUNDS.items()
    }
