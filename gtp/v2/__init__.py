"""GTPv2-C: codec and machine (TS 29.274). Pure."""
