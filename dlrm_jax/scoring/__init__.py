"""Scoring with what was trained: from a workdir or an export, raw rows in."""
