"""What every loop and use case runs by: faults, recurring trouble, locks, ids, the audit."""
