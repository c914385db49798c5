"""The HTML report of a run: page, charts, tables."""
