"""Queries to a model: when they come, their sizes, how long they take."""
