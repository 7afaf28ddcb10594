"""The GTP doors and the user plane: GTPv1-C, GTP-U; protocol machines without I/O, one shell around them."""
