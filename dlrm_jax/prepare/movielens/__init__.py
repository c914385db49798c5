"""MovieLens ratings as a click log."""
