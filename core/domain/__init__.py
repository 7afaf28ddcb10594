"""The nouns of Airloom: SIM, session, usage, message, money. Standard library only."""
