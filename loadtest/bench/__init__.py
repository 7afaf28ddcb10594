"""Benchmarks against peers by others, interleaved in one run."""
