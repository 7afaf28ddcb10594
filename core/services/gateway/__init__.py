"""A gateway instance while this node holds it: its lease term, and what it allocates."""
