"""The world behind the ports: stores, streams, sockets, clocks. Chosen in ``core/app.py`` only."""
