"""The `airloom` program: the composition root, and the command line."""
