"""Values of a raw column -> rows of a table; NumPy and Polars only."""
