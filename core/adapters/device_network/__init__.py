"""The device network in a network namespace of its own."""
