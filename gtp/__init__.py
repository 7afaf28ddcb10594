"""GTP: GTPv1-C, GTPv2-C and GTP-U; machines without I/O, and one shell around them."""
