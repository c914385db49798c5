"""The stages of prepare, each a function and its units."""
