"""Every try by its name, and one run of some."""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from loadtest.folders import temporary_folder
from loadtest.outside import tries_api, tries_edge, tries_gtp, tries_radius
from loadtest.outside.place import Outcome, Place

ROOT = Path(__file__).resolve().parent.parent.parent
TRIES: Mapping[str, Callable[[Place], Outcome]] = {
    **tries_gtp.TRIES,
    **tries_radius.TRIES,
    **tries_edge.TRIES,
    **tries_api.TRIES,
}


def run(tree: Path, names: Sequence[str]) -> dict[str, Any]:
    """One after the other, each on a node of its own; a line for each on stderr."""
    found: dict[str, Any] = {}
    for name in names:
        began = time.monotonic()
        with temporary_folder("outside") as folder:
            place = Place(tree.resolve(), folder, list(TRIES).index(name))
            try:
                outcome = TRIES[name](place)
            except Exception as error:
                outcome = {"ok": False, "broke": f"{type(error).__name__}: {error}"}
        found[name] = {**outcome, "seconds": round(time.monotonic() - began, 1)}
        told = ", ".join(f"{key} {value}" for key, value in found[name].items() if key != "ok")
        print(f"{'holds ' if outcome['ok'] else 'BROKEN'} {name}: {told}", file=sys.stderr, flush=True)
    return {"tries": found, "ok": all(outcome["ok"] for outcome in found.values())}
