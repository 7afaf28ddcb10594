"""GTP-U (TS 29.281): codec. Pure."""
