"""Metrics of predictions, on the host."""
