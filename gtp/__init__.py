"""The GTP doors and the user plane: GTPv1-C, GTPv2-C, GTP-U; machines without I/O, one shell around them."""
