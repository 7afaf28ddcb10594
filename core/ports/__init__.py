"""The seams: what services and doors need from the world, as Protocols. No implementation lives here."""
