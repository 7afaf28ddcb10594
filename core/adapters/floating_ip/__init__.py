"""Adapters that move a gateway instance's address to this host."""
