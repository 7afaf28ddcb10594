"""Entry points of the device edge."""
