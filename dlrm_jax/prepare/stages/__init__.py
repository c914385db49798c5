"""The stages of `prepare`, each with a function and its units."""
