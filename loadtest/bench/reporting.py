"""How every benchmark shows what it measured: a line for each row, and with ``--json`` one object last.

A row has ``name``, ``ours``, ``peer``, ``unit``, ``ratio``, ``floor`` and ``ok``, which is ``None`` if
the row has a floor and was not measured.
"""

import json as json_
from collections.abc import Callable, Sequence
from typing import Any

from loadtest.bench.machine import machine

Row = dict[str, Any]


def report(
    bench: str, rows: Sequence[Row], line: Callable[[Row], str], *, json: bool, **beside: object
) -> dict[str, Any]:
    """Print, and return ``{"bench", "machine", "rows", "ok"}`` with what else is given. ``ok`` is ``None`` if
    a row with a floor was not measured; rows without a floor have no verdict.
    """
    verdicts = [row["ok"] for row in rows if row["floor"] is not None]
    ok = None if None in verdicts else all(verdicts)
    result = {"bench": bench, "machine": machine(), **beside, "rows": rows, "ok": ok}
    for row in rows:
        print(line(row))
    if json:
        print(json_.dumps(result))
    return result
