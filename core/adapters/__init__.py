"""The world behind the ports: stores, streams, sockets, clocks. Chosen in ``airloom/app.py`` only."""
