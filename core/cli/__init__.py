"""The `airloom` command."""

from core.cli.program import main

__all__ = ["main"]
