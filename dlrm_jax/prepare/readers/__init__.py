"""Readers of raw formats: a file -> pieces -> frames of good rows."""
