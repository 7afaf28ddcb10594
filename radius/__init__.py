"""The RADIUS door. Empty until its issue: nothing here is claimed to work."""
