"""What customers, and who runs the installation, do with accounts, SIMs and groups."""
