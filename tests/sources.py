"""The sources of the tree, each parsed once in a process, for the tests that read them."""

import ast
import gc
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    """Every node of a file, as ``ast.walk`` yields them: the module first."""
    was_enabled = gc.isenabled()
    gc.disable()  # a new tree holds no garbage; looking for some takes twice as long as parsing
    try:
        return tuple(ast.walk(ast.parse(path.read_text())))
    finally:
        if was_enabled:
            gc.enable()


def tree(path: Path) -> ast.Module:
    """The module of a file."""
    module = nodes(path)[0]
    assert isinstance(module, ast.Module)
    return module
