"""The inside network in a network namespace of its own."""
