"""From raw logs to batches: schema, prepared sets, readers, loader."""
