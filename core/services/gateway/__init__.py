"""A gateway instance while this node holds it: its tenure, and what it lends out."""
