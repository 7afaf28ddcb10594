"""GTPv1-C (TS 29.060): codec. Pure."""
