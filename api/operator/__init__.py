"""The control channel: what serves operators, load balancers and other nodes."""
