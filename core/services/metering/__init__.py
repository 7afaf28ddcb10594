"""From counters to durable usage, its days and its statistics."""
