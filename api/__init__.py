"""The customer REST API, compatible with SORACOM's public contract."""
