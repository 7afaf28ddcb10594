"""The seams: what services and front ends need from the world, as Protocols. No implementation lives here."""
