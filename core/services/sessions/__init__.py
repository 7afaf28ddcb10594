"""Packet sessions: who may have one, how it opens, changes and ends, whatever protocol asks for it."""
