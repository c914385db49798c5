"""Traces of ids: fitted to a data set, stored, generated at any size."""
