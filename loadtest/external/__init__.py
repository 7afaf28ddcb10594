"""Real parts by others, started for end-to-end tests and benchmarks, and the networks they stand in."""
