"""The `airloom` command."""
