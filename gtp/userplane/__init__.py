"""The user planes: what forwards and counts packets behind ``core.ports.user_plane``."""
