"""Airloom's centre: the domain, the ports, the services, the adapters and the customer API."""
