"""RADIUS, as the server of NASes that carry the traffic themselves: docs/radius.md."""
