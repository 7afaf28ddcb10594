"""The long proofs, `./run prove`: many seeds, many kills, hostile peers, size."""
