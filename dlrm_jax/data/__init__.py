"""What training reads: schema, prepared sets, batches."""
