"""The real node in virtual time, and what must hold after every run."""
