"""The laboratory: simulated peers and devices, the demo, the virtual world, benchmarks. Stands above all."""
