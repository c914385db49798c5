"""Values of raw logs: the schema, and rules from raw to typed columns."""
