"""The `airloom` command."""

from airloom.cli.program import main

__all__ = ["main"]
