"""Several nodes as one: who holds what, what is one node's to do, and calls between them."""
