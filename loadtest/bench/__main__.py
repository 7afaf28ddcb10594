"""``python -m loadtest.bench NAME``: one benchmark by name.

Rule: a benchmark is a module of this package that defines ``main(argv: ...) -> int``; modules without it are
parts of others.
"""

import ast
import importlib
import re
import sys
from collections.abc import Sequence
from pathlib import Path

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """Every benchmark: the modules of this package that define ``main``."""
    sources = sorted(FOLDER.glob("[!_]*.py"))
    return [source.stem for source in sources if "\ndef main(argv: " in source.read_text()]


def summary(name: str) -> str:
    """What a benchmark compares: the first paragraph of its module's docstring."""
    documented = ast.get_docstring(ast.parse((FOLDER / f"{name}.py").read_text())) or ""
    first = " ".join(documented.partition("\n\n")[0].split())
    return re.sub(r"^`+[^`]*`+: ", "", first).replace("``", "")


def main(argv: Sequence[str]) -> int:
    """Run one benchmark; its exit code, 2 when there is no such one."""
    known = names()
    if not argv or argv[0] not in known:
        listed = "\n".join(f"  {name:<11} {summary(name)}" for name in known)
        print(f"usage: ./run bench NAME [--json] [...]\n\n{listed}", file=sys.stderr)
        return 0 if argv and argv[0] in {"-h", "--help"} else 2
    code: int = importlib.import_module(f"loadtest.bench.{argv[0]}").main(argv[1:])
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
