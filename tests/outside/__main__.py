"""`python -m tests.outside [--tree FOLDER] [NAME ...]`: try what outsiders found, and say how it went."""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

from tests.outside.tries import TRIES, Place

ROOT = Path(__file__).resolve().parent.parent.parent


def main() -> int:
    """Run the tries that are named, or all; exit code 0 when all hold."""
    parser = argparse.ArgumentParser("python -m tests.outside", description=__doc__)
    parser.add_argument("--tree", type=Path, default=ROOT, help="the checkout to try (default: this one)")
    parser.add_argument("--json", action="store_true", help="one JSON object for each try")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(TRIES)}")
    options = parser.parse_args()
    bad = 0
    for place, name in enumerate(options.names or TRIES):
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="airloom-outside-") as folder:
            try:
                outcome = TRIES[name](Place(options.tree.resolve(), Path(folder), place))
            except Exception as error:  # noqa: BLE001 - a try that breaks is told as one that does not hold
                outcome = {"ok": False, "broke": f"{type(error).__name__}: {error}"}
        bad += not outcome["ok"]
        row = {"try": name, **outcome, "seconds": round(time.monotonic() - began, 1)}
        if options.json:
            print(json.dumps(row), flush=True)
        else:
            told = ", ".join(f"{key} {value}" for key, value in outcome.items() if key != "ok")
            print(f"{'holds ' if outcome['ok'] else 'BROKEN'} {name}: {told}", flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
