"""Readers of raw formats: files to pieces to frames of good rows."""
