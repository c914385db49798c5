"""Implicit feedback: which items users have, and lists to rank."""
