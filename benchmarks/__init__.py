"""Benchmarks: each a command that prints a table and a JSON line."""
