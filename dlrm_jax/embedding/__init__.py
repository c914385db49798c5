"""Embedding tables: what they are, where rows live, one read, one write."""
