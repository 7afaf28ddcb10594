"""The verbs: what Airloom does, in terms of the domain and the ports. asyncio's tasks and locks, no I/O."""
