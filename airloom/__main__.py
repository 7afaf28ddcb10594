"""`python -m airloom`."""

from airloom.cli import main

main()
