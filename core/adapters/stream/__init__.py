"""Streams: an append log on disk, and one in memory for simulations."""
