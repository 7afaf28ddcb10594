"""docs/api.md lists what is offered."""

import re
from pathlib import Path

from core.api.routes import ROUTES, SANDBOX_ROUTES

PAGE = Path(__file__).parents[2] / "docs" / "api.md"
ROW = re.compile(r"^\| `(\w+)` \| `([A-Z]+) /v1(\S+)` \| (.+) \|$", re.MULTILINE)


def test_the_page_lists_each_operation_with_its_parameters() -> None:
    listed = [
        (name, method, path, tuple(re.findall(r"`(\w+)`", query)))
        for name, method, path, query in ROW.findall(PAGE.read_text())
    ]
    offered = [(r.operation_id, r.method, r.path, r.query) for r in (*ROUTES, *SANDBOX_ROUTES)]
    assert listed == offered
