"""GTPv1-C: codec and machine (TS 29.060). Pure."""
