"""Adapters that move a virtual gateway's address to this host."""
