"""Metrics as tallies that can be added: AUC, log-loss, calibration."""
