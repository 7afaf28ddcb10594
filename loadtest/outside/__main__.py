"""`python -m loadtest.outside [--tree FOLDER] [NAME ...]`: try what outsiders found, and say how it went."""

import argparse
import json
import sys
from pathlib import Path

from loadtest.outside.tries import ROOT, TRIES, run


def main() -> int:
    """Run the tries that are named, or all; exit code 0 when all hold."""
    parser = argparse.ArgumentParser("python -m loadtest.outside", description=__doc__)
    parser.add_argument("--tree", type=Path, default=ROOT, help="the checkout to try (default: this one)")
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(TRIES)}")
    options = parser.parse_args()
    if unknown := set(options.names) - set(TRIES):
        parser.error(f"{', '.join(sorted(unknown))}: unknown; there are {', '.join(TRIES)}")
    found = run(options.tree, options.names or list(TRIES))
    if options.json:
        print(json.dumps(found))
    return 0 if found["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
