"""From the values of a raw column to rows of a table; NumPy and Polars."""
