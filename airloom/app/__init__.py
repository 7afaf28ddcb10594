"""The composition root: the only place that knows every room and chooses the default adapters."""
