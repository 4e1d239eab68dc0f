"""A network link of a given round-trip time between schedulers and database."""
