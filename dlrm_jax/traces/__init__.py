"""Traces of ids: fitted to a data set, stored, and generated at any size."""
