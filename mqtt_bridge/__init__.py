"""The device edge: what devices speak to inside their tunnel, and the way into the stream."""
