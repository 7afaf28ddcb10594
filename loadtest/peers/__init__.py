"""Simulated peers: SGSN and devices."""
