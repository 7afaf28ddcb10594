"""What use cases and front ends need from the outside world, as Protocols without implementations."""
